"""The scripted server: it validates the client's messages, builds its own, and injects faults."""

import pytest
import trio
import trio.testing

from trio_codex import CodexConfig, Policy, TurnStatus, errors, policies, wire
from trio_codex.testing import FakeServer, fake_codex, item


@pytest.fixture(autouse=True)
async def bounded():
    with trio.fail_after(5):
        yield


def leaf_of(group):
    while isinstance(group, BaseExceptionGroup):
        (group,) = group.exceptions
    return str(group)


@pytest.mark.parametrize(
    ("method", "params", "complaint"),
    [
        (
            "turn/start",
            {"threadId": 5, "input": []},
            r"not a valid TurnStartParams: $.threadId: expected a string",
        ),
        ("turn/start", {"input": []}, "not a valid TurnStartParams"),
        ("turn/start", {"threadId": "t", "input": [], "color": 1}, "does not have: $.color"),
        (
            "turn/start",
            {"threadId": "t", "input": [{"type": "text", "text": "x", "bold": True}]},
            "does not have: $.input[0].bold",
        ),
    ],
)
async def test_a_request_that_violates_the_protocol_fails_the_test_immediately(method, params, complaint):
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: ASYNC401  # at any depth of groups
        async with fake_codex() as (codex, _):
            await codex.request(method, params)
    assert complaint in leaf_of(caught.value)


async def test_validation_can_be_disabled_and_ignores_unknown_methods():
    async with fake_codex(validate=False, strict=False) as (codex, server), trio.open_nursery() as nursery:
        nursery.start_soon(codex.request, "turn/start", {"color": 1})
        assert (await server.expect("turn/start")).params == {"color": 1}
        nursery.cancel_scope.cancel()
    async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
        nursery.start_soon(codex.request, "my/own", {"color": 1})
        await (await server.expect("my/own")).answer({})


async def test_the_clients_responses_are_validated():
    async with fake_codex() as (_, server):
        await server.ask("q", "item/fileChange/requestApproval")
        assert await server.answer_to("q") == {"decision": "decline"}
    client_end, server_end = trio.testing.memory_stream_pair()
    bare = FakeServer(server_end)
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: ASYNC401  # at any depth of groups
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bare.serve)
            nursery.start_soon(bare.ask, 1, "item/fileChange/requestApproval")
            await client_end.receive_some()
            await client_end.send_all(b'{"id":1,"result":{"decision":5}}\n')
            await trio.sleep_forever()
    assert (
        "the client answered item/fileChange/requestApproval, which is not a valid FileChangeRequestApprovalResponse"
        in leaf_of(caught.value)
    )


async def test_an_unexpected_request_fails_the_test_at_its_end():
    with pytest.raises(AssertionError, match="unexpected requests: model/list"):
        async with fake_codex() as (codex, _):
            await ask_in_vain(codex)
    async with fake_codex(strict=False) as (codex, _):
        await ask_in_vain(codex)


async def test_messages_are_built_from_the_given_fields():
    async with fake_codex(policy=Policy(command=accept)) as (codex, server):
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:

            async def serve():
                await (await server.expect("turn/start")).answer(turn=item_turn())
                await server.notify("turn/started")
                await server.ask(1, "item/commandExecution/requestApproval", command="ls")
                assert await server.answer_to(1) == {"decision": "accept"}
                await server.item("completed", item("agentMessage", text="done"))
                await server.notify("turn/completed")

            nursery.start_soon(serve)
            result = await thread.run("go")
    assert result.status is TurnStatus.completed
    assert result.final_response == "done"


async def test_an_unused_fault_fails_the_test_at_its_end():
    with pytest.raises(AssertionError, match="no line was sent after fault\\('junk'\\)"):
        async with fake_codex() as (codex, server):
            await codex.thread_start()
            server.fault("junk")
    async with fake_codex() as (_, server):
        server.fault("mute")
        for _ in range(2):
            await server.notify("configWarning", {"summary": "nobody hears"})


async def ask_in_vain(codex):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(codex.models)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def accept(_):
    return policies.accept()


def item_turn():
    return wire.Turn(id="turn-1", items=[], status="inProgress")


async def ask_models(server, codex):
    """Send a request, have the server answer with its fault, and return the outcome."""
    async with trio.open_nursery() as nursery:

        async def serve():
            await (await server.expect("model/list")).answer(data=[])

        nursery.start_soon(serve)
        try:
            return (await codex.models()).data
        except errors.CodexError as exc:
            return type(exc)


@pytest.mark.parametrize(
    ("fault", "outcome", "lives"),
    [
        ("mute", errors.RequestTimeout, False),
        ("junk", [], True),
        ("duplicate", [], True),
        ("oversize", errors.FrameTooLong, True),
        ("cut", errors.ConnectionBroken, False),
        ("hang_up", errors.ConnectionBroken, False),
    ],
)
async def test_a_fault_affects_the_next_line(fault, outcome, lives, autojump_clock):
    config = CodexConfig(max_line_bytes=10_000, request_timeout=3)
    async with fake_codex(config, strict=False) as (codex, server):
        server.fault(fault)
        assert await ask_models(server, codex) == outcome
        if lives:
            assert await ask_models(server, codex) == []


async def test_a_reused_request_id_does_not_return_the_earlier_response():
    async def decide(request):
        return policies.accept() if request.command == "ls" else policies.decline()

    with trio.fail_after(5):
        async with fake_codex(policy=Policy(command=decide)) as (_, server):
            for command, decision in (("ls", "accept"), ("rm", "decline")):
                await server.ask(1, "item/commandExecution/requestApproval", command=command)
                assert await server.answer_to(1) == {"decision": decision}
