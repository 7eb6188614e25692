"""A turn as a scope, against a scripted server: its races, its end by every way, and what leaves it."""

import contextvars
import signal
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import SimpleNamespace

import pytest
import trio

from trio_codex import CodexConfig, Policy, TurnStatus, errors, policies, wire
from trio_codex._process.pipes import PipeSendStream
from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted(config=None, *, policy=None):
    with trio.fail_after(5):
        async with fake_codex(config, policy=policy) as both:
            yield both


NOT_YET = "no active turn to interrupt"


async def test_leaving_early_interrupts_once_and_waits_for_the_terminal_event():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        left = trio.Event()

        async def body():
            async with thread.turn("hi"):
                pass
            left.set()

        nursery.start_soon(body)
        await server.accept_turn()
        asked = await server.expect("turn/interrupt")
        assert asked.params == {"threadId": "thread-1", "turnId": "turn-1"}
        await asked.answer({})
        await trio.testing.wait_all_tasks_blocked()
        assert not left.is_set(), "an accepted interrupt proves nothing"
        await server.end_turn(status="interrupted")
        await left.wait()
        assert server.unexpected() == []


async def test_an_interrupt_that_is_too_early_is_sent_again_until_it_is_accepted():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(leave_at_once, thread)
        await server.accept_turn(started=False)
        for _ in range(3):
            await (await server.expect("turn/interrupt")).refuse(NOT_YET)
        await server.start_turn()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


async def test_an_interrupt_refused_under_one_id_is_sent_under_the_id_the_server_names():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(leave_at_once, thread)
        await server.accept_turn(started=False)
        await (await server.expect("turn/interrupt")).refuse(
            "expected active turn id turn-1 but found turn-b"
        )
        asked = await server.expect("turn/interrupt")
        assert asked.params["turnId"] == "turn-b"
        await asked.answer({})
        await server.end_turn(status="interrupted")


async def test_a_turn_announced_under_a_second_id_is_interrupted_under_that_one():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(leave_at_once, thread)
        await (await server.expect("turn/start")).answer(started("turn-a"))
        asked = await server.expect("turn/interrupt")
        await server.start_turn("turn-b")
        await asked.refuse(NOT_YET)
        asked = await server.expect("turn/interrupt")
        assert asked.params["turnId"] == "turn-b"
        await asked.answer({})
        await server.end_turn("turn-a", status="interrupted")


async def test_a_terminal_event_that_comes_before_the_answer_to_the_interrupt_is_enough():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(leave_at_once, thread)
        await server.accept_turn()
        await server.expect("turn/interrupt")  # never answered, as after an earlier interrupt
        await server.end_turn(status="interrupted")


async def test_a_cancelled_start_waits_for_the_answer_and_interrupts_the_turn():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(leave_at_once, thread, scope)
        asked = await server.expect("turn/start")
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not scope.cancelled_caught
        await asked.answer(started())
        await server.start_turn()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught


async def test_a_cancelled_start_that_the_server_refuses_has_nothing_to_interrupt():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(leave_at_once, thread, scope)
        asked = await server.expect("turn/start")
        scope.cancel()
        await asked.refuse("no")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert server.unexpected() == []
        await run_one(thread, server)


async def test_a_cancelled_start_whose_answer_cannot_be_read_is_interrupted_under_the_announced_id():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(leave_at_once, thread, scope)
        asked = await server.expect("turn/start")
        scope.cancel()
        await server.start_turn("turn-x")
        await asked.answer("nonsense")
        asked = await server.expect("turn/interrupt")
        assert asked.params["turnId"] == "turn-x"
        await asked.answer({})
        await server.end_turn("turn-x", status="interrupted")


async def test_a_cancelled_start_whose_answer_cannot_be_read_is_interrupted_also_if_it_is_announced_late():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(leave_at_once, thread, scope)
        asked = await server.expect("turn/start")
        scope.cancel()
        await asked.answer("nonsense")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught, "there may be no turn at all"
        await server.start_turn("turn-x")
        await accept_interrupt(server, "thread-1", "turn-x")
        await trio.testing.wait_all_tasks_blocked()
        await run_one(thread, server)


async def test_a_body_that_is_already_cancelled_sends_nothing():
    async with scripted() as (codex, server):
        thread = await codex.thread_start()
        with trio.CancelScope() as scope:
            scope.cancel()
            async with thread.turn("hi"):
                pytest.fail("the body must not run")
        assert scope.cancelled_caught
        assert server.unexpected() == []


async def test_a_refused_start_raises_the_refusal_and_leaves_the_thread_usable():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(errors.InvalidRequestError, match="thread not found"):
                await thread.run("hi")

        nursery.start_soon(body)
        await (await server.expect("turn/start")).refuse("thread not found: thread-1")
        await trio.testing.wait_all_tasks_blocked()
        await run_one(thread, server)


