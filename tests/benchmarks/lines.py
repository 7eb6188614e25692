"""Time per byte of lines from 1 KiB to 64 MiB with the same total size, compared with only reading and parsing them."""

from pathlib import Path

from benchmarks import clients
from benchmarks.app_server import ended, notification, started, thread_id, turn_id
from benchmarks.measuring import Stopwatch
from benchmarks.traffic import prepare_results

TITLE = "Time per byte"
ROUNDS = 5

KIB = 1024
SIZES = {
    "1 KiB": KIB,
    "16 KiB": 16 * KIB,
    "256 KiB": 256 * KIB,
    "4 MiB": 4096 * KIB,
    "32 MiB": 32 * KIB * KIB,
    "64 MiB": 64 * KIB * KIB,
}
TOTAL = 64 * KIB * KIB
SENTENCE = "All work and no play makes Jack a dull boy. "


def prepare_lines(directory, name, size, count):
    """Write the stream ``name``: the start of a turn, this many lines of this length, and its end."""
    thread = thread_id(1)
    where = {"threadId": thread, "turnId": turn_id(thread, name), "itemId": "call_1"}
    method = "item/commandExecution/outputDelta"
    room = size - len(notification(method, **where, delta=""))
    line = notification(method, **where, delta=(SENTENCE * (1 + room // len(SENTENCE)))[:room])
    with (Path(directory) / name).open("wb") as file:
        file.write(started(thread, name))
        for _ in range(count):
            file.write(line)
        file.write(ended(thread, name))


async def iterate(thread, name):
    """Run a turn, read the ``params`` of all events, and return how many there were."""
    seen = 0
    async with thread.turn(name) as turn:
        async for event in turn:
            seen += event.merged
            event.params  # noqa: B018  # parsed when read
    return seen


def prepare(setting):
    prepare_results(setting.directory)
    for size in SIZES.values():
        prepare_lines(setting.directory, f"lines-{size}", size, TOTAL // size)


def summarize(watches):
    return {f"ns/byte, {name}": 1e9 * watch.wall / TOTAL for name, watch in watches.items()}


def floor(setting):
    watches = {}
    with clients.Floor(clients.server_command(setting.directory)) as floor:
        for name, size in SIZES.items():
            with Stopwatch() as watches[name]:
                floor.start_turn(thread_id(1), f"lines-{size}")
                floor.parse_lines(TOTAL // size + 2)
    return summarize(watches)


def trio_codex(setting):
    from trio_codex import CodexConfig, EventBuffer

    async def body(codex):
        watches = {}
        thread = await codex.thread_start()
        for name, size in SIZES.items():
            with Stopwatch() as watches[name]:
                seen = await iterate(thread, f"lines-{size}")
            assert seen == TOTAL // size + 2
        return summarize(watches)

    config = CodexConfig(event_buffer=EventBuffer(size=4 * TOTAL))
    return clients.run_trio(body, setting.directory, config=config)


CASES = {"floor": floor, "trio-codex": trio_codex}
