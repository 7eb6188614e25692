"""No process below the real server outlives the client, however the client, the server or Python ends."""

import itertools
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from faults.trees import KINDS, grown, tree_of
from process.running_server import gone, pause, until
from trio_codex import CodexConfig, Sandbox, TurnStatus, errors, open_codex
from trio_codex.testing import Command, Hang, MockModel, Response, Text, ToolCall, offline_home

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="the guard process requires Linux"),
]

BOUND = 20
BUDGETS = {"interrupt_grace": 1, "stop_grace": 1}

_numbers = itertools.count(1)


@pytest.fixture
def marker():
    """Return a duration for which no other process sleeps, so that it identifies processes."""
    return f"{os.getpid()}{next(_numbers):03}."


# -- the client ends ---------------------------------------------------------------------------------------------------


async def leave(codex, scope):
    await trio.lowlevel.checkpoint()


async def close(codex, scope):
    await codex.aclose()


async def cancel(codex, scope):
    scope.cancel()
    await trio.lowlevel.checkpoint()


async def stop_the_server(codex, scope):
    await pause(codex.pid)


async def stop_the_server_and_cancel(codex, scope):
    await pause(codex.pid)
    await cancel(codex, scope)


@pytest.mark.parametrize(
    "end",
    [
        cancel,
        pytest.param(leave, marks=pytest.mark.long),
        pytest.param(close, marks=pytest.mark.long),
        pytest.param(stop_the_server, marks=pytest.mark.long),
        pytest.param(stop_the_server_and_cancel, marks=pytest.mark.long),
    ],
)
async def test_a_client_leaves_no_process_of_its_tree_behind(end, marker):
    with trio.fail_after(BOUND):
        with trio.CancelScope() as scope:
            async with grown(marker, **BUDGETS) as codex:
                assert tree_of(marker).keys() == {*KINDS}
                await end(codex, scope)
        assert tree_of(marker) == {}


# -- the server ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        # On SIGTERM, the server ends its commands itself. On SIGINT and SIGHUP, it leaves the commands' children in
        # other sessions.
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
    ],
    ids=lambda number: number.name,
)
async def test_when_the_server_dies_its_tree_ends_before_the_client_closes(number, marker):
    with trio.fail_after(BOUND):
        async with grown(marker, **BUDGETS) as codex:
            os.kill(codex.pid, number)
            assert isinstance(await codex.wait_closed(), errors.ServerExited)
            with trio.fail_after(5):
                await until(lambda: tree_of(marker) == {})


# -- Python ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stopped",
    [False, pytest.param(True, marks=pytest.mark.long)],
    ids=["the server runs", "the server is suspended"],
)
async def test_when_python_is_killed_the_tree_is_gone_within_5_seconds(stopped, marker, tmp_path):
    program = Path(__file__).parent / "trees.py"
    path = os.pathsep.join([str(program.parents[1]), str(program.parents[2] / "src")])
    with (
        trio.fail_after(BOUND),
        subprocess.Popen(  # noqa: ASYNC220  # it returns immediately
            [sys.executable, str(program), marker],
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
        ) as client,
    ):
        try:
            await trio.lowlevel.wait_readable(client.stdout)
            server = int(client.stdout.readline())
            tree = tree_of(marker)
            assert tree.keys() == {*KINDS}
            if stopped:
                os.kill(server, signal.SIGSTOP)
        finally:
            client.kill()
        await gone(server, *tree.values())  # waits at most 5 s
        assert tree_of(marker) == {}


# -- two clients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        "SIGKILL",
        pytest.param("close", marks=pytest.mark.long),
        pytest.param("cancel", marks=pytest.mark.long),
    ],
)
async def test_the_end_of_one_client_does_not_affect_the_tree_of_another(end, marker):
    other_marker = f"{marker}0"
    with trio.fail_after(BOUND):
        async with grown(marker, **BUDGETS) as survivor:
            with trio.CancelScope() as scope:
                async with grown(other_marker, **BUDGETS) as codex:
                    before = tree_of(marker)
                    if end == "SIGKILL":
                        os.kill(codex.pid, signal.SIGKILL)
                        await codex.wait_closed()
                    elif end == "cancel":
                        await cancel(codex, scope)
            assert tree_of(other_marker) == {}
            assert tree_of(marker) == before
            assert (await (await survivor.thread_start()).run("anything")).status is TurnStatus.completed
        assert tree_of(marker) == {}


# -- commands of an interrupted turn ----------------------------------------------------------------------------------


@asynccontextmanager
async def offline():
    async with MockModel() as model:
        with offline_home(model, sandbox_mode="danger-full-access") as home:
            config = CodexConfig(env=home.env, inherit_env=False, cwd=home.workspace)
            async with open_codex(config) as codex:
                yield codex, model


@pytest.mark.parametrize("behind", [False, True], ids=["in the foreground", "in the background"])
async def test_an_agents_command_ends_with_the_interrupted_turn_that_spawned_the_agent(behind, marker):
    plain = f"{marker}0"
    with trio.fail_after(BOUND):
        async with offline() as (codex, model):
            child = model.script("child work", default=Response(Text("waiting"), Hang()))
            child.respond(Command(f"exec sleep {plain}", yield_time_ms=250 if behind else 60_000))
            parent = model.script("parent work", default=Response(Text("waiting"), Hang()))
            parent.respond(ToolCall("spawn_agent", {"message": "child work"}, namespace="multi_agent_v1"))
            thread = await codex.thread_start(sandbox=Sandbox.full_access)
            with trio.CancelScope() as scope:
                async with thread.turn("parent work") as turn:
                    await until(lambda: tree_of(marker))
                    if behind:  # the model is called again once the command is in the background
                        await model.wait_for_requests(4)
                    scope.cancel()
            assert turn.result.status is TurnStatus.interrupted
            assert len(turn.children) == 1
            with trio.fail_after(5):
                await until(lambda: not tree_of(marker))