async def test_a_second_turn_is_refused_while_one_is_starting_or_open():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "one")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(errors.TurnActive):
            await thread.run("two")
        await server.accept_turn()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(errors.TurnActive) as caught:
            await thread.run("two")
        assert caught.value.turn_id == "turn-1"
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        await run_one(thread, server)


async def test_a_turn_that_the_server_started_blocks_ours_until_it_has_ended():
    async with scripted() as (codex, server):
        thread = await codex.thread_start()
        await server.start_turn("goal-1")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(errors.TurnActive) as caught:
            await thread.run("hi")
        assert caught.value.turn_id == "goal-1"
        await server.end_turn("goal-1")
        await trio.testing.wait_all_tasks_blocked()
        await run_one(thread, server)


async def test_events_before_the_answer_are_kept_and_those_of_other_turns_are_not():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        seen = []

        async def body():
            async with thread.turn("hi") as turn:
                seen.extend([(event.method, event.raw.get("delta")) async for event in turn])

        nursery.start_soon(body)
        asked = await server.expect("turn/start")
        await server.start_turn()
        await server.delta("early")
        await asked.answer(started())
        await server.delta("other thread", thread_id="thread-9")
        await server.delta("other turn", turn_id="turn-9")
        await server.delta("late")
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
    assert seen == [
        ("turn/started", None),
        ("item/agentMessage/delta", "early"),
        ("item/agentMessage/delta", "late"),
        ("turn/completed", None),
    ]


async def test_a_late_end_of_the_turn_before_does_not_end_the_one_that_starts():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        await run_one(thread, server)
        results = []

        async def body():
            results.append(await thread.run("two"))

        nursery.start_soon(body)
        asked = await server.expect("turn/start")
        await server.end_turn("turn-1")
        await asked.answer(started("turn-2"))
        await server.end_turn("turn-1", status="failed")
        await server.end_turn("turn-2")
        await trio.testing.wait_all_tasks_blocked()
        assert [result.id for result in results] == ["turn-2"]
        assert results[0].status is TurnStatus.completed


async def test_a_retried_error_is_not_the_end_and_a_failed_turn_raises_with_its_result():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(errors.TurnFailed) as caught:
                await thread.run("hi")
            assert caught.value.result.status is TurnStatus.failed
            assert caught.value.result.error.message == "at last"

        nursery.start_soon(body)
        await server.accept_turn()
        where = {"threadId": "thread-1", "turnId": "turn-1"}
        await server.notify(
            "error", {**where, "willRetry": True, "error": {"message": "Reconnecting... 1/2"}}
        )
        await server.notify("error", {**where, "willRetry": False, "error": {"message": "at last"}})
        await server.end_turn(status="failed")


async def test_an_unknown_status_stays_what_the_server_said():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            assert (await thread.run("hi")).status == "paused"

        nursery.start_soon(body)
        await server.accept_turn()
        await server.end_turn(status="paused")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], None),
        ([("one", None), ("two", None)], "two"),
        ([("one", None), ("", None)], ""),
        ([("aside", "commentary")], None),
        ([("aside", "commentary"), ("answer", "final_answer")], "answer"),
        ([("answer", "final_answer"), ("more", None)], "answer"),
    ],
)
async def test_the_final_response_is_the_last_final_answer_or_else_the_last_without_a_phase(
    messages, expected
):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        results = []

        async def body():
            results.append(await thread.run("hi"))

        nursery.start_soon(body)
        await server.accept_turn()
        for number, (text, phase) in enumerate(messages):
            item = {"type": "agentMessage", "id": str(number), "text": text, "phase": phase}
            await server.item("completed", item)
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert results[0].final_response == expected
        assert [item.text for item in results[0].items] == [text for text, _ in messages]


async def test_what_the_body_raises_leaves_as_itself():
    error = ValueError("mine")
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(ValueError, match="mine") as caught:
                async with thread.turn("hi"):
                    raise error
            assert caught.value is error
            assert caught.value.__context__ is None

        nursery.start_soon(body)
        await server.accept_turn()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


def test_ctrl_c_in_the_body_interrupts_the_turn_and_leaves_as_itself():
    async def serve(server):
        await server.accept_turn()
        press_ctrl_c()
        await (await server.expect("turn/interrupt")).answer({})
        # A second one, while the scope waits for the proof, does not cut that short.
        press_ctrl_c()
        await server.end_turn(status="interrupted")

    ended = []

    async def main():
        async with scripted() as (codex, server), trio.open_nursery() as nursery:
            nursery.start_soon(serve, server)
            thread = await codex.thread_start()
            async with thread.turn("hi") as turn:
                try:
                    await trio.sleep_forever()
                finally:
                    ended.append(turn)

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        trio.run(main)
    assert ended[0].result.status is TurnStatus.interrupted


