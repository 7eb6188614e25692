"""A cancellation at each checkpoint of a whole session: whatever was under way is undone, and the scope ends."""

import sys
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import pytest
import trio

from trio_codex import CodexConfig, TurnStatus, open_codex
from trio_codex.testing import MockModel, Response, Text, fake_codex, offline_home

MOST_CHECKPOINTS = 400


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when its task is about to be scheduled for the n-th time."""

    def __init__(self, number, scope, task):
        self.left = number
        self.scope = scope
        self.task = task

    def before_task_step(self, task):
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def sweep(prepared):
    """Run a scenario, cancelled at each of its checkpoints in turn; give how many there were.

    ``prepared`` is an async context manager that gives the scenario; what it sets up is not cancelled.
    """
    for number in range(1, MOST_CHECKPOINTS):
        with trio.fail_after(10):
            async with prepared() as scenario:
                with trio.CancelScope() as scope:
                    instrument = CancelAt(number, scope, trio.lowlevel.current_task())
                    trio.lowlevel.add_instrument(instrument)
                    try:
                        await scenario()
                    finally:
                        trio.lowlevel.remove_instrument(instrument)
        if instrument.left > 0:
            return number - 1
    raise AssertionError("the scenario never ran to its end")


SERVER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "initialize":
        result = {"userAgent": "fake/0.0.1", "codexHome": "/", "platformFamily": "unix", "platformOs": "linux"}
        print(json.dumps({"id": message["id"], "result": result}), flush=True)
"""


async def test_a_start_up_cancelled_at_any_checkpoint_leaves_nothing(record_property):
    # The fixture that looks for leftovers after each test sees those of every round.
    config = CodexConfig(launch_args_override=[sys.executable, "-S", "-u", "-c", SERVER])

    async def scenario():
        async with open_codex(config) as codex:
            await trio.lowlevel.checkpoint()
            assert codex.pid is not None

    checkpoints = await sweep(partial(nullcontext, scenario))
    record_property("checkpoints", checkpoints)
    assert checkpoints >= 5


async def play(server, open_turns):
    """Play the server: a turn is open from its start until it completes or is interrupted."""
    while True:
        asked = await server.expect_any()
        thread_id = asked.params["threadId"]
        if asked.method == "turn/start":
            open_turns.add("turn-1")
            await asked.answer({"turn": {"id": "turn-1", "items": [], "status": "inProgress"}})
            await server.start_turn("turn-1", thread_id)
            await server.delta("text")
            if asked.params["input"][0]["text"] == "short":
                open_turns.discard("turn-1")
                await server.end_turn("turn-1", thread_id)
        else:
            assert asked.method == "turn/interrupt"
            open_turns.discard("turn-1")
            await asked.answer({})
            await server.end_turn("turn-1", thread_id, status="interrupted")


@pytest.mark.parametrize("text", ["short", "long"])
async def test_a_turn_cancelled_at_any_checkpoint_has_ended_on_the_server(text, record_property):
    @asynccontextmanager
    async def prepared():
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            open_turns = set()
            nursery.start_soon(play, server, open_turns)

            async def scenario():
                thread = await codex.thread_start()
                try:
                    async with thread.turn(text) as turn:
                        async for _ in turn.text():
                            if text == "long":
                                break
                        await trio.lowlevel.checkpoint()
                finally:
                    assert open_turns == set(), "the turn outlived its scope"

            yield scenario
            nursery.cancel_scope.cancel()

    checkpoints = await sweep(prepared)
    record_property("checkpoints", checkpoints)
    assert checkpoints >= 5


