"""A scripted model in its own process, for programs that call ``trio.run`` themselves: shards, Ray and Inspect.

This module is also that process. Its answer depends on the prompt, which is ``VERB NAME`` with a name from ``t0`` to
``t99``; see ``VERBS``. When a request arrives and when its response has ended, it writes a line of JSON to its log.
"""

import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from trio_codex import CodexConfig
from trio_codex.batch import Task
from trio_codex.testing import (
    Command,
    Delay,
    Hang,
    HTTPFailure,
    MockModel,
    Response,
    Text,
    write_offline_home,
)

SECONDS = 60
"""Timeout of every wait."""

COUNT = 100

VERBS = {
    "do": lambda name: [Response(Text("did ", name))],
    "slow": lambda name: [Response(Delay(0.5), Text("did ", name))],
    "hang": lambda name: [Response(Text("half of ", name, Hang()))],
    "show": lambda name: [Response(Command("cat note.txt")), Response(Text("shown"))],
    "refuse": lambda name: [Response(HTTPFailure(400))],
    "run": lambda name: [Response(Command(f"echo ran {name}; exit 3")), Response(Text("ran ", name))],
    "ponder": lambda name: [Response(Command(f"true # {name}")), Response(Text("half of ", name, Hang()))],
    "sleep": lambda name: [Response(Command(f"sleep 1000 # {name}")), Response(Text("slept ", name))],
}
"""The responses to a prompt, one for each request of its turn. ``stall`` first hangs, and then behaves like ``do``."""


def some(count, verb="do"):
    return [Task(f"t{number}", f"{verb} t{number}") for number in range(count)]


async def solve_twice(ctx):
    first = await ctx.thread.run(ctx.task.prompt)
    second = await ctx.thread.run("again")
    return [f"did {ctx.task.prompt}", second.final_response] if first.final_response else None


async def die(ctx):
    await trio.lowlevel.checkpoint()
    os.kill(os.getpid(), signal.SIGKILL)


async def die_once(ctx):
    """Kill the process after the turn, unless a marker file shows that this has already happened."""
    await ctx.thread.run(ctx.task.prompt)
    if ctx.task.data is not None and not await trio.Path(ctx.task.data).exists():
        await trio.Path(ctx.task.data).touch()
        await die(ctx)


@attrs.define
class Served:
    """A model in another process, a home, and the directory of a batch."""

    home: object
    out: str
    log: Path
    start: int

    @property
    def config(self):
        return CodexConfig(env=dict(self.home.env), inherit_env=False, cwd=self.home.workspace)

    def _events(self):
        return [json.loads(line) for line in self.log.read_text()[self.start :].splitlines()]

    def count(self, prompt):
        """Return how many turns sent a prompt to the model."""
        return self.counts()[prompt]

    def counts(self):
        return collections.Counter(each["prompt"] for each in self._events() if each["first"])

    def requests(self):
        """Return the requests that the model received."""
        return [each for each in self._events() if each["event"] == "asked"]

    def wait_for(self, prompt, count=1):
        """Wait until a prompt has reached the model."""
        self._wait(lambda: self.count(prompt) >= count, f"request {prompt!r}")

    def wait_until_dropped(self, prompt):
        """Wait until the server has dropped a response, as it does when a turn is interrupted."""
        self._wait(
            lambda: any(
                (each["prompt"], each["event"], each["completed"]) == (prompt, "ended", False)
                for each in self._events()
            ),
            f"end of {prompt!r}",
        )

    def statuses(self):
        """Return the final status of every turn, from the histories that the servers have stored."""
        found = []
        for path in Path(self.home.codex_home).rglob("rollout-*.jsonl"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            kinds = [line["payload"].get("type") for line in lines if line["type"] == "event_msg"]
            found += [kind for kind in kinds if kind in ("turn_aborted", "task_complete")][-1:] or ["open"]
        return collections.Counter(found)

    def _wait(self, is_there, what):
        limit = time.monotonic() + SECONDS
        while not is_there():
            assert time.monotonic() < limit, f"no {what} within {SECONDS} s: {self._events()}"
            time.sleep(0.02)


@contextmanager
def model_server():
    """Serve a model from another process. Yield its URL and the path of its log."""
    with tempfile.TemporaryDirectory(prefix="trio-codex-") as directory:
        log = Path(directory, "requests.jsonl")
        command = [sys.executable, __file__, str(log)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
            try:
                yield process.stdout.readline().decode().strip(), log
            finally:
                process.stdin.close()  # the process exits at the end of its input
                assert process.wait(SECONDS) == 0


@contextmanager
def served(model, **home_options):
    """Yield a served model with a home and a directory for a batch."""
    url, log = model
    with tempfile.TemporaryDirectory(prefix="trio-codex-") as directory:
        home = write_offline_home(Path(directory, "home"), url, **home_options)
        yield Served(home, str(Path(directory, "out")), log, len(log.read_text()))


def _is(prompt, position):
    """Match the request at this position in the turn of a prompt."""

    def matches(request):
        outputs = sum(item.get("type") == "function_call_output" for item in request.input)
        return request.last_user_text == prompt and outputs == position

    return matches


async def serve(log):
    with open(log, "a", buffering=1) as file:  # noqa: ASYNC230  # short writes to a small file

        def note(request, event):
            first = not any(item.get("type") == "function_call_output" for item in request.input)
            members = {"event": event, "prompt": request.last_user_text, "completed": request.completed}
            if event == "asked":
                members["input"] = request.input
            file.write(json.dumps({**members, "first": first and event == "asked"}) + "\n")

        async def follow(request):
            note(request, "asked")
            await request.closed.wait()
            note(request, "ended")

        async with MockModel() as model, trio.open_nursery() as nursery:
            fix = "middle() in stats.py is wrong. Fix it."
            model.script(_is(fix, 0), default=Response(Command("sed -i 's/ + 1//' stats.py")))
            model.script(_is(fix, 1), default=Response(Text("Fixed.")))
            model.script(_is("again", 0), default=Response(Text("did ", "again")))
            for name in (f"t{number}" for number in range(COUNT)):
                done = Response(Text("did ", name))
                model.script(_is(f"stall {name}", 0), default=done).respond(Text("half ", Hang()))
                for verb, responses in VERBS.items():
                    for position, response in enumerate(responses(name)):
                        model.script(_is(f"{verb} {name}", position), default=response)

            @nursery.start_soon
            async def _():
                seen = 0
                while True:
                    requests = await model.wait_for_requests(seen + 1)
                    for request in requests[seen:]:
                        nursery.start_soon(follow, request)
                    seen = len(requests)

            print(model.base_url, flush=True)  # noqa: T201  # a program of its own
            await trio.lowlevel.wait_readable(sys.stdin)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    os.setpgid(0, 0)  # Ctrl-C must reach only the program that uses this model
    trio.run(serve, sys.argv[1])