# -- a turn whose end does not come --------------------------------------------------------------------------------


async def test_an_abandoned_turn_is_reported_as_lost_and_still_blocks_its_thread(autojump_clock):
    config = CodexConfig(on_stuck_turn="abandon", interrupt_grace=2)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(expect_lost, thread, "abandoned")
        await server.accept_turn()
        await (await server.expect("turn/interrupt")).answer({})
        await trio.sleep(2.1)
        with pytest.raises(errors.TurnActive):
            await thread.run("it may still be running, so this would steer it")
        await server.end_turn(status="interrupted")
        await trio.testing.wait_all_tasks_blocked()
        await run_one(thread, server)


async def test_who_listens_to_the_agents_of_a_turn_that_is_abandoned_is_told(autojump_clock):
    config = CodexConfig(on_stuck_turn="abandon", interrupt_grace=2)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        listening, told = trio.Event(), trio.Event()

        async def listen(turn):
            async with turn.agent_events() as events:
                listening.set()
                with pytest.raises(errors.TurnLost):
                    await events.__anext__()
            told.set()

        async def body():
            with pytest.raises(errors.TurnLost):
                async with thread.turn("hi") as turn:
                    nursery.start_soon(listen, turn)
                    await listening.wait()

        nursery.start_soon(body)
        await server.accept_turn()
        await (await server.expect("turn/interrupt")).answer({})
        await told.wait()


async def test_a_stuck_turn_closes_a_connection_whose_server_is_not_ours(autojump_clock):
    config = CodexConfig(interrupt_grace=2)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        thread, bystander = await codex.thread_start(), await codex.thread_fork("thread-1")
        nursery.start_soon(expect_lost, thread, "of turn turn-1 of thread thread-1, it did not end")
        await server.accept_turn()
        await server.expect("turn/interrupt")
        nursery.start_soon(
            partial(expect_lost, bystander, "of turn turn-1 of thread thread-1, it did not end", wait=True)
        )
        await server.accept_turn("turn-2")
        error = await codex.wait_closed()
        assert isinstance(error, errors.ConnectionBroken)
        assert "turn-1" in error.reason


async def test_a_callback_that_does_not_end_holds_up_the_interrupt_no_longer_than_its_share(
    autojump_clock, caplog
):
    release = trio.Event()

    async def stubborn(_):
        with trio.CancelScope(shield=True):
            await release.wait()

    config = CodexConfig(interrupt_grace=2)
    async with (
        scripted(config, policy=Policy(command=stubborn)) as (codex, server),
        trio.open_nursery() as nursery,
    ):
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        await server.ask(0, COMMAND, QUESTION)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        scope.cancel()
        await (await server.expect("turn/interrupt")).answer({})
        assert trio.current_time() - start < 1
        await server.end_turn(status="interrupted")
        await trio.sleep(2)
        assert scope.cancelled_caught
        assert "does not end" in caplog.text
        await run_one(thread, server)
        release.set()


async def test_the_end_of_the_connection_ends_iteration_wait_and_scope_with_one_cause():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(errors.TurnLost) as at_exit:
                async with thread.turn("hi") as turn:
                    with pytest.raises(errors.TurnLost) as while_iterating:
                        async for event in turn:
                            assert event.method == "turn/started"
                    with pytest.raises(errors.TurnLost) as while_waiting:
                        await turn.wait()
                    assert turn.result.status is TurnStatus.lost
            caught = [at_exit.value, while_iterating.value, while_waiting.value]
            assert len({id(error) for error in caught}) == 3
            for error in caught:
                assert isinstance(error.__cause__, errors.ConnectionBroken)
                assert error.__cause__.args == caught[0].__cause__.args
                assert error.result.status is TurnStatus.lost

        nursery.start_soon(body)
        await server.accept_turn()
        await trio.testing.wait_all_tasks_blocked()
        await server.hang_up()


async def test_a_turn_whose_terminal_event_is_too_long_is_lost_and_the_connection_lives():
    async with scripted(CodexConfig(max_line_bytes=4096)) as (codex, server), trio.open_nursery() as nursery:
        server.give("model/list", {"data": []})
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(errors.TurnLost, match="longer than max_line_bytes"):
                await thread.run("hi")

        nursery.start_soon(body)
        await server.accept_turn()
        await server.end_turn(items=[{"type": "agentMessage", "id": "m", "text": "x" * 5000}])
        await trio.testing.wait_all_tasks_blocked()
        assert (await codex.models()).data == []


# -- what a turn started elsewhere ---------------------------------------------------------------------------------


def spawns(*children):
    return {
        "type": "collabAgentToolCall",
        "id": "spawn",
        "tool": "spawnAgent",
        "status": "completed",
        "senderThreadId": "thread-1",
        "receiverThreadIds": list(children),
        "agentsStates": {},
    }