class Remote:
    """Plays the server for everything else that is a scope, and keeps what is running there."""

    def __init__(self, server):
        self.server = server
        self.running = {}
        self.goal = None
        self.turns = 0

    async def play(self):
        while True:
            asked = await self.server.expect_any()
            await getattr(self, "on_" + asked.method.replace("/", "_"))(asked, asked.params)

    async def on_command_exec(self, asked, params):
        self.running[params["processId"]] = asked

    async def on_command_exec_write(self, asked, params):
        if (command := self.running.get(params["processId"])) is None:
            await asked.refuse("no active command/exec for process id")
            return
        await asked.answer({})
        output = {"processId": params["processId"], "stream": "stdout", "capReached": False}
        await self.server.notify("command/exec/outputDelta", {**output, "deltaBase64": "aGk="})
        if params.get("closeStdin"):
            del self.running[params["processId"]]
            await command.answer({"exitCode": 0, "stdout": "", "stderr": ""})

    async def on_command_exec_terminate(self, asked, params):
        if (command := self.running.pop(params["processId"], None)) is None:
            await asked.refuse("no active command/exec for process id")
            return
        await asked.answer({})
        await command.answer({"exitCode": 137, "stdout": "", "stderr": ""})

    async def on_fs_watch(self, asked, params):
        self.running[params["watchId"]] = asked
        await asked.answer({"path": params["path"]})
        await self.server.notify("fs/changed", {"watchId": params["watchId"], "changedPaths": ["/x"]})

    async def on_fs_unwatch(self, asked, params):
        self.running.pop(params["watchId"], None)
        await asked.answer({})

    async def on_review_start(self, asked, _):
        turn = {"id": "turn-a", "items": [], "status": "inProgress"}
        await asked.answer({"turn": turn, "reviewThreadId": "thread-1"})
        await self.start("turn-b", root="turn-a")
        await self.server.delta("text", turn_id="turn-a")

    async def on_thread_compact_start(self, asked, _):
        await asked.answer({})
        await self.start("turn-1")

    async def on_thread_shellCommand(self, asked, _):
        await asked.answer({})
        await self.start("turn-1")
        await self.server.item("started", shell_item("inProgress"))

    async def on_thread_goal_clear(self, asked, _):
        await asked.answer({"cleared": self.goal is not None})
        self.goal = None

    async def on_thread_goal_set(self, asked, params):
        self.goal = params["status"]
        await asked.answer({"goal": goal(self.goal)})
        await self.server.notify("thread/goal/updated", {"threadId": "thread-1", "goal": goal(self.goal)})
        if self.goal == "active":
            await self.start("goal-1")
            await self.server.delta("one", turn_id="goal-1")
            del self.running["goal-1"]
            await self.server.end_turn("goal-1")
            await self.start("goal-2")
            await self.server.delta("two", turn_id="goal-2")

    async def on_turn_interrupt(self, asked, params):
        turn_id = params["turnId"]
        if turn_id not in self.running:
            await asked.refuse(f"expected active turn id {turn_id} but found {next(iter(self.running))}")
            return
        await asked.answer({})
        root = self.running.pop(turn_id)
        await self.server.end_turn(root, status="interrupted")

    async def start(self, turn_id, root=None):
        self.running[turn_id] = root or turn_id
        turn = {"id": turn_id, "rootTurnId": root or turn_id, "items": [], "status": "inProgress"}
        await self.server.notify("turn/started", {"threadId": "thread-1", "turn": turn})


def shell_item(status, item_id="item-1", output=None):
    return {
        "type": "commandExecution",
        "id": item_id,
        "source": "userShell",
        "status": status,
        "command": "sleep 1",
        "commandActions": [],
        "cwd": "/",
        "aggregatedOutput": output,
    }


def goal(status):
    return {
        "threadId": "thread-1",
        "objective": "reach it",
        "status": status,
        "tokensUsed": 0,
        "timeUsedSeconds": 0,
        "createdAt": 0,
        "updatedAt": 0,
    }


async def leave_a_command(codex):
    async with codex.exec(["cat"]) as process:
        await process.stdin.send_all(b"hi")
        await process.stdout.receive_some()


async def run_a_command(codex):
    async with codex.exec(["cat"]) as process:
        await process.stdin.send_all(b"hi")
        await process.stdin.aclose()
        assert b"hi" in b"".join([piece async for piece in process.stdout])
        assert await process.wait() == 0


async def watch(codex):
    async with codex.watch("/x") as changes:
        await changes.__anext__()


async def review(codex):
    thread = await codex.thread_start()
    async with thread.review("it") as turn:
        async for _ in turn.text():
            break


async def compact(codex):
    thread = await codex.thread_start()
    with trio.CancelScope() as scope:
        async with thread.events() as events, trio.open_nursery() as nursery:
            nursery.start_soon(thread.compact)
            async for event in events:
                if event.method == "turn/started":
                    scope.cancel()


async def run_in_the_shell(codex):
    thread = await codex.thread_start()
    with trio.CancelScope() as scope:
        async with thread.events() as events, trio.open_nursery() as nursery:
            nursery.start_soon(thread.shell_command, "sleep 1")
            async for event in events:
                if event.method == "item/started":
                    scope.cancel()


async def pursue_a_goal(codex):
    thread = await codex.thread_start()
    async with thread.goal("reach it") as goal:
        async for text in goal.text():
            if text == "two":
                break


@pytest.mark.parametrize(
    "use", [leave_a_command, run_a_command, watch, review, compact, run_in_the_shell, pursue_a_goal]
)
async def test_what_runs_remotely_has_ended_wherever_its_scope_is_cancelled(use, record_property):
    @asynccontextmanager
    async def prepared():
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            remote = Remote(server)
            nursery.start_soon(remote.play)

            async def scenario():
                try:
                    await use(codex)
                finally:
                    assert remote.running == {}, "it outlived its scope"
                    assert remote.goal != "active", "the goal goes on"

            yield scenario
            nursery.cancel_scope.cancel()

    checkpoints = await sweep(prepared)
    record_property("checkpoints", checkpoints)
    assert checkpoints >= 4


@pytest.mark.real
async def test_a_turn_on_the_real_server_cancelled_at_any_checkpoint_leaves_its_thread_usable(
    record_property,
):
    async with MockModel() as model:
        model.default = Response(Text("some", "text"))
        with offline_home(model) as home:
            async with open_codex(CodexConfig(env=home.env, inherit_env=False, cwd=home.workspace)) as codex:
                thread = await codex.thread_start()

                async def scenario():
                    async with thread.turn("again") as turn:
                        async for _ in turn.text():
                            pass

                checkpoints = await sweep(partial(nullcontext, scenario))
                record_property("checkpoints", checkpoints)
                with trio.fail_after(5):
                    assert (await thread.run("at last")).status is TurnStatus.completed
    assert checkpoints >= 5
