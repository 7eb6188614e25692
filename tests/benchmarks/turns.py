"""Many concurrent turns on one connection with interleaved events, and the cost of a turn that only waits.

The pipe holds 1 MiB here, so one read returns events of many turns.
"""

import contextlib
import tracemalloc
from functools import partial

from benchmarks import clients
from benchmarks.measuring import Stopwatch, resident_kib
from benchmarks.traffic import prepare_results, prepare_turns

TITLE = "Turns at once"
ROUNDS = 5

COUNTS = (1, 10, 100, 1000)
IDLE = 1000


def total_of(setting):
    return setting.pick(60_000, 10_000)


def prepare(setting):
    prepare_results(setting.directory)
    for count in COUNTS:
        prepare_turns(setting.directory, f"warm-{count}", count, 3 * count)
        prepare_turns(setting.directory, f"many-{count}", count, total_of(setting))


async def run_turns(threads, text):
    """Run a turn on each thread, each iterated by its own task. Return the number of events, and the time they took.

    The clock starts when the last turn has been entered.
    """
    import trio

    entered = seen = 0
    watch = Stopwatch()

    async def run(thread):
        nonlocal entered, seen
        async with thread.turn(text) as turn:
            entered += 1
            if entered == len(threads):
                watch.start()
            async for event in turn:
                seen += event.merged

    async with trio.open_nursery() as nursery:
        for thread in threads:
            nursery.start_soon(run, thread)
    watch.stop()
    return seen, watch


def busy(count, setting):
    async def body(codex):
        threads = [await codex.thread_start() for _ in range(count)]
        for name in ("warm", "many"):
            seen, watch = await run_turns(threads, f"{name}-{count} {count}")
        expected = total_of(setting)
        assert seen == expected, f"{seen} of {expected} events"
        return {"events/s": seen / watch.wall, "cpu µs/event": 1e6 * watch.cpu / seen}

    return clients.run_trio(body, setting.directory, clients.PIPE_BYTES)


async def warmed(codex, threads):
    """Open and leave some turns, so that one-time costs are not measured."""
    async with contextlib.AsyncExitStack() as stack:
        for thread in threads[:10]:
            await stack.enter_async_context(thread.turn("idle warm"))


def idle(setting):
    """Resident memory per open turn, including its thread."""

    async def body(codex):
        await warmed(codex, [await codex.thread_start() for _ in range(10)])
        before = resident_kib()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(IDLE):
                thread = await codex.thread_start()
                await stack.enter_async_context(thread.turn("idle"))
            return {"KiB/turn": (resident_kib() - before) / IDLE}

    return clients.run_trio(body, setting.directory)


def idle_traced(setting):
    """The same growth as counted by Python's allocator, which excludes free memory held by the C library."""

    async def body(codex):
        await warmed(codex, [await codex.thread_start() for _ in range(10)])
        tracemalloc.start()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(IDLE):
                thread = await codex.thread_start()
                await stack.enter_async_context(thread.turn("idle"))
            used, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return {"KiB/turn": used / 1024 / IDLE}

    return clients.run_trio(body, setting.directory)


def waiting(setting):
    """The same with a waiting task for each turn, as in a program that runs many turns."""
    import trio

    async def body(codex):
        await warmed(codex, [await codex.thread_start() for _ in range(10)])
        entered = 0
        all_entered = trio.Event()

        async def wait():
            nonlocal entered
            thread = await codex.thread_start()
            async with thread.turn("idle") as turn:
                await turn.__anext__()  # its announcement
                entered += 1
                if entered == IDLE:
                    all_entered.set()
                await turn.__anext__()

        before = resident_kib()
        async with trio.open_nursery() as nursery:
            for _ in range(IDLE):
                nursery.start_soon(wait)
            await all_entered.wait()
            used = resident_kib() - before
            nursery.cancel_scope.cancel()
        return {"KiB/turn": used / IDLE}

    return clients.run_trio(body, setting.directory)


CASES = {
    **{f"{count} at once": partial(busy, count) for count in COUNTS},
    "idle": idle,
    "idle, traced": idle_traced,
    "idle, with a task each": waiting,
}
