"""Iterating over one turn: events per second and CPU time per event, with and without reading ``params``."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks import clients
from benchmarks.app_server import thread_id
from benchmarks.measuring import Stopwatch
from benchmarks.traffic import prepare_results, prepare_turn

TITLE = "Events of one turn"
ROUNDS = 7

TURNS = ("warm", "long")
"""A client imports and compiles modules during the first turn; only the second is measured."""

WARM = 1000
"""Events of the first turn."""


def count_of(setting):
    return setting.pick(30_000, 5000)


def prepare(setting):
    prepare_results(setting.directory)
    prepare_turn(setting.directory, "warm", WARM)
    prepare_turn(setting.directory, "long", count_of(setting))


def summarize(watch, count, expected):
    assert count == expected, f"{count} of {expected} events"
    return costs(count, watch.wall, watch.cpu)


def costs(count, wall, cpu):
    return {
        "events/s": count / wall,
        "wall µs/event": 1e6 * wall / count,
        "cpu µs/event": 1e6 * cpu / count,
    }


def floor(setting):
    with clients.Floor(clients.server_command(setting.directory)) as floor:
        for text, expected in zip(TURNS, (WARM, count_of(setting)), strict=True):
            with Stopwatch() as watch:
                floor.start_turn(thread_id(1), text)
                floor.parse_lines(expected)
    return summarize(watch, expected, expected)


def node(setting):
    """``node.mjs``, a minimal client in Node that parses every message."""
    turns = [f"{text}:{count}" for text, count in zip(TURNS, (WARM, count_of(setting)), strict=True)]
    done = subprocess.run(
        [
            "node",
            Path(__file__).with_name("node.mjs"),
            *turns,
            "--",
            *clients.server_command(setting.directory),
        ],
        env={**os.environ, "THREAD": thread_id(1)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return costs(*json.loads(done.stdout))


def trio_codex(setting, read=True, **options):
    async def body(codex):
        thread = await codex.thread_start()
        for text in TURNS:
            count = 0
            with Stopwatch() as watch:
                async with thread.turn(text) as turn:
                    if read:
                        async for event in turn:
                            count += event.merged
                            event.params  # noqa: B018  # parsed when read
                    else:
                        async for event in turn:
                            count += event.merged
        return summarize(watch, count, count_of(setting))

    return clients.run_trio(body, setting.directory, **options)


def blocking(setting):
    with clients.open_blocking(setting.directory) as codex:
        thread = codex.thread_start()
        for text in TURNS:
            count = 0
            with Stopwatch() as watch, thread.turn(text) as turn:
                for event in turn:
                    count += event.merged
                    event.params  # noqa: B018  # as above
    return summarize(watch, count, count_of(setting))


def aio(setting):
    async def body(codex):
        thread = await codex.thread_start()
        for text in TURNS:
            count = 0
            with Stopwatch() as watch:
                async with thread.turn(text) as turn:
                    async for event in turn:
                        count += event.merged
                        event.params  # noqa: B018  # as above
        return summarize(watch, count, count_of(setting))

    return clients.run_aio(body, setting.directory)


def unread(setting):
    return trio_codex(setting, read=False)


def async_sdk(setting):
    async def body(codex):
        thread = await codex.thread_start()
        for text in TURNS:
            count = 0
            with Stopwatch() as watch:
                turn = await thread.turn(text)
                async for event in turn.stream():
                    count += 1
                    event.payload  # noqa: B018  # as above; it was parsed before
        return summarize(watch, count, count_of(setting))

    return clients.run_async_sdk(body, setting.directory)


def sync_sdk(setting):
    with clients.open_sync_sdk(setting.directory) as codex:
        thread = codex.thread_start()
        for text in TURNS:
            count = 0
            with Stopwatch() as watch:
                for event in thread.turn(text).stream():
                    count += 1
                    event.payload  # noqa: B018  # as above
    return summarize(watch, count, count_of(setting))


CASES = {
    "floor": floor,
    **({"Node": node} if shutil.which("node") else {}),
    "trio-codex, read": trio_codex,
    "trio-codex, not read": unread,
    "blocking, read": blocking,
    "aio, read": aio,
    "AsyncCodex": async_sdk,
    "Codex": sync_sdk,
}
