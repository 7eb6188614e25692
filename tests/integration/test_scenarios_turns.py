"""Scenarios from the official SDK's test suite about turns, on the real server with its model replaced.

Test names contain the numbers of the scenarios.
"""

import os
import signal

import pytest
import trio
from real import offline

from trio_codex import TurnStatus, errors, wire
from trio_codex.binary import find_binary
from trio_codex.testing import Delay, Gate, Text, Usage

pytestmark = pytest.mark.real


async def test_s01_a_client_identifies_its_server_and_starts_a_thread():
    async with offline() as (codex, _, home):
        assert codex.metadata.user_agent
        assert codex.metadata.server_version == find_binary().version
        assert codex.metadata.codex_home == str(home.codex_home)
        assert codex.metadata.platform_family
        assert codex.metadata.platform_os
        assert (await codex.thread_start()).id


async def test_s02_models_can_be_listed_including_hidden_ones():
    async with offline() as (codex, _, _home):
        models = await codex.models(include_hidden=True)
        assert [model.id for model in models.data] == ["mock-model"]


async def test_s04_a_run_returns_text_items_and_usage_and_applies_its_options():
    async with offline() as (codex, model, _):
        model.say("Hello from the mock.")
        result = await (await codex.thread_start()).run("hello")
        assert result.final_response == "Hello from the mock."
        assert [item.text for item in result.items if isinstance(item, wire.AgentMessageThreadItem)] == [
            "Hello from the mock."
        ]
        assert result.usage.total.total_tokens == result.turn_usage.total_tokens == 15
        [request] = model.requests
        assert request.model == "mock-model"
        assert request.body["stream"] is True
        assert request.last_user_text == "hello"


async def test_s05_a_turn_can_choose_its_model_and_usage_comes_from_the_model():
    async with offline() as (codex, model, _):
        usage = Usage(100, 20, cached_input_tokens=30, reasoning_output_tokens=7)
        model.respond(Text("one"), usage)
        result = await (await codex.thread_start()).run("hello", model="mock-model-override")
        assert model.requests[0].model == "mock-model-override"
        for reported in (result.usage.last, result.usage.total, result.turn_usage):
            assert reported.input_tokens == 100
            assert reported.cached_input_tokens == 30
            assert reported.output_tokens == 20
            assert reported.reasoning_output_tokens == 7
            assert reported.total_tokens == 120


async def test_s06_s07_s08_s09_the_final_response_is_the_last_final_answer_or_the_last_message_without_a_phase():
    async with offline() as (codex, model, _):
        thread = await codex.thread_start()

        async def run(*messages):
            model.respond(*messages)
            result = await thread.run("go on")
            texts = [
                (item.text, item.phase)
                for item in result.items
                if isinstance(item, wire.AgentMessageThreadItem)
            ]
            return result.final_response, texts

        assert await run(Text("first"), Text("second")) == ("second", [("first", None), ("second", None)])
        assert await run(Text("not this"), Text("")) == ("", [("not this", None), ("", None)])
        assert await run(Text("thinking", phase="commentary")) == (None, [("thinking", "commentary")])
        assert await run(Text("thinking", phase="commentary"), Text("so", phase="final_answer")) == (
            "so",
            [("thinking", "commentary"), ("so", "final_answer")],
        )


async def test_s10_a_failed_response_raises_with_the_models_message():
    async with offline() as (codex, model, _):
        model.fail_event("server_error", "boom from the mock")
        thread = await codex.thread_start()
        with pytest.raises(errors.TurnFailed) as caught:
            await thread.run("trigger a failure")
        assert "boom from the mock" in caught.value.result.error.message
        assert caught.value.result.error.codex_error_info == "other"
        model.say("as good as new")
        assert (await thread.run("again")).final_response == "as good as new"


async def test_s11_s13_a_stream_has_exactly_its_deltas_and_one_terminal_event():
    async with offline() as (codex, model, _):
        model.say("he", "llo")
        model.say("wor", "ld")
        thread = await codex.thread_start()
        async with thread.turn("stream, please") as turn:
            events = [event.params async for event in turn]
        assert [
            params.delta for params in events if isinstance(params, wire.AgentMessageDeltaNotification)
        ] == [
            "he",
            "llo",
        ]
        completed = [params.item for params in events if isinstance(params, wire.ItemCompletedNotification)]
        assert [item.text for item in completed if isinstance(item, wire.AgentMessageThreadItem)] == ["hello"]
        ends = [params.turn for params in events if isinstance(params, wire.TurnCompletedNotification)]
        assert [(end.id, end.status) for end in ends] == [(turn.id, "completed")]
        async with thread.turn("the text alone") as turn:
            assert [piece async for piece in turn.text()] == ["wor", "ld"]


