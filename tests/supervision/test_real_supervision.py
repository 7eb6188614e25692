"""Supervised threads on the real server continue after kills, and the model receives no prompt twice."""

import random

import pytest
import trio
import trio.testing
from supervised import keep_killing, kill, stage

from trio_codex import Backoff, Restart, errors, retry_transient
from trio_codex.supervision._prompt import CONTINUE
from trio_codex.testing import Response, Text


async def test_a_program_of_keyed_steps_outlives_its_server():
    async with stage() as on, on.supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(keep_killing, supervisor, random.Random(5), 0.05, 0.5)
        async with supervisor.thread("a") as thread:
            results, keys = [], []
            # A fast machine completes several steps between kills.
            while len(keys) < 6 or supervisor.generation == 1:
                keys.append(f"step-{len(keys)}")
                results.append(await thread.run(f"do {keys[-1]}", key=keys[-1]))
        nursery.cancel_scope.cancel()
        assert {result.status for result in results} == {"completed"}
        assert {result.final_response for result in results} == {"did it"}
        on.assert_each_once(*(f"do {key}" for key in keys))


async def test_the_next_program_reads_the_results_of_the_earlier_one():
    async with stage() as on:
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            first = await thread.run("one", key="1")
            thread_id = thread.id
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            assert thread.id == thread_id
            again = await thread.run("one", key="1")
            await thread.run("two", key="2")
        assert (again.id, again.status, again.final_response) == (first.id, "completed", "did it")
        assert [item.type for item in again.items] == [item.type for item in first.items]
        assert (first.turn_usage is None, again.turn_usage is None) == (False, True)
        on.assert_each_once("one", "two")


async def test_a_turn_interrupted_by_a_death_continues_with_a_follow_up():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        on.model.hang("so ", "far")
        on.model.say("the rest")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                await on.model.wait_for_requests(1)
                kill(await supervisor.ready())

            result = await thread.run("do it", key="1", continue_with="Go on.")
        assert result.status == "completed"
        assert result.final_response == "the rest"
        assert [part.status for part in result.parts] == ["interrupted", "completed"]
        assert [item.client_id for item in result.items if item.type == "userMessage"] == ["1", "1~2"]
        assert on.given()[-2:] == ["do it", "Go on."]


async def test_a_death_can_be_raised_and_handled():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        on.model.hang()
        on.model.default = Response(Text("fine"))

        async def killed(**options):
            count = len(on.model.requests)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _():
                    await on.model.wait_for_requests(count + 1)
                    kill(await supervisor.ready())

                return await thread.run("do it", key="1", **options)

        with pytest.RaisesGroup(errors.TurnInterrupted) as caught:
            await killed(on_interrupted="raise")
        assert caught.value.exceptions[0].result.status == "interrupted"

        async def decide(result):
            assert result.status == "interrupted"
            await trio.lowlevel.checkpoint()
            return "Never mind."

        assert (await thread.run("do it", key="1", on_interrupted=decide)).final_response == "fine"
        assert on.given()[-2:] == ["do it", "Never mind."]
        assert (await thread.run("do it", key="1")).parts != ()


async def test_a_key_identifies_one_prompt():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        await thread.run("one", key="1")
        with pytest.raises(errors.KeyConflict, match="another input"):
            await thread.run("two", key="1")
        with pytest.raises(errors.KeyConflict):
            await thread.run("one", key="1", effort="low")
        assert (await thread.run("one", key="1")).status == "completed"
        assert len(on.model.requests) == 1


async def test_a_failed_prompt_fails_again_and_is_not_sent_again():
    async with stage() as on:
        on.model.fail_event()
        for _ in range(2):
            async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
                with pytest.raises(errors.TurnFailed):
                    await thread.run("one", key="1")
        assert len(on.model.requests) == 1


