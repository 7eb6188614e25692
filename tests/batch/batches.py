"""Helpers for batches on the real server with a scripted model, and for killing servers."""

import collections
import os
import signal
import subprocess
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

from trio_codex import Backoff, Restart
from trio_codex.batch import Task, open_batch
from trio_codex.testing import MockModel, Response, Text, offline_home

AT_ONCE = Restart(max_restarts=10_000, strikes=10_000, backoff=Backoff(first=0, then=0, maximum=0))
"""Restart without delay, as often as the test kills the server."""


@attrs.define
class Stage:
    """A model, a home, and the directory of a batch."""

    model: MockModel
    home: object

    @property
    def out(self):
        return self.home.tmp / "run"

    def batch(self, tasks, solve=None, **options):
        return open_batch(
            tasks, solve, **{"out": self.out, "config": self.home.config(), "restart": AT_ONCE, **options}
        )

    async def run(self, tasks, solve=None, **options):
        """Run a batch to its end, and return its outcomes by id."""
        async with self.batch(tasks, solve, **options) as batch:
            outcomes = [outcome async for outcome in batch]
        assert len({outcome.task.id for outcome in outcomes}) == len(outcomes)
        return {outcome.task.id: outcome for outcome in outcomes}

    def prompts(self):
        """Return how many requests the model received for each prompt."""
        return collections.Counter(texts_of(request)[-1] for request in self.model.requests)

    def requests_with(self):
        """Return how many requests to the model contain a text anywhere in their context."""
        return collections.Counter(text for request in self.model.requests for text in set(texts_of(request)))


@asynccontextmanager
async def stage(seconds=60, **home_options):
    with trio.fail_after(seconds):
        async with MockModel() as model:
            model.default = Response(Text("did ", "it"))
            with offline_home(model, **home_options) as home:
                yield Stage(model, home)


def processes_of(home):
    """Return the processes that use a home."""
    mark = f"CODEX_HOME={home.codex_home}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                yield int(environ.parent.name)


def some(count):
    return [Task(f"t{number}", f"do t{number}") for number in range(count)]


def texts_of(request):
    """Return the user's texts in a request to the model."""
    return [
        part["text"]
        for item in request.body["input"]
        if item.get("role") == "user"
        for part in item["content"]
        if part.get("type") == "input_text"
    ]


def kill(pid, sig=signal.SIGKILL):
    with suppress(ProcessLookupError):
        os.kill(pid, sig)


async def run_program(command, seconds=60, after=""):
    """Run a program, kill it a number of seconds after its first output, and return its exit status and output."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)  # noqa: ASYNC220  # Trio's own function starts a thread
        try:
            while process.poll() is None and after.encode() not in os.pread(output.fileno(), 1 << 20, 0):  # noqa: ASYNC110  # as above
                await trio.sleep(0.02)
            with trio.move_on_after(seconds):
                while process.poll() is None:  # noqa: ASYNC110  # as above
                    await trio.sleep(0.02)
        finally:
            process.kill()
            process.wait()  # noqa: ASYNC222  # it was killed
        output.seek(0)
        return process.returncode, output.read().splitlines()
