"""A program blocked for longer than a timeout still receives the responses that the server sent in time."""

import os
import signal
import subprocess
import sys
import time

import pytest
import trio
from real import offline

from trio_codex import CodexConfig, TurnStatus, open_codex
from trio_codex.testing import Gate, Text, offline_home

pytestmark = pytest.mark.real


def block(seconds):
    """Block this program, like a synchronous call, a debugger or SIGSTOP."""
    time.sleep(seconds)


async def test_a_request_answered_during_the_stall_does_not_time_out():
    async with offline(CodexConfig(request_timeout=0.4)) as (codex, _, _), trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(codex.models)
            await trio.sleep(0.001)
            block(0.6)


async def test_a_turn_that_ended_during_the_stall_is_not_stalled():
    # Without a model the turn fails about 20 ms after its start.
    with trio.fail_after(30), offline_home("http://127.0.0.1:9/v1") as home:
        async with open_codex(home.config()) as codex:
            thread = await codex.thread_start()
            for delay in (0, 0.001, 0.01, 0.02):
                async with thread.turn("go", idle_limit=0.5) as turn:
                    await trio.sleep(delay)
                    block(0.75)
                    assert (await turn.wait()).status == TurnStatus.failed


@pytest.mark.parametrize("delay", [0, 0.002])
async def test_a_turn_interrupted_during_the_stall_does_not_end_other_turns(delay):
    async with offline(CodexConfig(interrupt_grace=0.5)) as (codex, model, _):
        gate = Gate()
        model.script("important").respond(Text("begun ", gate, "and done"))
        model.script("cancel me").hang("some text")
        first, second = await codex.thread_start(), await codex.thread_start()
        async with first.turn("important") as important:
            await gate.reached()
            async with trio.open_nursery() as nursery:
                async with second.turn("cancel me") as turn:
                    await anext(turn.text())

                    @nursery.start_soon
                    async def hog():
                        await trio.sleep(delay)
                        block(0.8)

                assert turn.result.status == TurnStatus.interrupted
            gate.open()
            assert (await important.wait()).final_response == "begun and done"


async def test_a_server_that_started_during_the_stall_is_accepted():
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def hog():
            await trio.sleep(0.05)
            block(1.2)

        async with offline(CodexConfig(start_timeout=1)) as (codex, _, _):
            assert codex.metadata.server_version


STOPPED = """
import sys, trio
from trio_codex import CodexConfig
from trio_codex.testing import offline_codex

async def main():
    async with offline_codex(CodexConfig(request_timeout=0.5)) as (codex, model, home):
        async def ask():
            for _ in range(1000):
                await codex.models()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            print("up", flush=True)
            await trio.to_thread.run_sync(sys.stdin.readline)
            nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.parametrize("seconds", [1.2])
def test_time_while_the_program_was_stopped_does_not_count(seconds):
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout.readline() == b"up\n"
        for _ in range(2):
            os.kill(program.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(program.pid, signal.SIGCONT)
            time.sleep(0.2)
        _, stderr = program.communicate(b"\n", timeout=20)
    assert program.returncode == 0, stderr.decode()
