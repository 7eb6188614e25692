"""Rejoin running turns of the real server from the same client, another client, or another process."""

import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from test_real_attach import break_off, lost, open_turns

from shared_server import shared_server, two_clients
from trio_codex import DecidedBy, Policy, TurnStatus, attach_codex, errors, open_codex, policies, tool, wire
from trio_codex._tools.toolbox import Toolbox
from trio_codex.testing import Command, Delay, Gate, Hang, MockModel, Response, Text, offline_home

pytestmark = pytest.mark.real

SEED = int(os.environ["SWEEP_SEED"])

MOMENTS = 50

GAP = "trio_codex/gap"


async def events_of(turn):
    return [event.method async for event in turn]


@pytest.mark.parametrize("kind", ["unix", "token", "signed"])
async def test_another_client_rejoins_a_running_turn_and_gets_its_complete_result(kind):
    async with two_clients(kind) as (one, other, model):
        gate = Gate()
        model.run_command("echo hi")
        model.say("one ", "two ", gate, "three ", "four", phase="final_answer")
        thread = await one.thread_start()
        async with thread.turn("go", leave_running=True) as turn:
            await gate.reached()
        with pytest.raises(errors.TurnActive):
            await thread.run("another")
        await one.aclose()
        async with await other.thread_resume(thread.id) as resumed:
            with pytest.raises(errors.TurnActive):
                await resumed.run("another")
            async with resumed.rejoin() as rejoined:
                assert (rejoined.id, rejoined.thread) == (turn.id, resumed)
                gate.open()
                methods = await events_of(rejoined)
                result = rejoined.result
            stored = await anext(aiter(resumed.turns(items_view="full")))
        assert methods[0] == GAP
        assert methods[-1] == "turn/completed"
        assert "item/agentMessage/delta" in methods
        assert result.status is TurnStatus.completed
        assert result.final_response == "one two three four"
        assert [type(item) for item in result.items] == [
            wire.UserMessageThreadItem,
            wire.CommandExecutionThreadItem,
            wire.AgentMessageThreadItem,
        ]
        assert result.items[1].aggregated_output == "hi\n"
        assert list(result.items) == list(stored.items)


async def test_leaving_a_rejoined_turn_does_not_end_it():
    async with two_clients() as (one, other, model):
        gate = Gate()
        model.say("one ", gate, "two")
        thread = await one.thread_start()
        async with thread.turn("go") as turn:
            await gate.reached()
            for _ in range(2):
                async with await other.thread_resume(thread.id) as resumed, resumed.rejoin() as rejoined:
                    assert rejoined.waiting_on is not None
            await other.aclose()
            gate.open()
            assert (await turn.wait()).final_response == "one two"


async def test_leaving_with_end_true_interrupts_the_turn_for_all_clients():
    async with two_clients() as (one, other, model):
        model.hang("one ")
        thread = await one.thread_start()
        async with thread.turn("go") as turn:
            await model.wait_for_requests(1)
            resumed = await other.thread_resume(thread.id)
            async with resumed.rejoin(end=True) as rejoined:
                pass
            assert rejoined.result.status is TurnStatus.interrupted
            assert (await turn.wait()).status is TurnStatus.interrupted
            with pytest.raises(errors.NoTurnRuns):
                async with (await other.thread_resume(thread.id)).rejoin():
                    pytest.fail("there is nothing to rejoin")


async def test_a_turn_that_ended_after_the_resume_is_rejoined_with_its_result():
    async with two_clients() as (one, other, model):
        gate = Gate()
        model.say("one ", gate, "two")
        thread = await one.thread_start()
        async with thread.turn("go") as turn:
            await gate.reached()
            resumed = await other.thread_resume(thread.id)
            async with resumed.events() as events:
                gate.open()
                await turn.wait()
                async for event in events:
                    if event.method == "turn/completed":
                        break
            async with resumed.rejoin() as ended:
                assert ended.result.final_response == "one two"
                assert ended.result.status is TurnStatus.completed
                assert [type(item) for item in ended.result.items] == [
                    wire.UserMessageThreadItem,
                    wire.AgentMessageThreadItem,
                ]
                assert await events_of(ended) == [GAP]


