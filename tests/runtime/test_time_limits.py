"""What takes too long expires then, and what is done does not."""

import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_codex._runtime._deadlines import Deadlines


@pytest.fixture
async def limits(nursery):
    expired = []
    limits = Deadlines(10, lambda key: expired.append((key, trio.current_time())))
    limits.expired = expired
    nursery.start_soon(limits.watch)
    await wait_all_tasks_blocked()
    limits.start = trio.current_time()
    yield limits
    nursery.cancel_scope.cancel()


def times(limits):
    return [(key, pytest.approx(when - limits.start)) for key, when in limits.expired]


async def test_each_has_its_own_time(limits, autojump_clock):
    limits.begin("a")
    await trio.sleep(4)
    limits.begin("b")
    limits.begin("c")
    await trio.sleep(100)
    assert times(limits) == [("a", 10), ("b", 14), ("c", 14)]
    limits.begin("d")
    await trio.sleep(100)
    assert times(limits)[3:] == [("d", 114)]


async def test_what_was_done_in_time_does_not_expire(limits, autojump_clock):
    for key in "abc":
        limits.begin(key)
        await trio.sleep(1)
    limits.end("a")
    limits.end("c")
    limits.end("no such")
    await trio.sleep(100)
    assert times(limits) == [("b", 11)]


async def test_what_is_done_before_the_watch_has_run_leaves_it_waiting(limits, autojump_clock):
    limits.begin("a")
    limits.end("a")
    await trio.sleep(1)
    limits.begin("b")
    await trio.sleep(100)
    assert times(limits) == [("b", 11)]


async def test_the_watch_sleeps_through_what_is_done_in_time(limits, autojump_clock):
    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task):
            Steps.count += task.name.endswith("watch")

    trio.lowlevel.add_instrument(Steps())
    for number in range(1000):
        limits.begin(number)
        await trio.sleep(0.1)
        limits.end(number)
    assert Steps.count <= 25
    assert limits.expired == []


async def test_an_infinite_time_never_ends(autojump_clock, nursery):
    limits = Deadlines(math.inf, pytest.fail)
    nursery.start_soon(limits.watch)
    limits.begin("a")
    await trio.sleep(10**6)
    nursery.cancel_scope.cancel()
