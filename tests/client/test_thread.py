"""Operations on a thread other than plain turns: reviews, compaction, shell commands, background terminals."""

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trio_codex import Policy, TurnStatus, errors, policies, wire
from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted():
    with trio.fail_after(5):
        async with fake_codex() as (codex, server):
            yield await codex.thread_start(), server


async def start(server, turn_id, root_id=None):
    turn = {"id": turn_id, "rootTurnId": root_id or turn_id, "items": [], "status": "inProgress"}
    await server.notify("turn/started", {"threadId": "thread-1", "turn": turn})


# -- reviews -------------------------------------------------------------------------------------------------------


async def accept_review(server):
    asked = await server.expect("review/start")
    turn = {"id": "turn-a", "items": [], "status": "inProgress"}
    await asked.answer({"turn": turn, "reviewThreadId": "thread-1"})
    await start(server, "turn-b", "turn-a")
    return asked


@pytest.mark.parametrize(
    ("target", "on_the_wire"),
    [
        (None, {"type": "uncommittedChanges"}),
        ("the tests", {"type": "custom", "instructions": "the tests"}),
        (wire.BaseBranchReviewTarget(branch="main"), {"type": "baseBranch", "branch": "main"}),
    ],
    ids=["default", "words", "branch"],
)
async def test_a_review_is_a_turn_that_ends_under_the_id_in_its_response(target, on_the_wire):
    async with scripted() as (thread, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with thread.review(target) as turn:
                result = await turn.wait()
            assert (result.id, result.final_response) == ("turn-a", "it is fine")

        asked = await accept_review(server)
        assert asked.params == {"threadId": "thread-1", "target": on_the_wire}
        await server.item("completed", {"type": "agentMessage", "id": "1", "text": "it is fine"}, "turn-a")
        await server.end_turn("turn-a")


async def test_a_review_left_early_is_interrupted_by_the_announced_id():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with thread.review() as turn:
                async for _ in turn:
                    break
            assert turn.result.status is TurnStatus.interrupted

        await accept_review(server)
        await server.delta("text", turn_id="turn-a")
        asked = await server.expect("turn/interrupt")
        assert asked.params["turnId"] == "turn-b"
        await asked.answer({})
        await server.end_turn("turn-a", status="interrupted")
    assert server.unexpected() == []


async def test_a_review_that_ends_before_it_is_answered_is_complete():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with thread.review() as turn:
                result = await turn.wait()
            assert (result.id, result.final_response) == ("turn-a", "it is fine")

        asked = await server.expect("review/start")
        await start(server, "turn-b", "turn-a")
        await server.item("completed", {"type": "agentMessage", "id": "1", "text": "it is fine"}, "turn-a")
        await server.end_turn("turn-a")
        turn = {"id": "turn-a", "items": [], "status": "inProgress"}
        await asked.answer({"turn": turn, "reviewThreadId": "thread-1"})


async def test_a_review_started_by_a_plain_request_blocks_its_thread_until_it_ends():
    async with scripted() as (thread, server):
        await start(server, "turn-b", "turn-a")
        async with thread.events() as events:
            await server.delta("text", turn_id="turn-a")
            async for event in events:
                if event.method == "item/agentMessage/delta":
                    break
            with pytest.raises(errors.TurnActive):
                async with thread.review():
                    pytest.fail("the body must not run")
            await server.end_turn("turn-a")
            async for event in events:
                if event.method == "turn/completed":
                    break
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                await thread.run("next")

            await server.accept_turn()
            await server.end_turn()


# -- compaction ----------------------------------------------------------------------------------------------------


async def test_a_compaction_ends_with_its_turn():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:
        done = trio.Event()

        @nursery.start_soon
        async def _():
            result = await thread.compact()
            assert (result.id, result.status) == ("turn-1", TurnStatus.completed)
            done.set()

        await (await server.expect("thread/compact/start")).answer({})
        await start(server, "turn-1")
        await trio.testing.wait_all_tasks_blocked()
        assert not done.is_set(), "the response does not prove the end"
        await server.end_turn("turn-1")
        await done.wait()


async def test_a_compaction_cancelled_before_it_is_announced_is_interrupted_once_it_is():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        @nursery.start_soon
        async def _():
            with scope:
                await thread.compact()

        asked = await server.expect("thread/compact/start")
        scope.cancel()
        await asked.answer({})
        await trio.testing.wait_all_tasks_blocked()
        assert not scope.cancelled_caught, "it is about to start"
        await start(server, "turn-1")
        asked = await server.expect("turn/interrupt")
        assert asked.params["turnId"] == "turn-1"
        await asked.answer({})
        await server.end_turn("turn-1", status="interrupted")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught


async def test_a_compaction_that_fails_raises():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.TurnFailed):
                await thread.compact()

        await (await server.expect("thread/compact/start")).answer({})
        await start(server, "turn-1")
        await server.end_turn("turn-1", status="failed")


