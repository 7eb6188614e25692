"""Hundreds of sessions that end in every way, and one session of a thousand turns: no resources accumulate."""

import faulthandler
import gc
import os
import random
import signal
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
import trio

from process.running_server import descriptors, until
from trio_codex import CodexConfig, TurnStatus, errors, open_codex
from trio_codex._process import guard as _guard
from trio_codex.testing import MockModel, Response, Text, offline_home
from trio_codex.testing._serve import FIRST_BYTE_TIMEOUT

pytestmark = [
    pytest.mark.real,
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

MEMORY_GROWTH = 1024 * 1024
"""How many bytes the library may allocate after the warm-up. Caches of hooks grow; turns and sessions leave nothing."""


class Stop(Exception):
    pass


def held_by_the_library():
    """Return the number of live bytes that the library has allocated, without its testing package."""
    gc.collect()
    root = Path(sys.modules["trio_codex"].__file__).parent
    ours = tracemalloc.Filter(True, f"{root}/*")
    stand_ins = tracemalloc.Filter(False, f"{root}/testing/*")
    snapshot = tracemalloc.take_snapshot().filter_traces([ours, stand_ins])
    return sum(trace.size for trace in snapshot.traces)


def inventory():
    """Return the resources of this process, except sockets, which the scripted model closes with a delay."""
    gc.collect()
    children = {process.pid for process in _guard.descendants(os.getpid())}
    open_now = {(fd, link) for fd, link in descriptors().items() if not link.startswith("socket:")}
    return open_now | {*threading.enumerate()} | children


def sockets():
    return sum(link.startswith("socket:") for link in descriptors().values())


async def until_as_few_sockets(count):
    """Wait for the scripted model to close its connections to servers that have exited.

    After the end of a client, Hypercorn now and then keeps the connection for as long as an idle one.
    """
    with trio.fail_after(FIRST_BYTE_TIMEOUT + 10):
        await until(lambda: sockets() <= count)


@pytest.fixture
def traced():
    faulthandler.cancel_dump_traceback_later()  # this test takes more than a minute, which would look like a deadlock
    tracemalloc.start()
    yield
    tracemalloc.stop()


# -- two hundred sessions ----------------------------------------------------------------------------------------------


WAYS = ("run", "cancelled turn", "exception", "killed", "closed early", "no turn", "open turn")


async def use(codex, how, dice):
    """Use a client, and end its session in the given way."""
    thread = await codex.thread_start()
    match how:
        case "run":
            assert (await thread.run("go")).status is TurnStatus.completed
        case "cancelled turn":
            with trio.move_on_after(dice.uniform(0, 0.3)):
                await thread.run("go on")
        case "exception":
            async with thread.turn("go on"):
                raise Stop
        case "killed":
            async with thread.turn("go on"):
                os.kill(codex.pid, signal.SIGKILL)
                await codex.wait_closed()
        case "closed early":
            async with thread.turn("go on"):
                await codex.aclose()
        case "open turn":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(thread.run, "go on")
                await trio.sleep(dice.uniform(0, 0.2))
                nursery.cancel_scope.cancel()


async def test_two_hundred_sessions_leave_nothing_in_this_process_however_they_end(traced, capsys):
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(1 << 32))
    dice = random.Random(seed)
    with capsys.disabled():
        sys.stdout.write(f"\nSOAK_SEED={seed}\n")
    met = set()
    with trio.fail_after(600):
        async with MockModel() as model:
            model.default = Response(Text("done"))
            model.script("go on", default=Response(Text("working"), model.gate()))
            with offline_home(model) as home:
                config = CodexConfig(env=home.env, inherit_env=False)
                before, sockets_before = inventory(), sockets()
                for number in range(220):
                    if number == 20:  # one-time allocations are done
                        held = held_by_the_library()
                    with trio.CancelScope() as scope:
                        if dice.random() < 0.2:
                            scope.deadline = trio.current_time() + dice.uniform(0, 0.4)
                        try:
                            async with open_codex(config) as codex:
                                met.add(how := dice.choice(WAYS))
                                await use(codex, how, dice)
                        except (Stop, errors.TurnLost):
                            pass
                    if scope.cancelled_caught:
                        met.add("cancelled session")
                assert inventory() == before
                await until_as_few_sockets(sockets_before)
                assert held_by_the_library() - held < MEMORY_GROWTH
    assert met == {*WAYS, "cancelled session"}


# -- a thousand turns --------------------------------------------------------------------------------------------------


async def test_a_session_uses_no_more_resources_after_a_thousand_turns_than_after_a_hundred(traced):
    with trio.fail_after(900):
        async with MockModel() as model:
            model.default = Response(Text("an", "answer"))
            with offline_home(model) as home:
                config = CodexConfig(env=home.env, inherit_env=False)
                async with open_codex(config) as codex:
                    for number in range(50):  # the server keeps every thread until it is archived
                        if number == 5:
                            before, held = inventory(), held_by_the_library()
                        async with await codex.thread_start() as thread:
                            for _ in range(20):
                                assert (await thread.run("go")).final_response == "ananswer"
                            await thread.archive()
                    assert inventory() == before
                    assert held_by_the_library() - held < MEMORY_GROWTH
                    assert codex._session.connection.calls.in_flight == 0
                    assert list(codex._session.threads) == []
