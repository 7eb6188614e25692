"""Restart limits, checked against the examples in OTP's documentation, and limits on open turns."""

import contextvars
import math
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from trio_codex import Attachment, Backoff, Restart, errors, open_supervisor
from trio_codex.supervision import _generations
from trio_codex.supervision._limit import RestartLimit
from trio_codex.supervision._scope import with_task
from trio_codex.supervision._turnstile import Turnstile
from trio_codex.testing import Kills, fake_codex
from trio_codex.testing._stored_server import StoredServer


def restarts_until_given_up(restart, times):
    limit = RestartLimit(restart, counted=True)
    for number, now in enumerate(times):
        limit.up()
        if limit.delay(now) is None:
            return number
    return None


def test_a_burst_may_reach_the_restart_limit_but_not_exceed_it():
    # OTP's "Tuning the Intensity and Period": intensity 1 and period 6 tolerate one crash every 6 s, and no burst.
    assert restarts_until_given_up(Restart(max_restarts=1, period=6), [0, 0.1]) == 1
    assert restarts_until_given_up(Restart(max_restarts=1, period=6), range(0, 700, 7)) is None
    # Intensity 10 and period 60 tolerate the same rate, and a burst of ten.
    assert restarts_until_given_up(Restart(max_restarts=10, period=60), range(0, 700, 7)) is None
    assert restarts_until_given_up(Restart(max_restarts=10, period=60), [0.1 * n for n in range(20)]) == 10
    # Intensity 5 and period 30 tolerate one crash every 6 s, but not every 5 s.
    assert restarts_until_given_up(Restart(max_restarts=5, period=30), [5.1 * n for n in range(200)]) == 5
    assert restarts_until_given_up(Restart(max_restarts=5, period=30), [6.1 * n for n in range(200)]) is None


def test_with_no_restarts_allowed_the_first_crash_is_final():
    assert restarts_until_given_up(Restart(max_restarts=0), [5]) == 0


def test_the_defaults_survive_an_outage_of_two_minutes():
    limit, now = RestartLimit(Restart(), counted=True), 0.0
    while (delay := limit.delay(now)) is not None:
        now += delay
    assert 120 <= now <= 125


def test_the_first_restart_is_immediate_and_later_ones_back_off_up_to_a_maximum():
    backoff = Backoff(first=0, then=0.5, factor=2, maximum=30)
    assert [backoff.delay(n) for n in range(1, 10)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert Backoff().delay(10**9) == Backoff(factor=1e300).delay(10**9) == 30


def test_backoff_is_reset_after_the_server_was_healthy_for_a_period():
    limit = RestartLimit(Restart(period=300), counted=True)
    assert [limit.delay(now) for now in (0, 1, 2)] == [0, 0.5, 1]
    assert limit.delay(303) == 0


@given(
    st.lists(st.floats(0, 50), max_size=60),
    st.integers(0, 8),
    st.floats(0.5, 100),
)
@example([31.03571966278168, 1.3355629292244835], 1, 1.3355629292244835)
def test_no_period_has_more_restarts_than_allowed(gaps, most, period):
    limit, now, restarts = RestartLimit(Restart(max_restarts=most, period=period), counted=True), 0.0, []
    for gap in gaps:
        now += gap
        if limit.delay(now) is None:
            break
        restarts.append(now)
    for first in restarts:
        # Not `first + period`, which is rounded differently.
        assert sum(0 <= time - first <= period for time in restarts) <= most


def test_reconnecting_is_limited_by_time_not_by_count():
    limit, now, delays = RestartLimit(Restart(reconnect_for=100, max_restarts=1), counted=False), 0.0, []
    while (delay := limit.delay(now)) is not None:
        delays.append(delay)
        now += delay
    assert len(delays) > 5
    assert now == pytest.approx(100)
    limit.up()
    assert limit.delay(500.0) == 0


# -- the turnstile -------------------------------------------------------------------------------------------------


async def test_time_in_which_the_program_was_blocked_does_not_count_as_time_without_a_connection(
    autojump_clock, monkeypatch
):
    servers, attempts = [], []

    @asynccontextmanager
    async def attach(*args, **options):
        attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if 1 < len(attempts) < 8:
            raise errors.AttachError("nothing listens there", hint="")
        async with fake_codex(strict=False) as (codex, server):
            servers.append(server)
            yield codex

    monkeypatch.setattr("trio_codex.supervision._generations.attach_codex", attach)
    restart = Restart(reconnect_for=60, backoff=Backoff(first=5, then=5, factor=1, maximum=5))
    with trio.fail_after(2000):
        async with open_supervisor(Attachment("ws://localhost:1"), restart=restart) as supervisor:
            await servers[0].hang_up()
            await trio.sleep(12)
            assert len(attempts) == 3
            autojump_clock.jump(1000)
            await supervisor.ready()
    assert len(attempts) == 8


async def test_time_in_which_the_program_was_blocked_is_not_spent_on_waiting_for_a_thread(
    autojump_clock, monkeypatch
):
    resume, tries = StoredServer._on_thread_resume, []

    def refuse_at_first(self, params):
        tries.append(trio.current_time())
        if len(tries) == 3:
            autojump_clock.jump(1000)
        if len(tries) < 8:
            raise LookupError("thread thread-000001 already has an active writer")
        return resume(self, params)

    async with Kills().supervisor() as supervisor:
        async with supervisor.thread("a") as thread:
            await thread.run("one", key="1")
        monkeypatch.setattr(StoredServer, "_on_thread_resume", refuse_at_first)
        async with supervisor.thread("a") as thread:
            await thread.run("two", key="2")
    assert len(tries) == 8


async def inside(turnstile, name, log, wait, **options):
    await turnstile.enter(name, **options)
    log.append(name)
    await wait.wait()
    turnstile.leave(name)
    log.append(f"-{name}")


async def test_an_exclusive_turn_waits_for_open_turns_and_holds_back_later_ones(autojump_clock):
    turnstile, log, end = Turnstile(), [], trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside, turnstile, "a", log, end)
        await trio.sleep(1)
        alone = trio.Event()
        nursery.start_soon(lambda: inside(turnstile, "b", log, alone, alone=True))
        await trio.sleep(1)
        nursery.start_soon(inside, turnstile, "c", log, end)
        await trio.sleep(1)
        assert log == ["a"]
        end.set()
        await trio.sleep(1)
        assert log == ["a", "-a", "b"]
        assert turnstile.alone == "b"
        alone.set()
    assert log == ["a", "-a", "b", "-b", "c", "-c"]
    assert turnstile.alone is None


