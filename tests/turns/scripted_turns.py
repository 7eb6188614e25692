"""Helpers for turns on a scripted server."""

from contextlib import asynccontextmanager

import trio

from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted(config=None, *, policy=None):
    with trio.fail_after(5):
        async with fake_codex(config, policy=policy) as both:
            yield both


async def accept_interrupt(server, thread_id, turn_id):
    asked = await server.expect("turn/interrupt")
    assert asked.params == {"threadId": thread_id, "turnId": turn_id}
    await asked.answer({})
    await server.end_turn(turn_id, thread_id, status="interrupted")


COMMAND = "item/commandExecution/requestApproval"


QUESTION = {
    "threadId": "thread-1", "turnId": "turn-1", "itemId": "c1", "startedAtMs": 0, "kind": "command",
    "command": "touch x", "cwd": "/", "environmentId": "local",
}  # fmt: skip


async def leave_at_once(thread, scope=None):
    with scope or trio.CancelScope():
        async with thread.turn("hi"):
            pass


async def sleep_in_turn(thread, scope):
    with scope:
        async with thread.turn("hi"):
            await trio.sleep_forever()


async def run_one(thread, server):
    """Run a turn to check that the thread is usable."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.run, "again")
        await server.accept_turn()
        await server.end_turn()
