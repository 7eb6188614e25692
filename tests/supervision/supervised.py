"""Helpers for supervising the real server with a scripted model, and for killing it."""

import collections
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import attrs
import trio

from trio_codex import Backoff, Restart, open_supervisor
from trio_codex.testing import MockModel, Response, Text, offline_home

AT_ONCE = Restart(max_restarts=10_000, strikes=10_000, backoff=Backoff(first=0, then=0, maximum=0))
"""Restart without delay, as often as the test kills the server."""


@attrs.define
class Stage:
    """A model, a home, and the journal of their supervisors."""

    model: MockModel
    home: object

    @property
    def journal(self):
        return str(self.home.tmp / "journal.db")

    def supervisor(self, **options):
        return open_supervisor(self.home.config(), **{"journal": self.journal, "restart": AT_ONCE, **options})

    def copy_journal(self, name):
        """Copy the committed content of a journal in use, and return the path of the copy."""
        path = str(self.home.tmp / name)
        with closing(sqlite3.connect(self.journal)) as source, closing(sqlite3.connect(path)) as copy:
            source.backup(copy)
        return path

    def given(self):
        """Return the user's texts in the longest context that the model received."""
        return max((texts_of(request) for request in self.model.requests), key=len, default=[])

    def assert_each_once(self, *texts):
        """Check that the context contains each prompt once, and that each prompt started at most one turn."""
        given = collections.Counter(self.given())
        wrong = {text: given[text] for text in texts if given[text] != 1}
        assert not wrong, f"appearances in the context, per prompt: {wrong}"
        called = collections.Counter(texts_of(request)[-1] for request in self.model.requests)
        assert all(called[text] <= 1 for text in texts), called


@asynccontextmanager
async def stage(seconds=60, **home_options):
    with trio.fail_after(seconds):
        async with MockModel() as model:
            model.default = Response(Text("did ", "it"))
            with offline_home(model, **home_options) as home:
                yield Stage(model, home)


def texts_of(request):
    """Return the user's texts in a request to the model."""
    return [
        part["text"]
        for item in request.body["input"]
        if item.get("role") == "user"
        for part in item["content"]
        if part.get("type") == "input_text"
    ]


def kill(codex, sig=signal.SIGKILL):
    with suppress(ProcessLookupError):
        os.kill(codex.pid, sig)


async def keep_killing(supervisor, random, shortest=0.03, longest=0.25):
    """Kill each generation at a random moment."""
    while True:
        codex, number = await supervisor.ready(), supervisor.generation
        await trio.sleep(random.uniform(shortest, longest))
        kill(codex)
        while supervisor.generation == number:  # noqa: ASYNC110  # it has no event for this
            await trio.sleep(0.001)


class Full:
    """Makes certain writes fail for the duration of a scope."""

    def __init__(self, path, event):
        self._path = path
        self._event = event

    def _execute(self, statement):
        with closing(sqlite3.connect(self._path)) as db:
            db.execute(statement)

    def __enter__(self):
        self._execute(
            f"create trigger full before {self._event} begin select raise(abort, 'database or disk is full'); end"
        )

    def __exit__(self, *exc):
        self._execute("drop trigger full")


class Program:
    """``program.py`` as a process. Waiting with ``trio.Process`` would leave a thread behind."""

    def __init__(self, *arguments):
        command = [sys.executable, str(Path(__file__).with_name("program.py")), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._output = trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno()))

    async def wait_ready(self):
        assert (await self._output.receive_some())[:5] == b"ready"

    async def wait(self):
        while self._process.poll() is None:  # noqa: ASYNC110  # there is no event for this
            await trio.sleep(0.01)
        return self._process.returncode

    async def end(self):
        """Kill the program if it is running, and return whether it was."""
        ran = self._process.poll() is None
        self._process.kill()
        with trio.CancelScope(shield=True):
            await self.wait()
            self._process.stdout.close()
            await self._output.aclose()
        return ran