async def test_a_rejoined_turn_can_be_steered_interrupted_and_read_as_text():
    async with two_clients() as (one, other, model):
        gate = Gate()
        model.say("one ", gate, "two")
        model.say("steered ", Gate())
        thread = await one.thread_start()
        async with thread.turn("go", leave_running=True):
            await gate.reached()
        async with await other.thread_resume(thread.id) as resumed, resumed.rejoin() as turn:
            await turn.steer("rather this")
            await model.wait_for_requests(2)
            async for piece in turn.text():
                assert piece == "steered "
                break
            await turn.interrupt()
            assert (await turn.wait()).status is TurnStatus.interrupted


async def test_a_rejoined_review_is_complete_although_it_is_listed_under_another_id():
    async with two_clients() as (one, other, model):
        gate = Gate()
        model.say("one ", gate, "two")
        thread = await one.thread_start()
        async with thread.review("all of it") as review:
            await gate.reached()
            await trio.sleep(0.2)
            async with await other.thread_resume(thread.id) as resumed, resumed.rejoin() as turn:
                gate.open()
                result = await turn.wait()
            assert result.id == review.id
            assert result.final_response == "one two"
            assert isinstance(result.items[0], wire.EnteredReviewModeThreadItem)
        assert review.result.final_response == "one two"


@pytest.mark.parametrize("ends", ["by itself", "early"])
async def test_a_thread_can_be_resumed_and_used_after_a_review(ends):
    # The server keeps listing the review as running, under the id that ran it.
    async with two_clients() as (one, other, model):
        model.respond(*([Text("fine")] if ends == "by itself" else [Hang()]))
        model.default = Response(Text("done"))
        thread = await one.thread_start()
        async with thread.review("all of it") as review:
            await model.wait_for_requests(1)
            if ends == "by itself":
                await review.wait()
        async with await other.thread_resume(thread.id) as resumed:
            with pytest.raises(errors.NoTurnRuns):
                async with resumed.rejoin():
                    pass
            assert (await resumed.run("go on")).final_response == "done"


@asynccontextmanager
async def another_process(url):
    """Yield a function that makes another process rejoin a thread's turn, and returns what that process saw."""
    program = str(Path(__file__).with_name("rejoining.py"))
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, program, url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        received = b""

        async def rejoin(thread_id):
            nonlocal received
            await process.stdin.send_all(thread_id.encode() + b"\n")
            while b"\n" not in received:
                chunk = await process.stdout.receive_some()
                assert chunk, "the other process has ended"
                received += chunk
            line, _, received = received.partition(b"\n")
            return json.loads(line)

        async with process.stdin, process.stdout:
            yield rejoin


@pytest.mark.long
async def test_whenever_a_turns_scope_exits_another_process_rejoins_it_and_gets_the_full_text():
    random = Random(SEED)
    were_running = 0
    with trio.fail_after(300):
        async with MockModel() as model:
            with offline_home(model) as home:
                async with shared_server(home, "unix") as (url, _, _), another_process(url) as rejoin:
                    for number in range(MOMENTS):
                        words = [f"{number}.{index} " for index in range(20)]
                        model.say("first ", f"{number}", delay=0.01)
                        model.respond(Text(f"before {number}", phase="commentary"), Command("echo hi"))
                        model.say(*words, delay=0.02, phase="final_answer")
                        async with attach_codex(url) as codex:
                            thread = await codex.thread_start()
                            await thread.run("first")
                            async with thread.turn("go", leave_running=True) as turn:
                                await trio.sleep(random.choice((0, 0.06, 0.6)) * random.random())
                        turn_id, status, texts, final, was_running = await rejoin(thread.id)
                        assert (turn_id, status) == (turn.id, "completed")
                        assert texts == [f"before {number}", "".join(words)]
                        assert final == "".join(words)
                        were_running += was_running
    assert were_running > MOMENTS / 2


