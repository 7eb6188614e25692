"""Run sessions of every kind while all imports fail, and print the attempted imports."""

import sys

import attrs
import trio

from trio_codex import Policy, open_codex, policies, tool, wire
from trio_codex.testing import fake_process, notification, result
from trio_codex.wire import _convert
from trio_codex.wire._registry import CLIENT_REQUESTS, NOTIFICATIONS, SERVER_REQUESTS

imported = []


class Refusing:
    """An import hook that records each name and raises."""

    def find_spec(self, name, path=None, target=None):
        imported.append(name)
        raise ImportError(f"{name} is imported during a session")


@attrs.frozen
class Plan:
    steps: list[str]


@tool
async def add(a: int, b: int = 2) -> int:
    """Add."""
    await trio.lowlevel.checkpoint()
    return a + b


async def accept(request):
    await trio.lowlevel.checkpoint()
    return policies.accept()


async def decline(request):
    await trio.lowlevel.checkpoint()
    return policies.decline()


POLICY = Policy(
    **{field.name: decline for field in attrs.fields(Policy) if field.name != "name"}
    | {"command": accept, "file_change": accept, "permissions": accept}
)


async def requests_of_the_server(server):
    for method in SERVER_REQUESTS:
        await server.ask(method, method)
        await server.answer_to(method)
        await server.ask(method, method, {"threadId": 5})
        await server.answer_to(method)
    await server.ask("call", "item/tool/call", tool="add", arguments={"a": 1})
    assert (await server.answer_to("call"))["success"]
    await server.ask("bad call", "item/tool/call", tool="add", arguments={"a": "x"})
    assert not (await server.answer_to("bad call"))["success"]
    await server.ask("unknown", "item/newThing", {})
    await server.answer_to("unknown")


async def notifications(codex, server):
    async with codex.events() as events:
        for method in NOTIFICATIONS:
            await server.notify(method, notification(method))
            event = await anext(events)
            assert not isinstance(event.params, wire.UnknownNotification), event.params
            await server.notify(method, {"threadId": 5})
            assert (await anext(events)).params is not None
        await server.notify("thread/newThing", {})
        assert isinstance((await anext(events)).params, wire.UnknownNotification)
        await server.send_line(b"this is no JSON")
        await anext(events)


async def types_of_requests():
    for method, spec in CLIENT_REQUESTS.items():
        value = _convert.encode(result(method))
        _convert.decode_result(method, value)
        if spec.params is not None:
            _convert.preload([method])


async def one_turn(server, text='{"steps": ["one"]}'):
    await server.accept_turn()
    await server.item("completed", {"type": "agentMessage", "id": "m", "text": text})
    await server.end_turn()


async def turns(codex, server):
    thread = await codex.thread_start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_turn, server)
        assert (await thread.run("plan", output_type=Plan)).output == Plan(["one"])

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with thread.turn("left early") as turn:
                await anext(aiter(turn))

        await server.accept_turn("turn-2")
        await server.delta("x", turn_id="turn-2")
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn("turn-2", status="interrupted")

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with thread.review() as turn:
                await turn.wait()

        await (await server.expect("review/start")).answer(
            {"turn": {"id": "turn-3", "items": [], "status": "inProgress"}, "reviewThreadId": "thread-1"}
        )
        await server.start_turn("turn-3")
        await server.end_turn("turn-3")


async def goal(codex, server):
    thread = await codex.thread_start()
    goal = {
        "threadId": "thread-1", "objective": "x", "status": "active", "tokensUsed": 7, "timeUsedSeconds": 0,
        "createdAt": 0, "updatedAt": 0,
    }  # fmt: skip
    server.give("thread/goal/clear", {"cleared": False})
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with thread.goal("reach it") as open_goal:
                await open_goal.wait()

        await (await server.expect("thread/goal/set")).answer({"goal": goal})
        for status in ("active", "complete"):
            told = {"threadId": "thread-1", "turnId": None, "goal": {**goal, "status": status}}
            await server.notify("thread/goal/updated", told)
            if status == "active":
                await server.start_turn("turn-g")
        await server.end_turn("turn-g")


async def scopes(codex, server):
    server.give("fs/watch", {"path": "/canonical"})
    server.give("fs/unwatch", {})
    async with codex.watch("/a") as changes:
        await server.notify("fs/changed", {"watchId": "watch-1", "changedPaths": ["/a"]})
        assert await anext(changes) == ("/a",)

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with codex.exec(["ls"]) as process:
                assert await process.wait() == 0

        command = await server.expect("command/exec")
        await (await server.expect("command/exec/write")).answer({})
        await command.answer({"exitCode": 0, "stdout": "", "stderr": ""})
    server.give("model/list", _convert.encode(result("model/list")))
    await codex.models()


async def main():
    with trio.fail_after(60):
        async with fake_process(validate=False, strict=False) as (config, server):
            async with open_codex(config, policy=POLICY, tools=[add]) as codex:
                sys.meta_path.insert(0, Refusing())
                await requests_of_the_server(server)
                await notifications(codex, server)
                await types_of_requests()
                await turns(codex, server)
                await goal(codex, server)
                await scopes(codex, server)
            sys.meta_path.pop(0)
    sys.stdout.write(" ".join(imported))


if __name__ == "__main__":
    trio.run(main)
