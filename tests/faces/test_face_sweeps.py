"""Interrupt six programs at each of their calls in turn: nothing keeps running, and no scope stays open."""

import asyncio
import os
import sys
from contextlib import suppress

import psutil
import pytest
from face_drivers import FACES

from trio_codex._face.host import HOSTS, Host
from trio_codex.blocking._interrupts import interrupts

BLOCKING, AIO = FACES

SEED = int(os.environ["SWEEP_SEED"])
"""Selects the first call of a sample."""

pytestmark = pytest.mark.real


class Injected(Exception):
    """The exception that the sweep raises in place of a call."""


async def stream_a_turn(codex, model):
    model.say("a", "b", "c")
    async with (await codex.thread_start()).turn("go") as turn:
        async for _ in turn:
            pass


async def leave_a_turn_early(codex, model):
    model.hang("working")
    async with (await codex.thread_start()).turn("go") as turn:
        async for _ in turn.text():
            break


async def steer_and_interrupt(codex, model):
    model.hang("working")
    async with (await codex.thread_start()).turn("go") as turn:
        await turn.interrupt()
        await turn.wait()


async def run_a_command(codex, model):
    async with codex.exec(["cat"]) as process:
        await process.stdin.send_all(b"hello")
        await process.stdin.aclose()
        assert await process.stdout.receive_some() == b"hello"
        await process.wait()


async def listen_to_a_thread(codex, model):
    model.say("a")
    async with await codex.thread_start() as thread, thread.events() as events:
        await thread.run("go")
        async for event in events:
            if event.method == "turn/completed":
                break


async def go_through_lists(codex, model):
    model.say("a")
    await (await codex.thread_start()).run("go")
    await codex.models()
    async for thread in codex.threads(page_size=1):
        await codex.thread_read(thread.id)
        break


PROGRAMS = (
    stream_a_turn,
    leave_a_turn_early,
    steer_and_interrupt,
    run_a_command,
    listen_to_a_thread,
    go_through_lists,
)


@pytest.fixture
def strike(monkeypatch):
    """Interrupt the wait with the chosen number, or let the call with that number fail.

    An interrupt arrives before the caller waits. A late one arrives after the operation is done, before the caller wakes.
    """
    state = {"left": None, "kind": None, "task": None}

    def due(kind):
        if state["left"] is None or state["kind"] != kind:
            return False
        state["left"] -= 1
        return state["left"] == 0

    def interrupt():
        if state["task"] is None:
            interrupts.pending = True
        else:
            state["task"].cancel()

    for face in FACES:
        operation = face.module._face._Operation

        async def wait(self, cancel=None, wait=operation.wait):
            if due("interrupt"):
                interrupt()
            return await wait(self, cancel)

        monkeypatch.setattr(operation, "wait", wait)

    def wake(self, wake=BLOCKING.module._face._Operation.wake):
        if self._locks and due("late interrupt"):
            interrupt()
        wake(self)

    def set_(future, set_=AIO.module._face._set):
        is_awaited = not future.done()
        set_(future)
        if is_awaited and due("late interrupt"):
            interrupt()

    monkeypatch.setattr(BLOCKING.module._face._Operation, "wake", wake)
    monkeypatch.setattr(AIO.module._face, "_set", set_)
    submit = Host.submit

    def failing(self, *args):
        if due("error"):
            raise Injected
        submit(self, *args)

    monkeypatch.setattr(Host, "submit", failing)
    return state


async def check_idle(codex):
    [host] = HOSTS
    assert all(len(scopes) == 1 for scopes in host.scopes.values()), "a scope is still open"
    assert host._unfinished == {host.root.exited}, "an operation is still pending"
    for thread_id in (await codex.api.thread.loaded_list()).data:
        status = (await codex.thread_read(thread_id)).status
        assert status.type != "active", f"{thread_id} is still running"
    for process in psutil.Process(codex.pid).children(recursive=True):
        # The server has its own shell for each thread that starts.
        with suppress(psutil.NoSuchProcess):
            assert process.name() != "cat", "a command is still running"


async def attempt(face, program, strike, codex, model):
    """Run the program, and return whether it was stopped."""
    try:
        await program(codex, model)
        while strike["left"] <= 0:
            # Deliver an interrupt that arrived after everything was done.
            if face is AIO:
                await asyncio.sleep(0)
            elif interrupts.take():
                return True
    except (KeyboardInterrupt, asyncio.CancelledError, Injected):
        return True
    finally:
        # Discard responses for requests that the program never made.
        getattr(model, "value", model).face_target._responses.clear()
    return False


async def sweep(face, program, kind, strike, sample, record_property):
    async with face.offline() as (codex, model, _):
        strike |= {"left": sys.maxsize, "kind": kind}
        strike["task"] = asyncio.current_task() if face is AIO else None
        assert not await attempt(face, program, strike, codex, model)
        calls = sys.maxsize - strike["left"]
        assert calls >= 3
        step = max(1, calls // (sample or calls))
        tried = 0
        for number in range(1 + SEED % step, 10 * calls, step):
            strike["left"] = number
            stopped = await attempt(face, program, strike, codex, model)
            left, strike["left"] = strike["left"], None
            if left > 0:
                break
            assert stopped
            tried += 1
            if face is AIO and kind != "error":
                asyncio.current_task().uncancel()
            await check_idle(codex)
        else:
            raise AssertionError("the program never ends")
        assert tried
        record_property("checkpoints", calls)
        record_property("tried", tried)
        record_property("seed", sample and SEED)


@pytest.mark.parametrize(
    ("program", "face", "kind", "sample"),
    [
        pytest.param(
            program,
            face,
            kind,
            sample,
            id=f"{program.__name__}-{face.name}-{kind}-{sample or 'all'}",
            marks=[] if sample else [pytest.mark.long],
        )
        for number, program in enumerate(PROGRAMS)
        for turn, face in enumerate(FACES)
        for kind in ("interrupt", "late interrupt", "error")
        for sample in (3, None)
        # Interrupts are handled by each face. Failures are handled by shared code, so one face per program suffices.
        if sample is None or kind != "error" or (number + turn) % 2 == 0
    ],
)
def test_a_program_stopped_at_any_call_leaves_nothing_running(
    program, face, kind, sample, strike, record_property
):
    face.run(lambda: sweep(face, program, kind, strike, sample, record_property))
