"""Turns as scopes on a scripted server: races, every way they end, and the exceptions they raise."""

import signal
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from trio_codex import CodexConfig, Policy, TurnStatus, errors
from turns.scripted_turns import (
    COMMAND,
    QUESTION,
    accept_interrupt,
    leave_at_once,
    run_one,
    scripted,
    sleep_in_turn,
)

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
        assert not left.is_set(), "an accepted interrupt does not prove the end"
        await server.end_turn(status="interrupted")
        await left.wait()
        assert server.unexpected() == []


async def test_an_interrupt_that_is_sent_too_early_is_repeated_until_accepted():
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


async def test_a_turn_announced_under_a_second_id_is_interrupted_by_that_id():
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


async def test_a_terminal_event_suffices_without_a_response_to_the_interrupt():
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


async def test_a_cancelled_start_that_the_server_refuses_sends_no_interrupt():
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


async def test_a_cancelled_start_with_an_invalid_response_is_interrupted_by_the_announced_id():
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


async def test_a_cancelled_start_with_an_invalid_response_is_interrupted_even_if_announced_late():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(leave_at_once, thread, scope)
        asked = await server.expect("turn/start")
        scope.cancel()
        await asked.answer("nonsense")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught, "there may be no turn"
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


async def test_a_refused_start_raises_and_the_thread_stays_usable():
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


async def test_a_turn_started_by_the_server_blocks_new_turns_until_it_has_ended():
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


async def test_events_before_the_response_are_kept_but_not_those_of_other_turns():
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


async def test_a_late_end_of_the_previous_turn_does_not_end_a_starting_one():
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


async def test_a_retried_error_does_not_end_the_turn_and_a_failed_turn_raises_with_its_result():
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


async def test_an_unknown_status_is_kept_as_sent():
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
async def test_the_final_response_is_the_last_final_answer_or_the_last_message_without_a_phase(
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


async def test_exceptions_from_the_body_propagate_unchanged():
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


def test_ctrl_c_in_the_body_interrupts_the_turn_and_raises_keyboard_interrupt():
    async def serve(server):
        await server.accept_turn()
        press_ctrl_c()
        await (await server.expect("turn/interrupt")).answer({})
        # A second Ctrl-C does not shorten the wait for the terminal event.
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


# -- turns that do not end --------------------------------------------------------------------------------


async def test_an_abandoned_turn_is_reported_as_lost_and_still_blocks_its_thread(autojump_clock):
    config = CodexConfig(on_stuck_turn="abandon", interrupt_grace=2)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(expect_lost, thread, "abandoned")
        await server.accept_turn()
        await (await server.expect("turn/interrupt")).answer({})
        await trio.sleep(2.1)
        with pytest.raises(errors.TurnActive):
            await thread.run("it may still be running, so a new turn would steer it")
        await server.end_turn(status="interrupted")
        await trio.testing.wait_all_tasks_blocked()
        await run_one(thread, server)


async def test_listening_to_agents_of_an_abandoned_turn_ends(autojump_clock):
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


async def test_a_stuck_turn_closes_the_connection_to_an_attached_server(autojump_clock):
    config = CodexConfig(interrupt_grace=2)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        thread, bystander = await codex.thread_start(), await codex.thread_fork("thread-1")
        nursery.start_soon(
            expect_lost, thread, "turn turn-1 of thread thread-1 did not end within interrupt_grace"
        )
        await server.accept_turn()
        await server.expect("turn/interrupt")
        nursery.start_soon(
            partial(
                expect_lost,
                bystander,
                "turn turn-1 of thread thread-1 did not end within interrupt_grace",
                wait=True,
            )
        )
        await server.accept_turn("turn-2")
        error = await codex.wait_closed()
        assert isinstance(error, errors.ConnectionBroken)
        assert "turn-1" in error.reason


async def test_a_callback_that_does_not_end_delays_the_interrupt_by_at_most_its_share_of_the_grace(
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
        assert "one of its callbacks is still running" in caplog.text
        await run_one(thread, server)
        release.set()


async def test_losing_the_connection_ends_iteration_wait_and_scope_with_the_same_cause():
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


async def test_a_turn_whose_terminal_event_is_too_long_is_lost_and_the_connection_survives():
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


# -- helpers -------------------------------------------------------------------------------------------------------


@trio.lowlevel.enable_ki_protection
def press_ctrl_c():
    """Deliver Ctrl-C as Trio does, at the next checkpoint of the main task."""
    signal.raise_signal(signal.SIGINT)


def started(turn_id="turn-1"):
    return {"turn": {"id": turn_id, "items": [], "status": "inProgress"}}


async def expect_lost(thread, match, *, wait=False):
    with pytest.raises(errors.TurnLost, match=match) as caught:
        async with thread.turn("hi") as turn:
            if wait:
                with suppress(errors.TurnLost):
                    await turn.wait()
    assert caught.value.result.status is TurnStatus.lost


# -- whether the input is stored -----------------------------------------------------------------------------------


MESSAGE = {"type": "userMessage", "id": "item-1", "content": [{"type": "text", "text": "hi"}]}


@asynccontextmanager
async def waiting_until_stored():
    """Yield the server, and what ``wait_stored`` has returned so far, in an open turn."""
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread, returned = await codex.thread_start(), []

        @nursery.start_soon
        async def _():
            async with thread.turn("hi") as turn:
                returned.append(await turn.wait_stored())
                await turn.wait_ended()
                assert await turn.wait_stored() is returned[0]
                assert (await anext(turn)).method == "turn/started"

        await server.accept_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert returned == []
        yield server, returned
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("item/completed", {"item": MESSAGE}),
        (
            "thread/tokenUsage/updated",
            {"tokenUsage": {"total": {"totalTokens": 1}, "last": {"totalTokens": 1}}},
        ),
    ],
)
async def test_a_completed_item_or_a_report_of_usage_shows_that_the_input_is_stored(method, params):
    async with waiting_until_stored() as (server, returned):
        await server.item("started", MESSAGE)
        await server.notify(method, {"threadId": "thread-1", "turnId": "another turn", **params})
        await trio.testing.wait_all_tasks_blocked()
        assert returned == []
        await server.notify(method, {"threadId": "thread-1", "turnId": "turn-1", **params})
        await trio.testing.wait_all_tasks_blocked()
        assert returned == [True]
        await server.end_turn()


async def test_a_turn_that_ends_without_an_item_is_not_known_to_be_stored():
    async with waiting_until_stored() as (server, returned):
        await server.item("started", MESSAGE)
        await server.end_turn(status="failed")
    assert returned == [False]