# -- server requests ------------------------------------------------------------------------------------------


def accepting(asked):
    async def accept(request):
        await trio.lowlevel.checkpoint()
        asked.append(request)
        return policies.accept()

    return Policy(command=accept)


@pytest.mark.parametrize("given_to", ["the client", "the thread"])
async def test_an_approval_left_unanswered_is_decided_by_the_client_that_rejoins(given_to):
    asked = trio.Event()

    async def wait(_):
        asked.set()
        await trio.sleep_forever()

    decided = []
    policy = accepting(decided)
    with trio.fail_after(30):
        async with MockModel() as model:
            model.run_command("echo hi", escalate="need")
            model.say("done")
            with offline_home(model, approval_policy="on-request") as home:
                async with shared_server(home, "unix") as (url, _, _):
                    async with attach_codex(url, policy=Policy(command=wait)) as codex:
                        thread = await codex.thread_start()
                        async with thread.turn("go", leave_running=True):
                            await asked.wait()
                        assert [record.outcome for record in codex.decisions] == ["withdrawn"]
                    client_policy = policy if given_to == "the client" else None
                    async with attach_codex(url, policy=client_policy) as codex:
                        own = None if client_policy else policy
                        async with (
                            await codex.thread_resume(thread.id, policy=own) as thread,
                            thread.rejoin() as turn,
                        ):
                            result = await turn.wait()
                        decided_by = [
                            record.decided_by for record in codex.decisions if record.outcome == "answered"
                        ]
    assert len(decided) == 1
    assert decided_by == [DecidedBy.client if client_policy else DecidedBy.thread]
    assert result.final_response == "done"
    assert result.items[1].aggregated_output == "hi\n"


@pytest.mark.long
async def test_an_approval_is_decided_once_whenever_the_connection_is_lost(tmp_path):
    random = Random(SEED)
    by_the_new_one = 0
    with trio.fail_after(200):
        async with MockModel() as model:
            with offline_home(model, approval_policy="on-request") as home:
                async with shared_server(home, "unix") as (url, _, _):
                    for number in range(20):
                        decided, ran = [], tmp_path / str(number)
                        model.run_command(f"echo x >> {ran}", escalate="need")
                        model.respond(Delay(0.5), Text("done"))
                        seconds = random.random() * 0.1

                        async def decide_slowly(_):
                            await trio.sleep(seconds)  # noqa: B023  # called in this round
                            return policies.accept()

                        with lost():
                            async with attach_codex(url, policy=Policy(command=decide_slowly)) as codex:
                                thread = await codex.thread_start()
                                async with thread.turn("go", leave_running=True) as turn:
                                    await trio.sleep(random.random() * 0.4)
                                    await break_off(codex)
                                    await turn.wait()
                        async with (
                            attach_codex(url, policy=accepting(decided)) as codex,
                            await codex.thread_resume(thread.id) as thread,
                            thread.rejoin() as turn,
                        ):
                            assert (await turn.wait()).final_response == "done"
                        assert ran.read_text() == "x\n"
                        assert len(decided) <= 1
                        by_the_new_one += len(decided)
    assert 0 < by_the_new_one < 20


