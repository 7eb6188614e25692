"""Goals against a scripted server."""

from contextlib import asynccontextmanager

import trio
import trio.testing

from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted(config=None):
    with trio.fail_after(5):
        async with fake_codex(config) as (codex, server):
            server.give("thread/goal/clear", {"cleared": False})
            yield codex, server


@asynccontextmanager
async def on_thread(config=None, **options):
    """Yield a thread, its server, and a nursery for tasks that use the thread concurrently."""
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        yield await codex.thread_start(**options), server, nursery


def goal(status):
    return {
        "threadId": "thread-1",
        "objective": "reach it",
        "status": status,
        "tokensUsed": 7,
        "timeUsedSeconds": 0,
        "createdAt": 0,
        "updatedAt": 0,
    }


async def tell(server, status, turn_id=None):
    params = {"threadId": "thread-1", "turnId": turn_id, "goal": goal(status)}
    await server.notify("thread/goal/updated", params)


async def accept(server):
    asked = await server.expect("thread/goal/set")
    await asked.answer({"goal": goal("active")})
    await tell(server, "active")
    return asked


async def begin(server):
    asked = await accept(server)
    await server.start_turn("one")
    return asked


async def accept_pause(server):
    asked = await server.expect("thread/goal/set")
    assert asked.params == {"threadId": "thread-1", "status": "paused"}
    await tell(server, "paused")
    await asked.answer({"goal": goal("paused")})


async def accept_interrupt(server, turn_id):
    asked = await server.expect("turn/interrupt")
    assert asked.params["turnId"] == turn_id
    await asked.answer({})
    await server.end_turn(turn_id, status="interrupted")
