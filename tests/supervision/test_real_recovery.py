"""Recovery on the real server: stuck servers, quarantine, drains, deaths in tool calls and first turns."""

import os
import signal
import time

import pytest
import trio
import trio.testing
from supervised import AT_ONCE, kill, stage, texts_of

from trio_codex import Backoff, Budget, Probe, Restart, errors, policies, tool, wire
from trio_codex._api import liveness
from trio_codex.instruments import Instrument
from trio_codex.supervision import _fence
from trio_codex.testing import Hang, Response, Text


async def test_a_stuck_server_is_replaced_and_its_turn_continues():
    async with stage() as on, on.supervisor(probe=Probe(every=0.5, timeout=0.5, failures=2)) as supervisor:
        async with supervisor.thread("a") as thread:
            on.model.hang("half")
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _():
                    await on.model.wait_for_requests(1)
                    kill(await supervisor.ready(), signal.SIGSTOP)

                result = await thread.run("one", key="1")
        assert result.status == "completed"
        assert len(result.parts) == 2
        first, _ = supervisor.generations()
        assert "has not responded" in str(first.cause)


class Stalls(Instrument):
    """Blocks this program during each liveness check."""

    def __init__(self, most):
        self.most = most
        self.count = 0

    def request_sent(self, request):
        if request.method == "thread/loaded/list" and self.count < self.most:
            self.count += 1
            time.sleep(0.5)  # noqa: ASYNC251  # on purpose


@pytest.mark.parametrize("controlled", [False, True])
async def test_a_blocked_program_does_not_kill_its_server(controlled, monkeypatch):
    """Control: with a plain Trio deadline, the server is considered stuck."""

    async def responds(session, within):
        reads = session.timeouts.reads
        with trio.move_on_after(within):
            await session.server.request_json("thread/loaded/list", {"limit": 1})
        return session.timeouts.reads != reads

    if controlled:
        monkeypatch.setattr(liveness, "_responds", responds)
    stalls = Stalls(24)
    async with (
        stage() as on,
        on.supervisor(probe=Probe(every=0.05, timeout=0.4, failures=1), instruments=[stalls]) as supervisor,
    ):
        # In the control, each stall is a race between the deadline and the reader.
        while stalls.count < stalls.most and supervisor.generation == 1:  # noqa: ASYNC110  # it has no event for this
            await trio.sleep(0.05)
        await trio.sleep(0.5)
        assert (supervisor.generation > 1) == controlled


async def test_a_thread_that_crashes_the_server_runs_alone_and_is_quarantined_and_others_continue():
    restart = Restart(max_restarts=100, strikes=3, backoff=Backoff(first=0, then=0, maximum=0))
    async with stage(90) as on, on.supervisor(restart=restart) as supervisor:
        on.model.script("poison", default=Response(Text("I am ", "ill"), Hang()))
        poisoned, finished = [], []

        async def healthy(name):
            async with supervisor.thread(name) as thread:
                for number in range(3):
                    result = await thread.run(f"{name} {number}", key=str(number))
                    finished.append(result.status)

        async def ill():
            async with supervisor.thread("ill") as thread:
                with pytest.raises(errors.ThreadQuarantined) as caught:
                    async with thread.turn("poison", key="1", continue_with="more poison") as turn:
                        async for event in turn:
                            if event.method == "item/agentMessage/delta":
                                poisoned.append(supervisor.status().turns)
                                kill(await supervisor.ready())
                with pytest.raises(errors.ThreadQuarantined):
                    await thread.run("anything", key="2")
            assert caught.value.deaths == 4

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ill)
            for number in range(15):
                nursery.start_soon(healthy, f"healthy-{number}")
        assert finished == ["completed"] * 45
        assert poisoned[-1] == ("ill",)
        assert supervisor.status().quarantined == ("ill",)
        await supervisor.ready()
        assert supervisor.generation == 5


async def test_a_planned_restart_waits_for_open_turns_and_does_not_count():
    async with stage() as on, on.supervisor(restart=Restart(max_restarts=0)) as supervisor:
        async with supervisor.thread("a") as thread, supervisor.thread("b") as other:
            on.model.say("slow ", "answer", delay=0.5)
            async with trio.open_nursery() as nursery:
                results = []

                @nursery.start_soon
                async def _():
                    results.append(await thread.run("one", key="1"))

                await on.model.wait_for_requests(1)

                @nursery.start_soon
                async def _():
                    await trio.testing.wait_all_tasks_blocked()
                    results.append(await other.run("two", key="2"))

                await supervisor.restart("an upgrade")
            assert supervisor.generation == 2
            assert [result.parts for result in results] == [(), ()]
            (first, _) = supervisor.generations()
            assert first.cause == "an upgrade"
        on.assert_each_once("one")