async def test_a_prompt_that_failed_for_a_transient_reason_can_be_continued_by_any_program():
    async with stage() as on:
        on.model.fail(429, message="slow down")
        on.model.fail(503, message="down for a moment")
        for _ in range(2):
            async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
                with pytest.raises(errors.TurnFailed):
                    await thread.run("one", key="1", on_failed="continue")
                assert await thread.fate("1") == "failed"
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            with pytest.raises(errors.TurnFailed):
                await thread.run("one", key="1")
            result = await thread.run("one", key="1", on_failed="continue", continue_with="Go on.")
        assert [part.status for part in result.parts] == ["failed", "failed", "completed"]
        assert [item.client_id for item in result.items if item.type == "userMessage"] == ["1", "1~2", "1~3"]
        assert on.given()[-3:] == ["one", CONTINUE, "Go on."]


async def test_a_prompt_that_failed_permanently_is_not_continued():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        on.model.fail(400, message="no such model")
        for _ in range(2):
            with pytest.raises(errors.TurnFailed, match="no such model"):
                await retry_transient(lambda: thread.run("one", key="1", on_failed="continue"))
        assert len(on.model.requests) == 1
        with pytest.raises(ValueError, match="on_failed"):
            await thread.run("one", key="1", on_failed="retry")


@pytest.mark.parametrize("key", ["", "a~2", "x" * 201])
async def test_an_invalid_key_is_refused_before_anything_is_sent(key):
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        with pytest.raises(ValueError, match="key"):
            await thread.run("one", key=key)
        with pytest.raises(ValueError, match="needs a key"):
            await thread.run("one")
        assert on.model.requests == []


async def test_without_a_journal_keys_are_generated():
    async with stage() as on, on.supervisor(journal=None) as supervisor, supervisor.thread("a") as thread:
        assert (await thread.run("one")).status == "completed"
        assert (await thread.run("one")).status == "completed"
        assert len(on.model.requests) == 2


async def test_a_name_can_be_opened_once_and_a_thread_runs_one_prompt_at_a_time():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        with pytest.raises(errors.ThreadInUse, match="open in this supervisor"):
            await supervisor.thread("a").__aenter__()
        on.model.hang()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: thread.run("one", key="1"))
            await on.model.wait_for_requests(1)
            with pytest.raises(errors.TurnActive):
                await thread.run("two", key="2")
            nursery.cancel_scope.cancel()


async def test_a_prompt_does_not_continue_after_the_scope_of_its_thread():
    async def run(thread):
        with pytest.raises(errors.ThreadClosed):
            await thread.run("one", key="1")

    async with stage() as on, on.supervisor(restart=Restart(backoff=Backoff(first=0.2))) as supervisor:
        on.model.hang("half")
        async with trio.open_nursery() as nursery, supervisor.thread("a") as thread:
            nursery.start_soon(run, thread)
            await on.model.wait_for_requests(1)
            codex = await supervisor.ready()
            kill(codex)
            await codex.wait_closed()
        with pytest.raises(errors.ThreadClosed):
            await thread.fate("1")
        assert len(on.model.requests) == 1
        async with supervisor.thread("a") as thread:
            assert len((await thread.run("one", key="1")).parts) == 2


async def test_opening_a_deleted_thread_raises_and_does_not_start_a_new_one():
    async with stage() as on:
        async with on.supervisor() as supervisor:
            async with supervisor.thread("a") as thread:
                await thread.run("one", key="1")
                thread_id = thread.id
            await (await supervisor.ready()).thread_delete(thread_id)
        async with on.supervisor() as supervisor:
            with pytest.raises(errors.ThreadGone, match="deleted"):
                await supervisor.thread("a").__aenter__()


async def test_an_archived_thread_is_unarchived():
    async with stage() as on:
        async with on.supervisor() as supervisor:
            async with supervisor.thread("a") as thread:
                await thread.run("one", key="1")
                thread_id = thread.id
            await (await supervisor.ready()).thread_archive(thread_id)
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            assert (await thread.run("one", key="1")).status == "completed"
            await thread.run("two", key="2")
        on.assert_each_once("one", "two")


