"""Faults that can be provoked in the real server: death by a signal, and suspension."""

import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest
import trio

from faults.observed_session import left_of
from process.running_server import pause
from trio_codex import CodexConfig, TurnStatus, errors, open_codex
from trio_codex.testing import MockModel, Response, Text, offline_home

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


@pytest.fixture
def cell(record_property):
    """Record the cell for the summary at the end of the run."""

    def note(fault, phase):
        record_property("fault", fault)
        record_property("phase", f"{phase} (real server)")

    return note


@asynccontextmanager
async def offline(**options):
    """Run the real server with a model that stops halfway through its response; fail if a process is left."""
    cookie = f"trio-codex-real-fault-{os.getpid()}"
    with trio.fail_after(20):
        async with MockModel() as model:
            gate = model.gate()
            model.default = Response(Text("half"), gate, Text(" and half"))
            with offline_home(model) as home:
                config = CodexConfig(env={**home.env, "COOKIE": cookie}, inherit_env=False, **options)
                async with open_codex(config) as codex:
                    yield codex, gate
                assert left_of(cookie) == []


@pytest.mark.parametrize(
    ("number", "returncode"),
    [
        # Not SIGSEGV: the server survives a single one from another process.
        pytest.param(signal.SIGABRT, -signal.SIGABRT, id="ABRT"),
        pytest.param(signal.SIGTERM, 0, id="TERM"),  # the server exits cleanly
        pytest.param(signal.SIGKILL, -signal.SIGKILL, id="KILL", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, -signal.SIGINT, id="INT", marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, -signal.SIGHUP, id="HUP", marks=pytest.mark.long),
    ],
)
async def test_killing_the_real_server_in_a_turn_loses_the_turn_and_reports_the_exit_status(
    number, returncode, cell
):
    cell(f"die:{number.name[3:]}", "in a turn")
    async with offline() as (codex, _):
        thread = await codex.thread_start()
        text = ""
        with pytest.raises(errors.TurnLost) as caught:
            async with thread.turn("go") as turn:
                async for piece in turn.text():
                    text += piece
                    os.kill(codex.pid, number)
        assert text == "half"
        assert isinstance(caught.value.__cause__, errors.ServerExited)
        assert (caught.value.__cause__.returncode, caught.value.__cause__.pid) == (returncode, codex.pid)
        with pytest.raises(errors.ServerExited):
            await codex.models()


async def test_a_turn_survives_a_pause_of_the_real_server(cell):
    cell("pause", "in a turn")
    async with offline() as (codex, gate):
        thread = await codex.thread_start()
        pieces = []
        async with thread.turn("go") as turn:
            async for piece in turn.text():
                pieces.append(piece)
                if len(pieces) == 1:
                    await pause(codex.pid)
                    gate.open()
                    with trio.move_on_after(0.2) as scope:
                        await codex.models()
                    assert scope.cancelled_caught
                    os.kill(codex.pid, signal.SIGCONT)
        assert pieces == ["half", " and half"]
        assert turn.result.status is TurnStatus.completed


async def test_with_a_suspended_real_server_no_call_exceeds_its_timeout(cell):
    cell("die:STOP", "in a turn")
    async with offline(interrupt_grace=0.3, stop_grace=0.3) as (codex, _):
        thread = await codex.thread_start()
        with trio.CancelScope() as scope:
            async with thread.turn("go") as turn:
                async for _ in turn.text():
                    await pause(codex.pid)
                    scope.cancel()
        assert turn.result.status is TurnStatus.lost
        death = await codex.wait_closed()
        assert type(death) is errors.ConnectionBroken
        assert (turn.id in death.reason, death.pid) == (True, codex.pid)