def test_openers_left_in_a_context_do_not_add_up():
    for _ in range(3):
        # A face enters and exits a scope in a context of its own, and sets its variables in the context of the caller.
        context, scope = contextvars.copy_context(), _generations.Generations.nesting(object())
        context.run(scope.__enter__)
        _generations._OPENER.set(context[_generations._OPENER])
        context.run(scope.__exit__, None, None, None)
    opener = _generations._OPENER.get()
    assert opener is not None
    assert opener.around is None


async def test_two_exclusive_turns_are_never_open_at_the_same_time(autojump_clock):
    turnstile, open_now = Turnstile(), []

    async def lone(name):
        await turnstile.enter(name, alone=True)
        open_now.append(name)
        await trio.sleep(1)
        assert open_now == [name]
        open_now.remove(name)
        turnstile.leave(name)

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(lone, name)


async def test_a_drain_with_an_invalid_timeout_keeps_nothing_out(autojump_clock):
    with trio.fail_after(60):
        async with Kills().supervisor() as supervisor, supervisor.thread("a") as thread:
            for seconds in (-1, math.nan):
                with pytest.raises(ValueError, match="seconds"):
                    await supervisor.drain(timeout=seconds)
                with pytest.raises(ValueError, match="seconds"):
                    await supervisor.restart("upgrade", drain_timeout=seconds)
            await thread.run("one", key="1")
            assert supervisor.status().state == "ready"
            assert supervisor.generation == 1


async def test_a_drain_waits_for_open_turns_up_to_its_timeout_and_admits_nested_ones(autojump_clock):
    turnstile, log, never, nested = Turnstile(), [], trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside, turnstile, "a", log, never)
        await trio.sleep(1)

        @nursery.start_soon
        async def _():
            await trio.sleep(2)
            await turnstile.enter("inner", nested=True)
            nested.set()
            turnstile.leave("inner")

        started = trio.current_time()
        await turnstile.close(trio.move_on_after(60))
        assert nested.is_set()
        assert trio.current_time() == started + 60
        nursery.start_soon(inside, turnstile, "b", log, never)
        await trio.sleep(10)
        assert log == ["a"]
        turnstile.reopen()
        await trio.sleep(1)
        assert log == ["a", "b"]
        never.set()


async def test_an_exception_that_is_falsy_is_passed_on_by_the_scope_of_a_supervised_turn():
    class Falsy(Exception):
        def __len__(self):
            return 0

    left = []
    with pytest.raises(Falsy):
        async with with_task(trio.sleep_forever, left.append):
            raise Falsy
    assert [type(error) for error in left] == [Falsy]
