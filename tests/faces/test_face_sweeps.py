"""Interrupt six programs at each of their calls in turn: nothing keeps running, and no scope stays open."""

import asyncio
from contextlib import suppress

import pytest
from face_drivers import FACES

from trio_codex._face.host import HOSTS, Host
from trio_codex.blocking._interrupts import interrupts

BLOCKING, AIO = FACES

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
    """Interrupt the wait, or fail the call, that has the chosen number."""
    state = {"left": None, "kind": None}

    def due():
        if state["left"] is None:
            return False
        state["left"] -= 1
        return state["left"] == 0

    for face in FACES:
        operation = face.module._face._Operation

        async def wait(self, cancel=None, face=face, wait=operation.wait):
            if state["kind"] == "interrupt" and due():
                if face is AIO:
                    asyncio.current_task().cancel()
                else:
                    interrupts.pending = True
            return await wait(self, cancel)

        monkeypatch.setattr(operation, "wait", wait)
    submit = Host.submit

    def failing(self, *args):
        if state["kind"] == "error" and due():
            raise Injected
        submit(self, *args)

    monkeypatch.setattr(Host, "submit", failing)
    return state


async def check_idle(codex):
    [host] = HOSTS
    assert all(len(scopes) == 1 for scopes in host.scopes.values()), "a scope is left here"
    for thread_id in (await codex.api.thread.loaded_list()).data:
        status = (await codex.thread_read(thread_id)).status
        assert status.type != "active", f"{thread_id} is left running"


async def sweep(face, program, kind, strike):
    async with face.offline() as (codex, model, _):
        for number in range(1, 60):
            strike |= {"left": number, "kind": kind}
            with suppress(KeyboardInterrupt, asyncio.CancelledError, Injected):
                await program(codex, model)
                if face is AIO:
                    # Deliver a cancellation that arrived after everything was done.
                    await asyncio.sleep(0)
            rest, strike["left"] = strike["left"], None
            if rest > 0:
                break
            if face is AIO:
                asyncio.current_task().uncancel()
            await check_idle(codex)
            # Discard responses for requests that the program never made.
            getattr(model, "value", model).face_target._responses.clear()
        else:
            raise AssertionError("the program never ends")
        assert number >= 3


@pytest.mark.parametrize(
    ("program", "face", "kind"),
    [
        pytest.param(
            program,
            face,
            kind,
            id=f"{program.__name__}-{face.name}-{kind}",
            # The faces are interrupted in different ways. A failing call takes code that they share, so they take turns.
            marks=[pytest.mark.long] if kind == "error" and (number + turn) % 2 else [],
        )
        for number, program in enumerate(PROGRAMS)
        for turn, face in enumerate(FACES)
        for kind in ("interrupt", "error")
    ],
)
def test_a_program_stopped_at_any_call_leaves_nothing_running(program, face, kind, strike):
    face.run(lambda: sweep(face, program, kind, strike))
