"""The cost of supervision on the real server: CPU time per turn, recovery from a crash, and commits to the journal."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from benchmarks.clients import Floor
from benchmarks.measuring import Stopwatch, percentile

TITLE = "Supervision"
ROUNDS = 5

WARM = 10
MODEL = Path(__file__).with_name("model.py")

FLOOD = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
print("writes", flush=True)
while True:
    for _ in range(64):
        os.write(file, bytes(1 << 20))
    os.fsync(file)
    os.lseek(file, 0, os.SEEK_SET)
"""
"""A program that keeps the disk busy."""


def prepare(setting):
    pass


@contextmanager
def offline(setting):
    """Yield the home of a server whose model runs in another process."""
    from trio_codex.testing import write_offline_home

    with (
        subprocess.Popen(
            [sys.executable, MODEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as model,
        tempfile.TemporaryDirectory(dir=setting.directory) as directory,
    ):
        yield write_offline_home(directory, model.stdout.readline().strip())
        model.communicate()


@contextmanager
def journal_in(setting):
    with tempfile.TemporaryDirectory(dir=setting.directory) as directory:
        yield Path(directory, "journal.db")


# -- turns -------------------------------------------------------------------------------------------------------------


async def run_turns(run, setting):
    """Run short turns sequentially, and return the cost of one."""
    for number in range(WARM):
        await run(f"warm {number}")
    count = setting.pick(200, 20)
    with Stopwatch() as watch:
        for number in range(count):
            assert (await run(f"hello {number}")).final_response == "hello"
    return {"cpu µs/turn": 1e6 * watch.cpu / count}


def plain(setting):
    import trio

    from trio_codex import open_codex

    async def main(config):
        async with open_codex(config) as codex:
            thread = await codex.thread_start()
            return await run_turns(thread.run, setting)

    with offline(setting) as home:
        return trio.run(main, home.config())


def supervised(setting):
    import trio

    from trio_codex import open_supervisor

    async def main(config, journal):
        async with open_supervisor(config, journal=journal) as supervisor, supervisor.thread("a") as thread:
            return await run_turns(lambda text: thread.run(text, key=text), setting)

    with offline(setting) as home, journal_in(setting) as journal:
        return trio.run(main, home.config(), journal)


# -- recovery ----------------------------------------------------------------------------------------------------------


def deaths_of(setting):
    return setting.pick(10, 3)


def recovery(setting):
    """The time from killing a server with SIGKILL to the next turn of its thread."""
    import trio

    from trio_codex import Backoff, Restart, open_supervisor

    at_once = Restart(max_restarts=1000, backoff=Backoff(first=0, then=0, maximum=0))

    async def main(config, journal):
        seconds = []
        async with (
            open_supervisor(config, journal=journal, restart=at_once) as supervisor,
            supervisor.thread("a") as thread,
        ):
            await thread.run("hello", key="first")
            for number in range(deaths_of(setting)):
                start = time.perf_counter()
                os.kill((await supervisor.ready()).pid, signal.SIGKILL)
                async with thread.turn("hello", key=str(number)) as turn:
                    seconds.append(time.perf_counter() - start)
                    assert (await turn.wait()).status == "completed"
        assert supervisor.generation == 1 + deaths_of(setting)
        return {"p50 ms": 1e3 * percentile(sorted(seconds), 50)}

    with offline(setting) as home, journal_in(setting) as journal:
        return trio.run(main, home.config(), journal)


def bare_start(setting):
    """The time from the start of the server to its first response, over a bare pipe."""
    from trio_codex.binary import find_binary

    command, seconds = [str(find_binary().path), "app-server"], []
    with offline(setting) as home:
        # The first start creates the databases.
        for _ in range(1 + deaths_of(setting)):
            start = time.perf_counter()
            with Floor(command, env=dict(home.env), cwd=home.workspace, stderr=subprocess.DEVNULL) as floor:
                client = {"name": "bare", "title": "bare", "version": "0"}
                floor.request("initialize", {"clientInfo": client, "capabilities": {"experimentalApi": True}})
                seconds.append(time.perf_counter() - start)
    return {"p50 ms": 1e3 * percentile(sorted(seconds[1:]), 50)}


# -- the journal -------------------------------------------------------------------------------------------------------


def commits(setting):
    """Time the two commits that each turn makes."""
    from trio_codex.supervision._journal import Journal

    seconds = []

    def timed(write, *values):
        start = time.perf_counter()
        write(*values)
        seconds.append(time.perf_counter() - start)

    with journal_in(setting) as path:
        journal = Journal(path)
        journal.started("a", "thread", "/home", "stamp")
        for number in range(setting.pick(5000, 1000)):
            key, turn = f"key-{number}", f"019a2b4c-7d00-7e20-a000-{number:012}"
            timed(journal.sending, "a", key, "d" * 64, 1, turn)
            timed(journal.running, "a", key, turn)
            journal.ended("a", key, turn, "completed", by_us=False, late=True)
            journal.used("a", 10, 0.1, 0)
        journal.close()
    seconds.sort()
    return {
        "commit p50 µs": 1e6 * percentile(seconds, 50),
        "commit p99 µs": 1e6 * percentile(seconds, 99),
        "worst commit ms": 1e3 * seconds[-1],
    }


def commits_under_load(setting):
    """Like :func:`commits`, while another program writes to the disk as fast as it can."""
    with (
        tempfile.NamedTemporaryFile(dir=setting.directory) as file,
        subprocess.Popen([sys.executable, "-c", FLOOD, file.name], stdout=subprocess.PIPE) as flood,
    ):
        flood.stdout.readline()
        try:
            return commits(setting)
        finally:
            flood.kill()


CASES = {
    "plain turn": plain,
    "supervised turn": supervised,
    "bare start": bare_start,
    "recovery": recovery,
    "commits": commits,
    "commits, busy disk": commits_under_load,
}