@pytest.mark.parametrize("was_answered", [True, False])
async def test_a_tool_call_that_the_server_repeats_does_not_run_again_in_the_same_process(
    was_answered,
):
    calls = []
    running, ended = trio.Event(), trio.Event()

    @tool
    async def count() -> str:
        """Count."""
        calls.append(len(calls))
        running.set()
        if not was_answered and len(calls) == 1:
            await trio.sleep_forever()
        return f"call {len(calls)}"

    with trio.fail_after(30):
        async with MockModel() as model:
            model.call_tool("count")
            model.say("done")
            with offline_home(model) as home:
                async with shared_server(home, "unix") as (url, _, _):
                    with lost():
                        async with attach_codex(url, tools=[count]) as codex:
                            thread = await codex.thread_start()
                            async with thread.turn("go", leave_running=True) as turn:
                                # The answer is written to a lost connection.
                                answer = codex._session.connection.respond
                                codex._session.connection.respond = lambda *_: ended.set()
                                await running.wait()
                                if was_answered:
                                    await ended.wait()
                                codex._session.connection.respond = answer
                                await break_off(codex)
                                await turn.wait()
                    async with (
                        attach_codex(url, tools=[count]) as codex,
                        await codex.thread_resume(thread.id) as thread,
                        thread.rejoin() as turn,
                    ):
                        result = await turn.wait()
    assert result.final_response == "done"
    assert len(calls) == (1 if was_answered else 2)
    assert result.items[1].content_items[0].text == f"call {len(calls)}"


@pytest.mark.parametrize("use", ["resumes", "resumes with a tool of the same name", "rejoins"])
async def test_a_call_to_another_clients_tool_is_left_to_that_client(use):
    gate = trio.Event()

    @tool
    async def wait_for_it() -> str:
        """Wait."""
        await gate.wait()
        return "came"

    async def fail() -> str:
        """Fail."""
        await trio.lowlevel.checkpoint()
        raise AssertionError("it was called")

    async with two_clients() as (one, other, model):
        before_call = model.gate()
        model.call_tool("wait_for_it")
        model.say("done")
        thread = await one.thread_start(tools=[wait_for_it])
        async with thread.turn("go") as turn:
            await before_call.reached()
            if use != "rejoins":
                before_call.open()
                async for event in turn:
                    if event.method == "item/started" and event.raw["item"]["type"] == "dynamicToolCall":
                        break
            if use == "resumes with a tool of the same name":
                other._session.approvals.tools = Toolbox([tool(fail, name="wait_for_it")])
            async with AsyncExitStack() as stack:
                resumed = await stack.enter_async_context(await other.thread_resume(thread.id))
                if use == "rejoins":
                    await stack.enter_async_context(resumed.rejoin())
                before_call.open()
                while not other.decisions:  # noqa: ASYNC110  # there is nothing to wait for
                    await trio.sleep(0.01)
                gate.set()
                assert (await turn.wait()).final_response == "done"
            assert {record.outcome for record in other.decisions} == {"left"}
        assert turn.result.items[1].success


@pytest.mark.parametrize("connects", ["before it is spawned", "afterwards"])
async def test_an_agents_requests_are_decided_by_the_client_that_rejoins_its_parent_turn(connects):
    decided, first_asked = [], trio.Event()

    async def wait(_):
        first_asked.set()
        await trio.sleep_forever()

    with trio.fail_after(30):
        async with MockModel() as model, AsyncExitStack() as stack:
            model.call_tool("spawn_agent", {"message": "help"}, namespace="multi_agent_v1")
            agent = model.script("help")
            agent.respond(Command("echo hi", escalate="need"))
            agent.say("helped")
            model.default = Response(Hang())
            home = stack.enter_context(offline_home(model, approval_policy="on-request"))
            url, _, _ = await stack.enter_async_context(shared_server(home, "unix"))
            later = attach_codex(url, policy=accepting(decided))
            if connects == "before it is spawned":
                codex = await stack.enter_async_context(later)
            async with attach_codex(url, policy=Policy(command=wait)) as one:
                thread = await one.thread_start()
                async with thread.turn("go", leave_running=True) as turn:
                    await first_asked.wait()
            if connects == "afterwards":
                codex = await stack.enter_async_context(later)
            resumed = await stack.enter_async_context(await codex.thread_resume(thread.id))
            async with resumed.rejoin(end=True) as turn, turn.agent_events() as events:
                async for event in events:
                    if event.method == "turn/completed":
                        break
    assert [request.thread_id for request in decided] == list(turn.children)
    assert len(decided) == 1