async def test_a_prompt_in_the_body_of_an_open_turn_does_not_wait_for_a_thread_that_must_run_alone():
    restart = Restart(strikes=1, backoff=Backoff(first=0))
    async with (
        stage() as on,
        on.supervisor(restart=restart) as supervisor,
        supervisor.thread("suspect") as suspect,
        supervisor.thread("a") as thread,
        supervisor.thread("helper") as helper,
        trio.open_nursery() as nursery,
    ):
        on.model.hang("half")

        @nursery.start_soon
        async def _():
            await on.model.wait_for_requests(1)
            kill(await supervisor.ready())

        with pytest.raises(errors.TurnInterrupted):
            await suspect.run("suspect", key="1", on_interrupted="raise")
        async with thread.turn("outer", key="1") as turn:
            # This waits until the outer turn has ended, which takes its reader.
            nursery.start_soon(lambda: suspect.run("suspect", key="1"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert (await helper.run("inner", key="1")).status == "completed"
            assert (await turn.wait()).status == "completed"


async def test_a_drain_that_times_out_interrupts_turns_which_continue_by_their_keys():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        on.model.hang("half")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                await on.model.wait_for_requests(1)
                await supervisor.restart("an upgrade", drain_timeout=0.1)

            result = await thread.run("one", key="1")
        assert result.status == "completed"
        assert [part.status for part in result.parts] == ["interrupted", "completed"]


async def test_a_prompt_started_by_a_callback_of_an_open_turn_does_not_wait_for_the_drain():
    async with stage() as on:
        inner = []

        @tool
        async def ask() -> str:
            """Ask another agent."""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: restarting.restart("an upgrade", drain_timeout=30))
                while restarting.status().state != "draining":  # noqa: ASYNC110  # it has no event for this
                    await trio.sleep(0.01)
                inner.append(await helper.run("inner", key="1"))
                nursery.cancel_scope.cancel()
            return "asked"

        async with on.supervisor(tools=[ask]) as supervisor:
            restarting = supervisor
            async with supervisor.thread("a") as thread, supervisor.thread("helper") as helper:
                on.model.script("outer").call_tool("ask")
                result = await thread.run("outer", key="1")
        assert result.parts == ()
        assert inner[0].status == "completed"


@pytest.mark.parametrize("controlled", [False, True])
async def test_a_first_turn_on_a_stuck_server_is_not_started_on_another(controlled, monkeypatch):
    """Control: without checking the process, the thread is started again and the prompt runs twice."""
    if controlled:
        monkeypatch.setattr(_fence, "still_runs", lambda stamp: False)
    async with stage() as on:
        stopped = []

        async def first_program():
            async with on.supervisor(probe=None) as supervisor, supervisor.thread("a") as thread:
                codex = await supervisor.ready()
                stopped.append(codex.pid)
                kill(codex, signal.SIGSTOP)
                await thread.run("one", key="1")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first_program)
            while not stopped:  # noqa: ASYNC110  # until it has started
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked(0.2)
            # Simulate a program that starts while another one is running, with a copy of its journal.
            async with on.supervisor(journal=on.copy_journal("copy.db")) as supervisor:
                with trio.move_on_after(1):
                    async with supervisor.thread("a") as thread:
                        await thread.run("one", key="1")
            os.kill(stopped[0], signal.SIGCONT)
            await on.model.wait_for_requests(1)
            await trio.testing.wait_all_tasks_blocked(0.3)
            nursery.cancel_scope.cancel()
        calls = [request for request in on.model.requests if texts_of(request)[-1] == "one"]
        assert len(calls) == (2 if controlled else 1)


async def test_an_unanswered_tool_call_is_repeated_with_the_same_key_after_a_crash():
    async with stage() as on:
        keys = []

        async def answer(request):
            keys.append(request.idempotency_key)
            if len(keys) == 1:
                kill(await supervised.ready())
                await trio.sleep_forever()
            return policies.ToolResult.of_text("3")

        async with on.supervisor() as supervisor:
            supervised = supervisor
            policy = policies.Policy(tool_call=answer)
            for _ in range(3):
                on.model.call_tool("add", {"x": 1, "y": 2})
            declared = wire.FunctionDynamicToolSpec(
                name="add", description="Add.", input_schema={"type": "object"}
            )
            async with supervisor.thread("a", policy=policy, dynamic_tools=[declared]) as thread:
                result = await thread.run("add", key="1")
        assert result.status == "completed"
        assert len(keys) == 3
        assert keys[0] == keys[1] != keys[2]