def command(item_id, process_id):
    return {
        "type": "commandExecution",
        "id": item_id,
        "command": "sleep 9",
        "cwd": "/",
        "processId": process_id,
        "status": "inProgress",
        "commandActions": [],
    }


async def accept_interrupt(server, thread_id, turn_id):
    asked = await server.expect("turn/interrupt")
    assert asked.params == {"threadId": thread_id, "turnId": turn_id}
    await asked.answer({})
    await server.end_turn(turn_id, thread_id, status="interrupted")


async def start_agent(server, agent, *spawned_by):
    """A turn spawns an agent, which begins a turn of its own."""
    await server.item("completed", spawns(agent), *spawned_by)
    await server.start_turn(f"{agent}-turn", agent)


async def expect_termination(server, thread_id, process_id):
    asked = await server.expect("thread/backgroundTerminals/terminate")
    assert asked.params == {"threadId": thread_id, "processId": process_id}
    return asked


async def test_leaving_early_ends_the_agents_and_the_commands_of_the_turn_and_of_its_agents():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        await start_agent(server, "child")
        await start_agent(server, "grandchild", "child-turn", "child")
        await server.item("started", command("c1", "11"), "grandchild-turn", "grandchild")
        await server.item("started", command("c2", "22"))
        await server.item("started", command("c3", "33"))
        await server.item("completed", command("c3", "33"))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()

        await accept_interrupt(server, "thread-1", "turn-1")
        await (await expect_termination(server, "thread-1", "22")).answer({"terminated": True})
        await accept_interrupt(server, "child", "child-turn")
        await accept_interrupt(server, "grandchild", "grandchild-turn")
        asked = await expect_termination(server, "grandchild", "11")
        await asked.refuse("it is gone already, which is no error to us")
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []
    assert scope.cancelled_caught


async def test_a_turn_that_was_interrupted_before_it_was_left_ends_what_it_started_too():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        results = []

        async def body():
            async with thread.turn("hi") as turn:
                await turn.interrupt()
                await turn.wait()
            results.append(turn.result.status)

        nursery.start_soon(body)
        await server.accept_turn()
        await start_agent(server, "child")
        await server.item("started", command("c", "11"))
        await accept_interrupt(server, "thread-1", "turn-1")
        await (await expect_termination(server, "thread-1", "11")).answer({"terminated": True})
        assert results == []
        await accept_interrupt(server, "child", "child-turn")
        await trio.testing.wait_all_tasks_blocked()
        assert results == ["interrupted"]