# -- leaving and ending ------------------------------------------------------------------------------------


async def test_rejoining_with_end_true_also_ends_the_agents_of_the_turn():
    with trio.fail_after(40):
        async with MockModel() as model:
            model.default = Response(Hang())
            with offline_home(model) as home:
                async with shared_server(home, "unix") as (url, _, _), attach_codex(url) as onlooker:
                    async with attach_codex(url) as codex:
                        thread = await codex.thread_start()
                        model.call_tool("spawn_agent", {"message": "help"}, namespace="multi_agent_v1")
                        async with thread.turn("go", leave_running=True) as turn:
                            await model.wait_for_requests(3)
                            children = turn.children
                    assert children
                    async with attach_codex(url) as codex:
                        resumed = await codex.thread_resume(thread.id)
                        async with resumed.rejoin(end=True) as turn:
                            assert turn.children == children
                        assert turn.result.status is TurnStatus.interrupted
                    assert await open_turns(onlooker, [thread.id, *children]) == []


async def test_rejoining_with_end_true_pauses_the_goal_of_the_turn():
    async with two_clients() as (one, other, model):
        model.say("first")
        model.default = Response(Hang())
        thread = await one.thread_start()
        async with thread.goal("reach it") as goal:
            await model.wait_for_requests(2)
            async with await other.thread_resume(thread.id) as resumed, resumed.rejoin(end=True):
                pass
            assert (await goal.wait()).status == "paused"
            await trio.sleep(0.3)
            assert len(model.requests) == 2


async def test_closing_a_client_that_must_end_a_turn_pauses_the_turns_goal():
    async with two_clients() as (one, other, model):
        model.say("first")
        model.default = Response(Hang())
        thread = await one.thread_start()
        async with thread.goal("reach it") as goal:
            await model.wait_for_requests(2)
            resumed = await other.thread_resume(thread.id)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _():
                    async with resumed.rejoin(end=True):
                        await trio.sleep_forever()

                await trio.testing.wait_all_tasks_blocked(0.1)
                await other.aclose()
                nursery.cancel_scope.cancel()
            assert (await goal.wait()).status == "paused"


async def test_a_client_rejoins_its_own_turn_through_the_same_or_another_handle():
    with trio.fail_after(30):
        async with MockModel() as model:
            gate = Gate()
            model.say("one ", gate, "two")
            with offline_home(model) as home:
                async with open_codex(home.config()) as codex:
                    async with await codex.thread_start() as thread:
                        async with thread.turn("go", leave_running=True) as left:
                            await gate.reached()
                        async with thread.rejoin() as turn:
                            assert turn.id == left.id
                    async with await codex.thread_resume(thread.id) as thread:
                        async with thread.rejoin() as turn:
                            gate.open()
                            assert (await turn.wait()).final_response == "one two"
                        async with thread.rejoin() as ended:
                            assert ended.result.final_response == "one two"


async def test_a_request_made_after_a_turn_was_left_running_waits_until_it_is_rejoined():
    decided = []
    with trio.fail_after(30):
        async with MockModel() as model:
            gate = Gate()
            model.respond(gate, Command("echo hi", escalate="need"))
            model.say("done")
            with offline_home(model, approval_policy="on-request") as home:
                async with open_codex(home.config(), policy=accepting(decided)) as codex:
                    thread = await codex.thread_start()
                    async with thread.turn("go", leave_running=True):
                        await gate.reached()
                    gate.open()
                    while not codex.decisions:  # noqa: ASYNC110  # there is nothing to wait for
                        await trio.sleep(0.01)
                    assert (codex.decisions[0].outcome, decided) == ("left", [])
                    async with thread.rejoin() as turn:
                        result = await turn.wait()
    assert len(decided) == 1
    assert result.final_response == "done"