async def test_a_resume_does_not_continue_a_goal():
    async with stage() as on:
        on.model.say("one")
        on.model.hang("working")
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            await thread.run("one", key="1")
            codex = await supervisor.ready()
            handle = await codex.thread_resume(thread.id)
            with pytest.raises(errors.TurnLost):
                async with handle.goal("reach it") as goal:
                    await on.model.wait_for_requests(2)
                    kill(codex)
                    await goal.wait()
            count = len(on.model.requests)
            result = await thread.run("two", key="2")
            assert result.status == "completed"
            await trio.sleep(0.5)
            assert len(on.model.requests) == count + 1


async def test_a_budget_covers_all_generations_and_programs():
    async with stage() as on:
        budget = Budget(turns=2)
        async with on.supervisor() as supervisor, supervisor.thread("a", budget=budget) as thread:
            await thread.run("one", key="1")
        async with on.supervisor() as supervisor, supervisor.thread("a", budget=budget) as thread:
            await thread.run("one", key="1")
            await thread.run("two", key="2")
            with pytest.raises(errors.BudgetExceeded) as caught:
                await thread.run("three", key="3")
            assert (caught.value.carrier, caught.value.limit, caught.value.used) == ("thread", "turns", 2)
            assert supervisor.status().tokens > 0
            tokens = supervisor.status().tokens
        async with (
            on.supervisor(budget=Budget(tokens=tokens)) as supervisor,
            supervisor.thread("b") as thread,
        ):
            with pytest.raises(errors.BudgetExceeded, match="the client used"):
                await thread.run("three", key="3")
        assert len(on.model.requests) == 2


async def test_a_server_that_cannot_be_restarted_cancels_the_body():
    async with stage() as on:
        with pytest.raises(errors.RestartLimitExceeded, match="another start would fail") as caught:
            async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
                (on.home.codex_home / "config.toml").write_text('approval_policy = "untrusted"\n')
                kill(await supervisor.ready())
                await thread.run("one", key="1")
        assert isinstance(caught.value.__cause__, errors.StartError)
        assert len(caught.value.exits) == 2


async def test_too_many_deaths_cancel_the_body_and_wake_all_waiting_tasks():
    async with stage() as on:
        with pytest.raises(errors.RestartLimitExceeded, match="more than 1 restarts within 300 s"):
            async with on.supervisor(restart=Restart(max_restarts=1)) as supervisor:
                while True:
                    kill(await supervisor.ready())
                    await trio.sleep(0.01)


async def test_the_first_start_must_succeed():
    async with stage() as on:
        (on.home.codex_home / "config.toml").write_text('approval_policy = "untrusted"\n')
        with pytest.raises(errors.StartError):
            async with on.supervisor(restart=AT_ONCE):
                pytest.fail("it started")


async def test_the_fate_of_a_key():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        assert await thread.fate("1") == "unknown"
        on.model.hang("half")
        async with thread.turn("one", key="1"):
            await on.model.wait_for_requests(1)
            assert await thread.fate("1") == "running"
        assert await thread.fate("1") == "interrupted"
        await thread.run("two", key="2")
        assert await thread.fate("2") == "completed"


async def test_a_prompt_whose_follow_up_was_not_started_is_not_sent_again():
    async def invalid(_):
        await trio.lowlevel.checkpoint()
        return 42

    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        on.model.hang("half")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                await on.model.wait_for_requests(1)
                kill(await supervisor.ready())

            with pytest.raises(TypeError, match="int"):
                await thread.run("one", key="1", on_interrupted=invalid)
        assert await thread.fate("1") == "running"
        assert (await thread.run("one", key="1")).status == "completed"
        on.assert_each_once("one")


async def test_a_compaction_is_repeated_after_a_death():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        await thread.run("one", key="1")
        on.model.hang("summar")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                await on.model.wait_for_requests(2)
                kill(await supervisor.ready())

            assert (await thread.compact()).status == "completed"
        await thread.run("two", key="2")
        assert (await thread.run("one", key="1")).final_response == "did it"


async def test_ready_returns_the_client_of_the_current_generation():
    async with stage() as on, on.supervisor() as supervisor:
        first = await supervisor.ready()
        kill(first)
        await first.wait_closed()
        second = await supervisor.ready()
        assert second is not first
        assert [generation.number for generation in supervisor.generations()] == [1, 2]
        assert isinstance(supervisor.generations()[0].cause, errors.ServerExited)
    with pytest.raises(errors.ConnectionClosed):
        await supervisor.ready()


async def test_after_its_scope_a_supervisor_has_a_status_and_opens_no_thread():
    async with stage() as on:
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            await thread.run("one", key="1")
        status = supervisor.status()
        assert (status.state, status.threads, status.tokens) == ("closed", (), 15)
        with pytest.raises(errors.ConnectionClosed):
            await supervisor.thread("a").__aenter__()