async def test_a_thread_with_an_open_turn_cannot_be_compacted_or_reviewed():
    # The server itself would interrupt the turn.
    async with scripted() as (thread, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with thread.turn("hi") as turn:
                with pytest.raises(errors.TurnActive):
                    await thread.compact()
                with pytest.raises(errors.TurnActive):
                    async with thread.review():
                        pytest.fail("the body must not run")
                await turn.wait()

        await server.accept_turn()
        await server.end_turn()
    assert server.unexpected() == []


# -- shell commands ------------------------------------------------------------------------------------------------


def shell_item(item_id="item-1", status="inProgress", output=None):
    return {
        "type": "commandExecution",
        "id": item_id,
        "source": "userShell",
        "status": status,
        "command": "bash -lc ls",
        "commandActions": [],
        "cwd": "/",
        "aggregatedOutput": output,
        "exitCode": None if output is None else 0,
    }


async def test_a_shell_command_on_an_idle_thread_is_a_separate_turn():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            item = await thread.shell_command("ls")
            assert (item.exit_code, item.aggregated_output) == (0, "out")

        asked = await server.expect("thread/shellCommand")
        assert asked.params["command"] == "ls"
        assert asked.params["timeoutMs"] > 365 * 24 * 3600 * 1000
        await asked.answer({})
        await start(server, "turn-1")
        await server.item("started", shell_item())
        await server.item("completed", shell_item(status="completed", output="out"))
        await server.end_turn("turn-1")


async def test_a_cancelled_shell_command_on_an_idle_thread_is_interrupted():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        @nursery.start_soon
        async def _():
            with scope:
                await thread.shell_command("sleep 100")

        await (await server.expect("thread/shellCommand")).answer({})
        await start(server, "turn-1")
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn("turn-1", status="interrupted")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught


async def test_a_shell_turn_without_the_command_item_fails():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.TurnFailed):
                await thread.shell_command("ls")

        await (await server.expect("thread/shellCommand")).answer({})
        await start(server, "turn-1")
        await server.end_turn("turn-1", status="failed")


async def test_concurrent_shell_commands_in_an_open_turn_are_separate_items():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:
        outputs = {}

        async def run(command):
            outputs[command] = (await thread.shell_command(command)).aggregated_output

        @nursery.start_soon
        async def _():
            async with thread.turn("hi") as turn, trio.open_nursery() as commands:
                commands.start_soon(run, "one")
                commands.start_soon(run, "two")
                await turn.wait()

        await server.accept_turn()
        first = await server.expect("thread/shellCommand")
        await first.answer({})
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == [], "the second one waits until the first is known"
        await server.item("started", shell_item("item-1"))
        second = await server.expect("thread/shellCommand")
        await second.answer({})
        await server.item("started", shell_item("item-2"))
        await server.item("completed", shell_item("item-2", "completed", second.params["command"]))
        await server.item("completed", shell_item("item-1", "completed", first.params["command"]))
        await server.end_turn()
    assert outputs == {"one": "one", "two": "two"}


async def test_a_shell_command_that_misses_the_open_turn_runs_in_its_own_turn():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        @nursery.start_soon
        async def _():
            async with thread.turn("hi") as turn, trio.open_nursery() as commands:

                @commands.start_soon
                async def _():
                    with scope:
                        await thread.shell_command("sleep 100")

                await turn.wait()

        await server.accept_turn()
        asked = await server.expect("thread/shellCommand")
        await server.end_turn()
        await asked.answer({})
        await start(server, "turn-2")
        await server.item("started", shell_item(), "turn-2")
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        asked = await server.expect("turn/interrupt")
        assert asked.params["turnId"] == "turn-2"
        await asked.answer({})
        await server.end_turn("turn-2", status="interrupted")


async def test_the_end_of_the_connection_fails_a_shell_command():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.TurnLost):
                await thread.shell_command("ls")

        await (await server.expect("thread/shellCommand")).answer({})
        await start(server, "turn-1")
        await server.hang_up()


# -- background terminals ------------------------------------------------------------------------------------------


def terminal(process_id):
    return {"processId": process_id, "itemId": "item", "command": "sleep 1", "cwd": "/"}


async def test_all_pages_of_terminals_are_listed_and_terminals_ended_individually_or_together():
    async with scripted() as (thread, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            found = await thread.terminals.list()
            assert [each.process_id for each in found] == ["1", "2"]
            assert await thread.terminals.terminate("1") is True
            await thread.terminals.clean()

        asked = await server.expect("thread/backgroundTerminals/list")
        await asked.answer({"data": [terminal("1")], "nextCursor": "next"})
        asked = await server.expect("thread/backgroundTerminals/list")
        assert asked.params == {"threadId": "thread-1", "cursor": "next"}
        await asked.answer({"data": [terminal("2")], "nextCursor": None})
    assert server.unexpected() == []


async def test_operations_on_a_closed_thread_raise():
    async with scripted() as (thread, _):
        async with thread:
            pass
        for use in (thread.compact, lambda: thread.shell_command("ls"), thread.terminals.list):
            with pytest.raises(errors.ThreadClosed):
                await use()
        for use in (thread.review, lambda: thread.goal("reach it")):
            with pytest.raises(errors.ThreadClosed):
                use()


# -- the working directory
# ------------------------------------------------------------------------------------------------


async def test_the_cwd_of_a_thread_is_the_one_last_reported_by_the_server():
    seen = []

    async def look(request):
        seen.append(request.cwd)
        return policies.decline()

    question = {"threadId": "thread-1", "turnId": "turn-1", "itemId": "c1", "startedAtMs": 0}
    with trio.fail_after(5):
        async with (
            fake_codex(policy=Policy(file_change=look)) as (codex, server),
            trio.open_nursery() as nursery,
        ):
            thread = await codex.thread_start()
            nursery.start_soon(thread.run, "hi")
            await server.accept_turn()
            with pytest.raises(errors.TurnActive):
                await thread.run("there", cwd="/there")
            await server.ask(0, "item/fileChange/requestApproval", question)
            await server.answer_to(0)
            await server.notify(
                "thread/settings/updated", {"threadId": "thread-1", "threadSettings": {"cwd": "/elsewhere"}}
            )
            await server.ask(1, "item/fileChange/requestApproval", question)
            await server.answer_to(1)
            await server.end_turn()
    assert seen == ["/", "/elsewhere"]
