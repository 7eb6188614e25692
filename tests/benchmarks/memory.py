"""Resident memory of a started client compared with bare Python, and of unread events."""

import tracemalloc

from benchmarks import clients
from benchmarks.measuring import resident_kib, run_fresh
from benchmarks.traffic import prepare_results, prepare_turn

TITLE = "Memory"
ROUNDS = 3


def count_of(setting):
    return setting.pick(100_000, 20_000)


def prepare(setting):
    prepare_results(setting.directory)
    prepare_turn(setting.directory, "warm", 1000)
    prepare_turn(setting.directory, "long", count_of(setting))


def started(what, setting):
    """The growth of the client's process from its first line to the end of the handshake."""
    numbers = run_fresh(what, *clients.server_command(setting.directory))
    guard = {"its guard, MiB": numbers["child MiB"]} if what == "trio-codex" else {}
    return {"started, MiB": numbers["MiB"]} | guard


def summarize(before, setting):
    return {"unread, MiB": (resident_kib() - before) / 1024}


def trio_unread(setting):
    """A turn that nothing iterates over. The response to a later request marks the end of its events."""

    async def body(codex):
        thread = await codex.thread_start()
        await thread.run("warm")
        before = resident_kib()
        async with thread.turn("long") as turn:
            await codex.models()
            numbers = summarize(before, setting)
            assert turn.result.status == "completed"
            return numbers

    return clients.run_trio(body, setting.directory)


def trio_unread_traced(setting):
    """Like :func:`trio_unread`, but as counted by Python's allocator, at the end and at the peak."""

    async def body(codex):
        thread = await codex.thread_start()
        await thread.run("warm")
        tracemalloc.start()
        async with thread.turn("long"):
            await codex.models()
            held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return {"unread, MiB": held / 2**20, "unread at most, MiB": peak / 2**20}

    return clients.run_trio(body, setting.directory)


def async_unread(setting):
    async def body(codex):
        thread = await codex.thread_start()
        await thread.run("warm")
        before = resident_kib()
        turn = await thread.turn("long")
        await codex.models()
        numbers = summarize(before, setting)
        async for _ in turn.stream():
            break
        return numbers

    return clients.run_async_sdk(body, setting.directory)


CASES = {
    "trio-codex": lambda setting: started("trio-codex", setting),
    "AsyncCodex": lambda setting: started("AsyncCodex", setting),
    "Codex": lambda setting: started("Codex", setting),
    "trio-codex, unread": trio_unread,
    "trio-codex, unread, traced": trio_unread_traced,
    "AsyncCodex, unread": async_unread,
}