async def test_a_cancelled_prompt_is_interrupted_only_for_this_program():
    async with stage() as on:
        on.model.hang("half")
        on.model.default = Response(Text("whole"))
        with trio.CancelScope() as program:
            async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:

                        @nursery.start_soon
                        async def _():
                            await on.model.wait_for_requests(1)
                            scope.cancel()

                        await thread.run("one", key="1")
                assert (await thread.run("one", key="1")).status == "interrupted"
                on.model.hang("half")
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def _():
                        await on.model.wait_for_requests(2)
                        program.cancel()

                    await thread.run("two", key="2")
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            assert (await thread.run("one", key="1")).status == "interrupted"
            two = await thread.run("two", key="2")
        assert two.status == "completed"
        assert two.final_response == "whole"
        assert len(two.parts) == 2


async def test_iterating_over_a_turn_continues_after_a_death():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        on.model.hang("so ", "far")
        on.model.say("the ", "rest")
        said, methods = [], []
        async with thread.turn("do it", key="1") as turn:
            async for event in turn:
                methods.append(event.method)
                if event.method == "item/agentMessage/delta":
                    said.append(event.raw["delta"])
                    if "".join(said) == "so far":
                        kill(await supervisor.ready())
                if event.method == "trio_codex/generationLost":
                    assert event.raw["generation"] == 1
            assert turn.result.status == "completed"
        assert "".join(said) == "so farthe rest"
        assert methods.count("trio_codex/generationLost") == 1
        assert methods[-1] == "turn/completed"
        assert turn.result.final_response == "the rest"
        async with thread.turn("do it", key="1") as turn:
            assert [event async for event in turn] == []
            assert (await turn.wait()).final_response == "the rest"
        async with thread.turn("more", key="2") as turn:
            assert "".join([piece async for piece in turn.text()]) == "did it"


async def test_leaving_a_turn_interrupts_it_permanently():
    async with stage() as on:
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            on.model.hang("half")
            async with thread.turn("one", key="1") as turn:
                async for _ in turn.text():
                    break
            on.model.hang("half")
            async with thread.turn("two", key="2") as turn:
                async for _ in turn.text():
                    await turn.interrupt()
            assert turn.result.status == "interrupted"
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            for key in ("one", "1"), ("two", "2"):
                assert (await thread.run(key[0], key=key[1])).status == "interrupted"
        assert len(on.model.requests) == 2


async def test_an_exception_in_the_body_of_a_turn_propagates_unchanged():
    error = ValueError("mine")
    async with stage() as on:
        on.model.hang("half")
        with pytest.raises(ValueError, match="mine") as caught:
            async with (
                on.supervisor() as supervisor,
                supervisor.thread("a") as thread,
                thread.turn("one", key="1"),
            ):
                await on.model.wait_for_requests(1)
                raise error
        assert caught.value is error


async def test_a_turn_interrupted_by_the_end_of_its_supervisor_continues_in_the_next_one():
    async with stage() as on:
        on.model.hang("half")

        async def run(thread):
            with pytest.raises(errors.ConnectionClosed):
                await thread.run("one", key="1")

        async with trio.open_nursery() as nursery, on.supervisor() as supervisor:
            thread = await supervisor.thread("a").__aenter__()
            nursery.start_soon(run, thread)
            await on.model.wait_for_requests(1)
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            result = await thread.run("one", key="1")
        assert (result.status, result.final_response, len(result.parts)) == ("completed", "did it", 2)


async def test_a_turn_left_after_a_drain_continues_in_the_next_program():
    async with stage() as on:
        on.model.hang("half")
        async with on.supervisor() as supervisor, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                async with supervisor.thread("a") as thread:
                    await thread.run("one", key="1")

            await on.model.wait_for_requests(1)
            await supervisor.drain(timeout=0.1)
            nursery.cancel_scope.cancel()
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            result = await thread.run("one", key="1")
        assert (result.status, result.final_response, len(result.parts)) == ("completed", "did it", 2)


async def test_a_prompt_that_a_drain_keeps_out_ends_with_the_supervisor():
    async def run(thread):
        with pytest.raises(errors.ConnectionClosed):
            await thread.run("one", key="1")

    async with stage() as on:
        async with trio.open_nursery() as nursery, on.supervisor() as supervisor:
            thread = await supervisor.thread("a").__aenter__()
            await supervisor.drain(timeout=0)
            nursery.start_soon(run, thread)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert on.model.requests == []
