"""Retries: which failures are retried, when, and which never are."""

import contextlib
import contextvars
import functools
import logging
import math
import random

import pytest
import trio

from trio_codex import errors, is_retryable_error, retry_on_overload, wire
from trio_codex._core.rpc import rpc_error
from trio_codex.instruments import Instrument, LogInstrument, StatsInstrument
from trio_codex.testing import fake_codex

BUSY = "Server overloaded; the retry limit was reached."
"""The client raises this overload error immediately. It retries all others itself, until the timeout."""


def busy():
    return rpc_error(-32001, BUSY, None, "thread/list")


class Flaky:
    """Fails a number of times, and records when it is called."""

    def __init__(self, failures, error=busy):
        self.failures = failures
        self.error = error
        self.called_at = []

    async def __call__(self):
        await trio.lowlevel.checkpoint()
        self.called_at.append(trio.current_time())
        if len(self.called_at) <= self.failures:
            raise self.error()
        return "done"

    @property
    def delays(self):
        return [later - earlier for earlier, later in zip(self.called_at, self.called_at[1:], strict=False)]


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (busy(), True),
        (rpc_error(-32001, BUSY, {"anything": 1}), True),
        (rpc_error(-32603, "server overloaded"), False),
        (rpc_error(-32600, "no"), False),
        (errors.RequestTimeout("turn/start", 1), False),
        (errors.ConnectionBroken("gone"), False),
        (ExceptionGroup("several", [busy()]), False),
        (KeyboardInterrupt(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_the_overload_code_is_retryable(error, retryable):
    assert is_retryable_error(error) is retryable


async def test_an_overload_is_retried_with_growing_delays(autojump_clock):
    fn = Flaky(4)
    assert await retry_on_overload(fn, attempts=5, initial_delay=1, max_delay=3, jitter=0) == "done"
    assert fn.delays == pytest.approx([1, 2, 3, 3])


@pytest.mark.parametrize("failures", [0, 1, 9])
async def test_the_callers_context_is_unchanged(failures, autojump_clock):
    before = dict(contextvars.copy_context())
    with contextlib.suppress(errors.ServerBusyError):
        await retry_on_overload(Flaky(failures))
    assert dict(contextvars.copy_context()) == before


async def test_jitter_varies_within_its_bounds(autojump_clock):
    random.seed(7)
    fn = Flaky(50)
    await retry_on_overload(fn, attempts=51, initial_delay=1, max_delay=1, jitter=0.5)
    assert all(0.5 <= delay <= 1.5 for delay in fn.delays)
    assert max(fn.delays) - min(fn.delays) > 0.5


async def test_the_last_failure_is_raised_unchanged(autojump_clock):
    fn = Flaky(99)
    with pytest.raises(errors.ServerBusyError):
        await retry_on_overload(fn, attempts=3)
    assert len(fn.called_at) == 3


async def test_other_errors_are_raised_immediately():
    fn = Flaky(99, lambda: rpc_error(-32600, "no"))
    with pytest.raises(errors.InvalidRequestError):
        await retry_on_overload(fn)
    assert len(fn.called_at) == 1


async def test_a_wait_can_be_cancelled():
    fn = Flaky(99)
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: retry_on_overload(fn, attempts=9, initial_delay=1000, max_delay=math.inf)
            )
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert len(fn.called_at) == 1


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"initial_delay": -1}, {"max_delay": -1}, {"jitter": 2}], ids=str
)
async def test_invalid_settings_are_refused_before_anything_is_called(wrong):
    fn = Flaky(0)
    with pytest.raises(ValueError, match="must"):
        await retry_on_overload(fn, **wrong)
    assert fn.called_at == []


async def test_a_rejected_turn_start_is_retried():
    with trio.fail_after(5):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            thread = await codex.thread_start()
            results = []

            async def body():
                results.append(await retry_on_overload(lambda: thread.run("hi"), initial_delay=0))

            nursery.start_soon(body)
            await (await server.expect("turn/start")).refuse(BUSY, -32001)
            await server.accept_turn()
            await server.end_turn()
            await trio.testing.wait_all_tasks_blocked()
            assert results[0].status == "completed"


@pytest.mark.parametrize("nested", [False, True], ids=["directly", "within another retry"])
async def test_nothing_is_repeated_once_a_turn_was_accepted(nested):
    with trio.fail_after(5):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            thread = await codex.thread_start()
            caught = []

            async def work():
                async with thread.turn("hi") as turn:
                    await turn.steer("more")

            async def body():
                try:
                    if nested:
                        await retry_on_overload(lambda: retry_on_overload(work), initial_delay=0)
                    else:
                        await retry_on_overload(work, initial_delay=0)
                except errors.ServerBusyError as exc:
                    caught.append(exc)

            nursery.start_soon(body)
            await server.accept_turn()
            await (await server.expect("turn/steer")).refuse(BUSY, -32001)
            await (await server.expect("turn/interrupt")).answer({})
            await server.end_turn(status="interrupted")
            await trio.testing.wait_all_tasks_blocked()
            assert len(caught) == 1
            assert server.unexpected() == []


