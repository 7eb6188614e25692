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
