"""The round trip of sequential requests with typed responses."""

import time

from benchmarks import clients
from benchmarks.measuring import percentile
from benchmarks.traffic import prepare_results

TITLE = "Round trip of a request"
ROUNDS = 7

WARM = 200


def prepare(setting):
    prepare_results(setting.directory)


def count_of(setting):
    return setting.pick(2000, 400)


def summarize(seconds):
    seconds = sorted(seconds[WARM:])
    return {"p50 µs": 1e6 * percentile(seconds, 50), "p99 µs": 1e6 * percentile(seconds, 99)}


def floor(setting):
    seconds = []
    with clients.Floor(clients.server_command(setting.directory)) as floor:
        for _ in range(WARM + count_of(setting)):
            start = time.perf_counter()
            floor.request("model/list", {})
            seconds.append(time.perf_counter() - start)
    return summarize(seconds)


def trio_floor(setting):
    """The lower bound with Trio: the caller writes directly, and the reader wakes it."""
    import trio

    async def main(floor):
        answered = trio.Event()

        async def read():
            nonlocal answered
            while True:
                await trio.lowlevel.wait_readable(floor.fd)
                for line in floor.read_lines():
                    floor.decode(line)
                    answered.set()

        seconds = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for _ in range(WARM + count_of(setting)):
                start = time.perf_counter()
                answered = trio.Event()
                floor.send("model/list", {})
                await answered.wait()
                seconds.append(time.perf_counter() - start)
            nursery.cancel_scope.cancel()
        return summarize(seconds)

    with clients.Floor(clients.server_command(setting.directory)) as floor:
        return trio.run(main, floor)


async def ask(codex, setting):
    seconds = []
    for _ in range(WARM + count_of(setting)):
        start = time.perf_counter()
        await codex.models()
        seconds.append(time.perf_counter() - start)
    return summarize(seconds)


def trio_codex(setting):
    return clients.run_trio(lambda codex: ask(codex, setting), setting.directory)


def blocking(setting):
    seconds = []
    with clients.open_blocking(setting.directory) as codex:
        for _ in range(WARM + count_of(setting)):
            start = time.perf_counter()
            codex.models()
            seconds.append(time.perf_counter() - start)
    return summarize(seconds)


def aio(setting):
    return clients.run_aio(lambda codex: ask(codex, setting), setting.directory)


def async_sdk(setting):
    return clients.run_async_sdk(lambda codex: ask(codex, setting), setting.directory)


def sync_sdk(setting):
    seconds = []
    with clients.open_sync_sdk(setting.directory) as codex:
        for _ in range(WARM + count_of(setting)):
            start = time.perf_counter()
            codex.models()
            seconds.append(time.perf_counter() - start)
    return summarize(seconds)


CASES = {
    "floor": floor,
    "floor with Trio": trio_floor,
    "trio-codex": trio_codex,
    "blocking": blocking,
    "aio": aio,
    "AsyncCodex": async_sdk,
    "Codex": sync_sdk,
}