@pytest.mark.parametrize("how", ["goal", "shell command", "typed request", "any request"])
async def test_nothing_is_repeated_once_any_request_may_have_started_work(how, autojump_clock):
    goal = {
        "threadId": "thread-1", "objective": "reach it", "status": "complete", "tokensUsed": 0,
        "timeUsedSeconds": 0, "createdAt": 0, "updatedAt": 0,
    }  # fmt: skip
    with trio.fail_after(5):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            server.give("thread/goal/clear", {"cleared": False})
            server.give("thread/goal/set", {"goal": goal})
            server.give("thread/shellCommand", {})
            server.give("turn/start", {"turn": {"id": "turn-1", "items": [], "status": "inProgress"}})
            thread = await codex.thread_start()
            begun, caught, over = [], [], trio.Event()

            async def work():
                begun.append(how)
                if how == "goal":
                    async with thread.goal("reach it"):
                        await codex.models()
                elif how == "shell command":
                    # In an open turn, the request does not start another one.
                    with trio.move_on_after(0.01):
                        await thread.shell_command("ls")
                    await codex.models()
                elif how == "typed request":
                    await codex.api.turn.start(thread_id="thread-1", input=[wire.TextUserInput(text="hi")])
                    await codex.models()
                else:
                    await codex.request("turn/start", {"threadId": "thread-1", "input": []})
                    await codex.models()

            async def body():
                with pytest.raises(errors.ServerBusyError) as refused:
                    await retry_on_overload(work, initial_delay=0)
                caught.append(refused.value)
                over.set()

            if how == "shell command":
                await server.start_turn("other")
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(body)
            await (await server.expect("model/list")).refuse(BUSY, -32001)
            await over.wait()
            assert (len(begun), len(caught)) == (1, 1)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("turn/start", {"threadId": "thread-1", "input": []}),
        ("thread/shellCommand", {"threadId": "thread-1", "command": "ls"}),
    ],
)
async def test_a_rejected_plain_request_is_sent_again(method, params):
    with trio.fail_after(5):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            answers = []

            async def body():
                request = functools.partial(codex.request, method, params)
                answers.append(await retry_on_overload(request, initial_delay=0))

            nursery.start_soon(body)
            await (await server.expect(method)).refuse(BUSY, -32001)
            await (await server.expect(method)).answer({})
            await trio.testing.wait_all_tasks_blocked()
            assert answers == [{}]


# -- notifications
# -------------------------------------------------------------------------------------------------------


class Retries(Instrument):
    def __init__(self):
        self.told = []

    def request_retried(self, method, attempt, delay):
        self.told.append((method, attempt, delay))


async def refuse(server, *methods):
    for method in methods:
        await (await server.expect(method)).refuse(BUSY, -32001)


@pytest.mark.parametrize(
    ("method", "ask"),
    [
        ("model/list", lambda codex: codex.models()),
        ("thread/start", lambda codex: codex.thread_start()),
        ("thread/list", lambda codex: codex.request("thread/list", {})),
    ],
    ids=["a typed request", "one that is undone", "a raw one"],
)
async def test_the_instruments_of_the_refused_client_are_notified(method, ask, caplog, autojump_clock):
    caplog.set_level(logging.INFO, "trio_codex.activity")
    refused, other, stats = Retries(), Retries(), StatsInstrument()
    async with (
        fake_codex(instruments=[refused, stats, LogInstrument()]) as (codex, server),
        fake_codex(instruments=[other]) as (idle, _),
        trio.open_nursery() as nursery,
    ):
        server.take_over(method)

        async def fn():
            await idle.thread_start()
            await ask(codex)

        async def serve():
            await refuse(server, method, method)
            await (await server.expect(method)).answer()

        nursery.start_soon(serve)
        await retry_on_overload(fn, initial_delay=1, jitter=0)
    assert refused.told == [(method, 1, 1), (method, 2, 2)]
    assert other.told == []
    assert stats.snapshot().retries == 2
    told = [record.getMessage() for record in caplog.records if "will be retried" in record.getMessage()]
    assert told == [
        f"{method} will be retried in 1.000 s, after failed attempt 1",
        f"{method} will be retried in 2.000 s, after failed attempt 2",
    ]


async def test_rejected_turns_and_nested_retries_are_reported(autojump_clock):
    retries = Retries()
    async with fake_codex(instruments=[retries]) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def serve():
            await refuse(server, *["turn/start"] * 3)
            await server.accept_turn()
            await server.end_turn()

        nursery.start_soon(serve)
        await retry_on_overload(
            lambda: retry_on_overload(lambda: thread.run("hi"), attempts=2, initial_delay=1, jitter=0),
            attempts=2,
            initial_delay=5,
            max_delay=5,
            jitter=0,
        )
    assert retries.told == [("turn/start", 1, 1), ("turn/start", 1, 5), ("turn/start", 1, 1)]


async def test_only_retries_are_reported(autojump_clock):
    retries = Retries()
    async with fake_codex(instruments=[retries]) as (codex, server), trio.open_nursery() as nursery:
        for method in ("model/list", "account/read"):
            server.take_over(method)
        nursery.start_soon(refuse, server, "model/list")
        with pytest.raises(errors.ServerBusyError):
            await retry_on_overload(codex.models, attempts=1)
        fn = Flaky(1)  # its error does not come from a client
        await retry_on_overload(fn)
    assert retries.told == []