async def test_s12_waiting_for_a_turn_returns_its_result():
    async with offline() as (codex, model, _):
        model.say("done")
        thread = await codex.thread_start()
        async with thread.turn("do it") as turn:
            result = await turn.wait()
        assert (result.id, result.thread_id, result.status) == (turn.id, thread.id, TurnStatus.completed)
        assert result is turn.result


async def test_s14_other_requests_are_answered_while_text_is_streaming():
    async with offline() as (codex, model, _):
        model.respond(Text("one", Delay(0.03), "two", Delay(0.03), "three"))
        thread = await codex.thread_start()
        async with thread.turn("slowly") as turn:
            pieces = turn.text()
            first = await pieces.__anext__()
            with trio.fail_after(1):
                assert (await codex.models()).data
            rest = [piece async for piece in pieces]
        assert [first, *rest] == ["one", "two", "three"]


async def test_s15_two_turns_read_alternately_do_not_mix():
    async with offline() as (codex, model, _):
        for name in ("first", "second"):
            model.script(name).respond(Text(f"{name}-1", Delay(0.03), f"{name}-2"))
        one, two = await codex.thread_start(), await codex.thread_start()
        async with one.turn("first") as first, two.turn("second") as second:
            texts = [first.text(), second.text()]
            seen = [await text.__anext__() for text in (*texts, *texts)]
        assert seen == ["first-1", "second-1", "first-2", "second-2"]
        assert first.result.final_response == "first-1first-2"
        assert second.result.final_response == "second-1second-2"


async def test_s16_a_steer_reaches_the_model_within_the_same_turn():
    async with offline() as (codex, model, _):
        model.hang("before")
        model.say("after the steer")
        thread = await codex.thread_start()
        async with thread.turn("start") as turn:
            turn_id = turn.id
            async for piece in turn.text():
                if piece == "before":
                    await turn.steer("rather this")
        assert turn.result.id == turn_id
        # A message that was streaming when the steer arrived is dropped (``features.instant_interrupt``).
        assert turn.result.final_response == "after the steer"
        assert model.requests[1].last_user_text == "rather this"


async def test_s17_an_interrupted_turn_has_that_status_and_the_next_one_works():
    async with offline() as (codex, model, _):
        model.hang("never ending")
        model.say("here I am")
        thread = await codex.thread_start()
        async with thread.turn("slowly") as turn:
            async for _ in turn.text():
                await turn.interrupt()
        assert turn.result.status is TurnStatus.interrupted
        assert turn.result.final_response is None
        assert (await thread.run("next")).final_response == "here I am"


async def test_s45_breaking_out_of_a_stream_does_not_end_the_turn():
    async with offline() as (codex, model, _):
        gate = Gate()
        model.respond(Text("one", gate, "two"))
        thread = await codex.thread_start()
        async with thread.turn("tell me") as turn:
            async for _ in turn.text():
                break
            gate.open()
            result = await turn.wait()
        assert result.final_response == "onetwo"


async def test_s46_the_death_of_the_server_ends_its_turns_and_wakes_all_tasks():
    async with offline() as (codex, model, _):
        model.hang("working")
        thread = await codex.thread_start()
        with pytest.raises(errors.TurnLost) as caught:
            async with thread.turn("work") as turn:
                async for _ in turn.text():
                    os.kill(codex.pid, signal.SIGKILL)
        assert isinstance(caught.value.__cause__, errors.ServerExited)
        with pytest.raises(errors.ServerExited):
            await thread.run("again")


@pytest.mark.parametrize(
    ("value", "options", "error"),
    [
        ([], {}, ValueError),
        (42, {}, TypeError),
        ("hi", {"no_such_option": 1}, TypeError),
        ("hi", {"approval_mode": "maybe"}, ValueError),
        ("x" * 1_048_577, {}, errors.InvalidParamsError),
        ("hi \ud800", {}, errors.LocalProtocolError),
    ],
    ids=["empty", "wrong type", "unknown option", "unknown mode", "too long", "not text"],
)
async def test_s47_invalid_input_raises_before_the_model_is_asked_and_the_thread_stays_usable(
    value, options, error
):
    async with offline() as (codex, model, _):
        thread = await codex.thread_start()
        with pytest.raises(error):
            await thread.run(value, **options)
        assert model.requests == []
        model.say("yes")
        assert (await thread.run("and now?")).final_response == "yes"


async def test_s47_a_busy_thread_refuses_a_second_turn():
    async with offline() as (codex, model, _):
        model.hang("busy")
        thread = await codex.thread_start()
        async with thread.turn("first"):
            await model.wait_for_requests(1)
            with pytest.raises(errors.TurnActive):
                await thread.run("second")
        assert len(model.requests) == 1


async def test_s53_requests_overlap():
    async with offline() as (codex, _, _home):
        order = []

        async def slow():
            await codex.api.command.exec(command=["sleep", "0.2"])
            order.append("slow")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            await trio.testing.wait_all_tasks_blocked()
            await codex.models()
            order.append("fast")
        assert order == ["fast", "slow"]