async def test_an_agent_that_is_announced_after_its_root_was_interrupted_is_ended_too():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await server.end_turn(status="interrupted")
        child = {"id": "child-turn", "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        await server.notify("turn/started", {"threadId": "child", "turn": child})
        await accept_interrupt(server, "child", "child-turn")


async def test_commands_of_an_agent_that_ends_while_its_root_is_being_ended_are_ended_too():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        await start_agent(server, "child")
        await server.item("started", command("c1", "11"), "child-turn", "child")
        await server.item("started", command("c2", "22"))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await accept_interrupt(server, "thread-1", "turn-1")
        asked = await expect_termination(server, "thread-1", "22")
        await server.end_turn("child-turn", "child")
        await trio.testing.wait_all_tasks_blocked()
        await asked.answer({"terminated": True})
        await (await expect_termination(server, "child", "11")).answer({"terminated": True})


async def test_commands_of_an_agent_are_ended_also_if_the_agent_that_spawned_it_had_ended_before():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        await start_agent(server, "child")
        await start_agent(server, "grandchild", "child-turn", "child")
        await server.item("started", command("c", "11"), "grandchild-turn", "grandchild")
        await server.end_turn("child-turn", "child")
        await server.end_turn("grandchild-turn", "grandchild")
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await accept_interrupt(server, "thread-1", "turn-1")
        await (await expect_termination(server, "grandchild", "11")).answer({"terminated": True})
        await trio.testing.wait_all_tasks_blocked()
        threads = codex._session.threads
        assert [threads.find(name) for name in ("child", "grandchild")] == [None, None]


async def test_agents_that_outlive_their_root_are_forgotten_in_whatever_order_they_end():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await start_agent(server, "child")
        await server.end_turn()
        await start_agent(server, "grandchild", "child-turn", "child")
        await server.end_turn("grandchild-turn", "grandchild")
        await server.end_turn("child-turn", "child")
        await trio.testing.wait_all_tasks_blocked()
        threads = codex._session.threads
        assert [threads.find(name) for name in ("child", "grandchild")] == [None, None]


async def test_the_agents_of_a_turn_are_forgotten_with_it_unless_they_run_on():
    def spawned(thread_id, turn_id):
        turn = {"id": turn_id, "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        return {"threadId": thread_id, "turn": turn}

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        for name in ("done", "running"):
            await server.notify("turn/started", spawned(name, f"{name}-turn"))
        await server.end_turn("done-turn", "done")
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        threads = codex._session.threads
        assert [threads.find(name) is None for name in ("done", "running")] == [True, False]
        await server.end_turn("running-turn", "running")
        await trio.testing.wait_all_tasks_blocked()
        assert threads.find("running") is None


async def test_an_agent_that_is_announced_after_its_root_was_left_is_ended_too():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(leave_at_once, thread)
        await server.accept_turn()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")
        child = {"id": "child-turn", "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        await server.notify("turn/started", {"threadId": "child", "turn": child})
        asked = await server.expect("turn/interrupt")
        assert asked.params == {"threadId": "child", "turnId": "child-turn"}
        await asked.answer({})
        await server.end_turn("child-turn", "child", status="interrupted")


async def test_an_agent_that_no_item_names_is_found_by_the_root_of_its_turn():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        child = {"id": "child-turn", "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        await server.notify("turn/started", {"threadId": "child", "turn": child})
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        for thread_id, turn_id in [("thread-1", "turn-1"), ("child", "child-turn")]:
            asked = await server.expect("turn/interrupt")
            assert asked.params == {"threadId": thread_id, "turnId": turn_id}
            await asked.answer({})
            await server.end_turn(turn_id, thread_id, status="interrupted")


async def test_a_turn_that_completes_leaves_what_it_started_alone():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        item = {
            "type": "commandExecution", "id": "c", "command": "sleep 9", "cwd": "/",
            "processId": "1", "status": "inProgress", "commandActions": [],
        }  # fmt: skip
        await server.item("started", item)
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []


# -- policies ------------------------------------------------------------------------------------------------------

COMMAND = "item/commandExecution/requestApproval"
QUESTION = {
    "threadId": "thread-1", "turnId": "turn-1", "itemId": "c1", "startedAtMs": 0, "kind": "command",
    "command": "touch x", "cwd": "/", "environmentId": "local",
}  # fmt: skip


async def test_a_policy_that_raises_denies_cancels_the_body_and_leaves_as_policy_error():
    async def fail(_):
        raise RuntimeError("boom")

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(errors.PolicyError, match="boom") as caught:
                async with thread.turn("hi", policy=Policy(command=fail)):
                    await trio.sleep_forever()
            assert isinstance(caught.value.__cause__, RuntimeError)

        nursery.start_soon(body)
        await server.accept_turn()
        await server.ask(0, COMMAND, QUESTION)
        assert await server.answer_to(0) == {"decision": "decline"}
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


async def test_a_policy_that_returns_nonsense_is_a_policy_error_too():
    async def nonsense(_):
        return True

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(errors.PolicyError, match="bool"):
                await thread.run("hi", policy=Policy(command=nonsense))

        nursery.start_soon(body)
        await server.accept_turn()
        await server.ask("a string id", COMMAND, QUESTION)
        assert await server.answer_to("a string id") == {"decision": "decline"}
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


async def test_the_error_of_the_body_wins_over_that_of_a_policy_which_becomes_a_note():
    async def fail(_):
        raise RuntimeError("boom")

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            with pytest.raises(ValueError, match="mine") as caught:
                async with thread.turn("hi", policy=Policy(command=fail)):
                    try:
                        await trio.sleep_forever()
                    finally:
                        raise ValueError("mine")
            assert any("boom" in note for note in caught.value.__notes__)

        nursery.start_soon(body)
        await server.accept_turn()
        await server.ask(0, COMMAND, QUESTION)
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")


@pytest.mark.parametrize("ending", ["withdrawn", "turn ended", "left"])
async def test_a_parked_policy_is_cancelled_and_answers_nothing_when(ending):
    outcome = []

    async def park(request):
        assert request.command == "touch x"
        try:
            await trio.sleep_forever()
        finally:
            outcome.append("cancelled")

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.give("model/list", {"data": []})
        thread = await codex.thread_start(policy=Policy(command=park))
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        await server.ask(0, COMMAND, QUESTION)
        await trio.testing.wait_all_tasks_blocked()
        assert (await codex.models()).data == [], "a parked policy holds nothing up"
        if ending == "withdrawn":
            await server.notify("serverRequest/resolved", {"threadId": "thread-1", "requestId": 0})
        elif ending == "turn ended":
            await server.end_turn()
        else:
            scope.cancel()
            await server.expect("turn/interrupt")
        await trio.testing.wait_all_tasks_blocked()
        assert outcome == ["cancelled"]
        assert server.answers == {}
        if ending != "turn ended":
            scope.cancel()
            if ending == "withdrawn":
                await server.expect("turn/interrupt")
            await server.end_turn(status="interrupted")
        scope.cancel()


async def test_policies_fall_through_from_turn_to_thread_to_client_field_by_field():
    def says(decision):
        async def callback(_):
            return decision

        return callback

    client = Policy(command=says(policies.cancel()), file_change=says(policies.accept("session")))
    async with scripted(policy=client) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start(policy=Policy(command=says(policies.accept())))
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await server.ask(1, COMMAND, QUESTION)
        assert await server.answer_to(1) == {"decision": "accept"}
        await server.ask(2, "item/fileChange/requestApproval", QUESTION)
        assert await server.answer_to(2) == {"decision": "acceptForSession"}
        await server.ask(3, COMMAND, {**QUESTION, "threadId": "no thread of ours"})
        assert await server.answer_to(3) == {"decision": "cancel"}
        await server.end_turn()


async def test_a_file_change_request_shows_the_changes_that_only_its_item_tells():
    shown = []

    async def look(request):
        shown.extend(request.changes)
        return policies.accept()

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(lambda: thread.run("hi", policy=Policy(file_change=look)))
        await server.accept_turn()
        change = {"path": "/new.txt", "kind": {"type": "add"}, "diff": "new line\n"}
        await server.item(
            "started", {"type": "fileChange", "id": "c1", "changes": [change], "status": "inProgress"}
        )
        await server.ask(0, "item/fileChange/requestApproval", QUESTION)
        assert await server.answer_to(0) == {"decision": "accept"}
        await server.end_turn()
    assert shown == [
        wire.FileUpdateChange(path="/new.txt", kind=wire.AddPatchChangeKind(), diff="new line\n")
    ]


async def test_a_child_agent_asks_the_policy_of_the_turn_that_spawned_it():
    async def allow(_):
        return policies.accept()

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(lambda: thread.run("hi", policy=Policy(command=allow)))
        await server.accept_turn()
        spawn = {
            "type": "collabAgentToolCall", "id": "s", "tool": "spawnAgent", "status": "completed",
            "senderThreadId": "thread-1", "receiverThreadIds": ["child"], "agentsStates": {},
        }  # fmt: skip
        await server.item("completed", spawn)
        await server.start_turn("child-turn", "child")
        await server.ask(0, COMMAND, {**QUESTION, "threadId": "child", "turnId": "child-turn"})
        assert await server.answer_to(0) == {"decision": "accept"}
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        # Also after the parent has ended: somebody has to answer, and the lineage still tells who.
        await server.ask(1, COMMAND, {**QUESTION, "threadId": "child", "turnId": "child-turn"})
        assert await server.answer_to(1) == {"decision": "accept"}


def spawning(*children):
    return {
        "type": "collabAgentToolCall", "id": "s", "tool": "spawnAgent", "status": "completed",
        "senderThreadId": "thread-1", "receiverThreadIds": list(children), "agentsStates": {},
    }  # fmt: skip


AROUND = contextvars.ContextVar("AROUND", default="nothing")


@asynccontextmanager
async def asking_agent(policy, method=COMMAND, params=None):
    """Give a turn in which an agent has asked something, whatever has become of that."""
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        left = trio.Event()
        turn_scope = trio.CancelScope()

        async def body():
            AROUND.set("the turn")
            with turn_scope:
                async with thread.turn("hi", policy=policy) as turn:
                    await turn.wait()
            left.set()

        nursery.start_soon(body)
        await server.accept_turn()
        await server.item("completed", spawning("child"))
        await server.start_turn("child-turn", "child")
        await server.ask(0, method, {**(params or QUESTION), "threadId": "child", "turnId": "child-turn"})
        await trio.testing.wait_all_tasks_blocked()
        yield SimpleNamespace(codex=codex, server=server, scope=turn_scope, left=left)


async def test_what_an_agent_has_asked_is_answered_although_the_turn_that_spawned_it_completes_before():
    gate = trio.Event()

    async def allow(_):
        await gate.wait()
        assert AROUND.get() == "the turn"
        return policies.accept()

    async with asking_agent(Policy(command=allow)) as one:
        await one.server.end_turn()
        await one.left.wait()
        assert one.server.answers == {}
        gate.set()
        assert await one.server.answer_to(0) == {"decision": "accept"}


async def test_what_an_agent_has_asked_ends_with_its_own_turn_although_the_turn_that_spawned_it_goes_on():
    cancelled = trio.Event()

    async def carry_out(_):
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    call = {"callId": "d1", "tool": "lookup", "arguments": {}}
    async with asking_agent(Policy(tool_call=carry_out), "item/tool/call", call) as one:
        await one.server.end_turn("child-turn", "child", status="interrupted")
        await cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert [record.reason for record in one.codex.decisions] == ["its turn ended"]
        assert not one.left.is_set()
        await one.server.end_turn()
    assert one.server.answers == {}


async def test_what_an_agent_has_asked_is_cancelled_before_the_scope_of_the_turn_that_spawned_it_is_left():
    steps = []

    async def wait(request):
        steps.append(f"{request.thread_id} asks")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            steps.append("cancelled")

    async with asking_agent(Policy(command=wait)) as one:
        one.scope.cancel()
        asked = await one.server.expect("turn/interrupt")
        assert steps == ["child asks", "cancelled"]
        await one.server.item("completed", spawning("child", "late child"))
        await one.server.start_turn("late-turn", "late child")
        await one.server.ask(1, COMMAND, {**QUESTION, "threadId": "late child", "turnId": "late-turn"})
        await trio.testing.wait_all_tasks_blocked()
        assert steps == ["child asks", "cancelled"]
        await asked.answer({})
        await one.server.end_turn(status="interrupted")
        for thread_id, turn_id in (("child", "child-turn"), ("late child", "late-turn")):
            await (await one.server.expect("turn/interrupt")).answer({})
            await one.server.end_turn(turn_id, thread_id, status="interrupted")
        await one.left.wait()
    assert one.server.answers == {}


async def test_a_callback_for_an_agent_that_fails_fails_the_turn_that_spawned_it_only_while_that_runs(caplog):
    gate = trio.Event()

    async def fail(_):
        await gate.wait()
        raise RuntimeError("boom")

    async with asking_agent(Policy(command=fail)) as one:
        await one.server.end_turn()
        await one.left.wait()
        gate.set()
        assert await one.server.answer_to(0) == {"decision": "decline"}
    assert ["boom" in record.getMessage() for record in caplog.records] == [True]
    failure = pytest.RaisesExc(errors.PolicyError, match="boom")
    with pytest.RaisesGroup(failure, flatten_subgroups=True):
        async with asking_agent(Policy(command=fail)) as one:
            await (await one.server.expect("turn/interrupt")).answer({})
            await one.server.end_turn(status="interrupted")
            await (await one.server.expect("turn/interrupt")).answer({})
            await one.server.end_turn("child-turn", "child", status="interrupted")
            await trio.sleep_forever()


def test_ctrl_c_in_the_middle_of_a_line_that_is_written_at_once_leaves_it_whole(monkeypatch):
    send_nowait = PipeSendStream.send_nowait

    def write_a_part(self, data):
        if not bytes(data).startswith(b'{"id":') or b"turn/steer" not in bytes(data):
            return send_nowait(self, data)
        sent = send_nowait(self, bytes(data)[:10])
        signal.raise_signal(signal.SIGINT)
        return sent

    monkeypatch.setattr(PipeSendStream, "send_nowait", write_a_part)

    async def main():
        with trio.fail_after(5):
            async with fake_codex(process=True) as (codex, server), trio.open_nursery() as nursery:
                server.give("model/list", {"data": []})
                server.give("turn/steer", {"turnId": "turn-1"})
                thread = await codex.thread_start()
                nursery.start_soon(server.accept_turn)
                async with thread.turn("hi") as turn:
                    with pytest.raises(KeyboardInterrupt):
                        await turn.steer("more")
                    await codex.models()
                    await server.end_turn()
                    await turn.wait()

    trio.run(main)


# -- what a body can do with its turn ------------------------------------------------------------------------------


async def test_text_gives_deltas_and_the_whole_of_a_message_that_came_without():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        pieces = []

        async def body():
            async with thread.turn("hi") as turn:
                pieces.extend([piece async for piece in turn.text()])

        nursery.start_soon(body)
        await server.accept_turn()
        await server.delta("he", "m1")
        await server.delta("llo", "m1")
        await server.item("completed", {"type": "agentMessage", "id": "m1", "text": "hello"})
        await server.item("completed", {"type": "agentMessage", "id": "m2", "text": "whole"})
        await server.end_turn()
    assert pieces == ["he", "llo", "whole"]


async def test_only_one_task_may_read_a_turn_and_breaking_off_does_not_end_it():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            async with thread.turn("hi") as turn:
                async for _ in turn:
                    break
                async with trio.open_nursery() as readers:
                    readers.start_soon(turn.__anext__)
                    await trio.testing.wait_all_tasks_blocked()
                    with pytest.raises(trio.BusyResourceError):
                        await turn.text().__anext__()
                    await server.delta("x")
                with pytest.raises(errors.TurnActive):
                    _ = turn.result
                await server.end_turn()
                assert (await turn.wait()).status is TurnStatus.completed

        nursery.start_soon(body)
        await server.accept_turn()


async def test_steering_waits_until_the_turn_is_announced_and_names_it():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            async with thread.turn("hi") as turn:
                await turn.steer("rather this")
                await turn.wait()
                with pytest.raises(errors.InvalidRequestError, match="no active turn to steer"):
                    await turn.steer("too late")
                await turn.interrupt()

        nursery.start_soon(body)
        await server.accept_turn(started=False)
        await (await server.expect("turn/steer")).refuse("no active turn to steer")
        await server.start_turn()
        asked = await server.expect("turn/steer")
        assert asked.params["expectedTurnId"] == "turn-1"
        assert asked.params["input"][0]["text"] == "rather this"
        await asked.answer({"turnId": "turn-1"})
        await server.end_turn()
        await (await server.expect("turn/steer")).refuse("no active turn to steer")
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []


async def test_a_steer_that_misses_the_end_of_its_turn_is_refused_and_not_lost_in_silence():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        refused = []

        async def body():
            async with thread.turn("hi") as turn:
                with pytest.raises(errors.InvalidRequestError, match="no active turn to steer") as caught:
                    await turn.steer("more")
                refused.append(caught.value)

        nursery.start_soon(body)
        await server.accept_turn()
        asked = await server.expect("turn/steer")
        await server.end_turn()
        await asked.refuse("no active turn to steer")
        await (await server.expect("turn/steer")).refuse("no active turn to steer")
        await trio.testing.wait_all_tasks_blocked()
        assert len(refused) == 1


async def test_a_steer_that_was_accepted_last_thing_is_not_sent_again():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        steered = trio.Event()

        async def body():
            async with thread.turn("hi") as turn:
                await turn.steer("more")
                steered.set()

        nursery.start_soon(body)
        await server.accept_turn()
        asked = await server.expect("turn/steer")
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert not steered.is_set(), "whether it was accepted is not known yet"
        await asked.answer({"turnId": "turn-1"})
        await steered.wait()
        assert server.unexpected() == []


async def test_a_steer_that_nobody_answers_is_bounded(autojump_clock):
    async with scripted(CodexConfig(request_timeout=2)) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            async with thread.turn("hi") as turn:
                with pytest.raises(errors.RequestTimeout, match="turn/steer"):
                    await turn.steer("more")
                await turn.wait()

        nursery.start_soon(body)
        await server.accept_turn()
        await server.expect("turn/steer")
        await trio.sleep(2.1)
        await server.end_turn()


async def test_a_turn_that_cannot_be_steered_says_so():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            async with thread.turn("hi") as turn:
                with pytest.raises(errors.InvalidRequestError, match="cannot steer a review"):
                    await turn.steer("no")
                with pytest.raises(TypeError, match="ExternalMessage"):
                    from trio_codex import ExternalMessage

                    await turn.steer(ExternalMessage("tool", "text"))
                await server.end_turn()
                await turn.wait()

        nursery.start_soon(body)
        await server.accept_turn()
        data = {"codexErrorInfo": {"activeTurnNotSteerable": {"turnKind": "review"}}}
        await (await server.expect("turn/steer")).refuse("cannot steer a review turn", data=data)


async def test_input_that_cannot_be_encoded_is_refused_before_anything_is_sent():
    async with scripted() as (codex, server):
        thread = await codex.thread_start()
        with pytest.raises(errors.LocalProtocolError, match="lone surrogate"):
            await thread.run("\udcff")
        with pytest.raises(ValueError, match="at least one input"):
            await thread.run([])
        with pytest.raises(TypeError, match="the input of a turn cannot be an int: pass a string"):
            await thread.run([3])
        assert server.unexpected() == []
        await run_one(thread, server)


# -- helpers -------------------------------------------------------------------------------------------------------


@trio.lowlevel.enable_ki_protection
def press_ctrl_c():
    """Have Ctrl-C delivered as Trio does it: at the next checkpoint of the main task."""
    signal.raise_signal(signal.SIGINT)


def started(turn_id="turn-1"):
    return {"turn": {"id": turn_id, "items": [], "status": "inProgress"}}


async def leave_at_once(thread, scope=None):
    with scope or trio.CancelScope():
        async with thread.turn("hi"):
            pass


async def sleep_in_turn(thread, scope):
    with scope:
        async with thread.turn("hi"):
            await trio.sleep_forever()


async def expect_lost(thread, match, *, wait=False):
    with pytest.raises(errors.TurnLost, match=match) as caught:
        async with thread.turn("hi") as turn:
            if wait:
                with suppress(errors.TurnLost):
                    await turn.wait()
    assert caught.value.result.status is TurnStatus.lost


async def run_one(thread, server):
    """Prove that the thread is usable."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.run, "again")
        await server.accept_turn()
        await server.end_turn()


async def test_a_policy_that_fails_while_its_turn_is_cancelled_from_outside_is_in_the_log(caplog):
    async def fail_late(_):
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("boom")

    async with scripted(policy=Policy(command=fail_late)) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        question = {"threadId": "thread-1", "turnId": "turn-1", "itemId": "c1", "startedAtMs": 0}
        await server.ask(0, "item/commandExecution/requestApproval", question)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")
    assert ["boom" in record.getMessage() for record in caplog.records] == [True]
