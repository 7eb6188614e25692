"""Timeouts expire when they are due; time while the program was blocked does not count."""

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_codex._link import timeouts as _timeouts
from trio_codex._link.timeouts import STALL_SECONDS, TICK_SECONDS, Timeouts


class Watched(Timeouts):
    """Timeouts that record what expired and when."""

    def __init__(self):
        super().__init__()
        self.expired = []
        self.began = trio.current_time()

    def begin(self, name, seconds=10):
        return self.start(
            seconds, lambda: self.expired.append((name, pytest.approx(trio.current_time() - self.began)))
        )


@pytest.fixture
async def timeouts(nursery):
    timeouts = Watched()
    nursery.start_soon(timeouts.watch)
    await wait_all_tasks_blocked()
    yield timeouts
    nursery.cancel_scope.cancel()


async def test_each_timeout_expires_at_its_own_time(timeouts, autojump_clock):
    timeouts.begin("a")
    await trio.sleep(4)
    timeouts.begin("b")
    timeouts.begin("c", 0.01)
    await trio.sleep(100)
    assert timeouts.expired == [("c", 4.01), ("a", 10), ("b", 14)]


async def test_a_timeout_that_has_ended_does_not_expire(timeouts, autojump_clock):
    a, b, _ = (timeouts.begin(name) for name in "abc")
    timeouts.end(a)
    timeouts.end(a)
    await trio.sleep(1)
    timeouts.end(b)
    await trio.sleep(100)
    assert timeouts.expired == [("c", 10)]


async def test_an_expiring_timeout_may_end_another_one_that_is_due(timeouts, autojump_clock):
    second = None
    timeouts.start(10, lambda: timeouts.end(second))
    second = timeouts.begin("second")
    await trio.sleep(100)
    assert timeouts.expired == []


async def test_the_watch_is_idle_while_nothing_is_pending(timeouts, autojump_clock):
    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task):
            Steps.count += task.name.endswith("watch")

    trio.lowlevel.add_instrument(Steps())
    for _ in range(1000):
        timeouts.end(timeouts.begin("a"))
        await trio.sleep(10 * TICK_SECONDS)
    assert Steps.count <= 4 * 1000
    before = Steps.count
    await trio.sleep(10**6)
    assert Steps.count == before
    assert timeouts.expired == []


async def test_an_infinite_timeout_never_expires(timeouts, autojump_clock):
    timeouts.end(timeouts.begin("a", math.inf))
    timeouts.begin("b", math.inf)
    await trio.sleep(10**6)
    assert timeouts.expired == []


async def test_a_scope_is_cancelled_when_its_timeout_expires(timeouts, autojump_clock):
    with timeouts.move_on_after(5) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - timeouts.began == pytest.approx(5)
    with timeouts.move_on_after(5) as scope:
        await trio.sleep(1)
    await trio.sleep(100)
    assert not scope.cancel_called


async def test_a_sleep_lasts_as_long_as_requested(timeouts, autojump_clock):
    await timeouts.sleep(3600)
    assert trio.current_time() - timeouts.began == pytest.approx(3600)
    assert timeouts.listened_since(timeouts.began) == pytest.approx(3600)


# -- stalls --------------------------------------------------------------------------------------------------------


class Program:
    """A program on a mock clock that a test can block: time passes while Trio runs no task."""

    def __init__(self):
        self.clock = MockClock(autojump_threshold=0)
        self.system = 0.0

    def monotonic(self):
        return self.system

    def block(self, seconds, system=None):
        """Advance Trio's clock, and the system clock by the same time or by ``system`` seconds."""
        self.clock.jump(seconds)
        self.system += seconds if system is None else system


def run(monkeypatch, async_fn):
    program = Program()
    monkeypatch.setattr(_timeouts, "time", program)

    async def main():
        timeouts = Watched()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timeouts.watch)
            await wait_all_tasks_blocked()
            await async_fn(timeouts, program)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=program.clock)


def test_the_time_of_a_stall_is_added_to_every_pending_timeout_and_logged(monkeypatch, caplog):
    async def blocked(timeouts, program):
        timeouts.begin("a", 10)
        timeouts.begin("b", 30)
        await trio.sleep(4.1)
        program.block(100)
        await trio.sleep(1)
        assert timeouts.expired == []
        await trio.sleep(100)
        [(_, a), (_, b)] = timeouts.expired
        # The tick in which the stall began counts.
        assert 110 - TICK_SECONDS <= a.expected <= 110
        assert b.expected - a.expected == pytest.approx(20)
        assert timeouts.listened_since(timeouts.began) == pytest.approx(
            trio.current_time() - timeouts.began - 100, abs=TICK_SECONDS
        )
        assert timeouts.listened_since(trio.current_time() - 1) == pytest.approx(1)

    run(monkeypatch, blocked)
    [record] = caplog.records
    assert "the event loop was blocked for 9" in record.message


def test_a_stall_between_the_start_of_a_timeout_and_the_next_step_of_the_watch_is_noticed(monkeypatch):
    async def blocked(timeouts, program):
        timeouts.begin("a", 10)
        program.block(100)
        await trio.sleep(1)
        assert timeouts.expired == []
        # This time, an earlier timeout is pending, so the watch is in one of its own sleeps.
        program.block(100)
        timeouts.begin("b", 0.01)
        await trio.sleep(5)
        assert [name for name, _ in timeouts.expired] == ["b"]
        await trio.sleep(10)
        assert [name for name, _ in timeouts.expired] == ["b", "a"]

    run(monkeypatch, blocked)


@pytest.mark.parametrize(("trio_seconds", "system_seconds"), [(100, 0), (100, STALL_SECONDS / 2)])
def test_time_that_passes_on_only_one_clock_is_not_a_stall(monkeypatch, caplog, trio_seconds, system_seconds):
    async def jumped(timeouts, program):
        timeouts.begin("a", 10)
        await trio.sleep(1)
        program.block(trio_seconds, system_seconds)
        await wait_all_tasks_blocked()
        assert [name for name, _ in timeouts.expired] == ["a"]

    run(monkeypatch, jumped)
    assert caplog.records == []


def test_a_repeatedly_blocked_program_still_gets_its_timeout(monkeypatch):
    async def hogged(timeouts, program):
        timeouts.begin("a", 10)
        for _ in range(200):
            await trio.sleep(TICK_SECONDS)
            program.block(1)
        assert len(timeouts.expired) == 1

    run(monkeypatch, hogged)


async def test_nothing_expires_while_the_reader_has_bytes_to_read(timeouts, autojump_clock):
    expired_after = []

    async def read():
        for _ in range(50):
            timeouts.reads += 1
            timeouts.reader_is_busy = True
            await trio.lowlevel.checkpoint()
            timeouts.reader_is_busy = False
            expired_after.append(len(timeouts.expired))
            await trio.lowlevel.checkpoint()

    timeouts.begin("a", 1)
    await trio.sleep(1)
    await read()
    assert expired_after == [0] * 50
    await wait_all_tasks_blocked()
    assert [name for name, _ in timeouts.expired] == ["a"]


async def test_a_pipe_that_is_never_empty_delays_timeouts_by_at_most_a_tick(nursery):
    timeouts = Watched()
    nursery.start_soon(timeouts.watch)

    @nursery.start_soon
    async def read():
        while True:
            timeouts.reads += 1
            await trio.lowlevel.checkpoint()

    with trio.fail_after(5):
        await timeouts.sleep(0.01)
    nursery.cancel_scope.cancel()
