"""A journal that cannot be written for a while, as on a full disk."""

import pytest
import trio
from supervised import Full, kill, stage

from trio_codex import Budget, errors


async def run_and_cancel(on, thread, key):
    on.model.hang("half")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            await on.model.wait_for_requests(1)
            nursery.cancel_scope.cancel()

        await thread.run("one", key=key)


async def test_a_supervisor_ends_although_the_end_of_a_prompt_cannot_be_recorded():
    async with stage() as on:
        async with on.supervisor():
            pass
        with (
            Full(on.journal, "update on keys when new.by_us"),
            pytest.raises(errors.JournalError, match="full"),
        ):
            async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
                await run_and_cancel(on, thread, "1")


async def test_a_cancelled_prompt_remains_final_although_that_cannot_be_recorded_at_first():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        await run_and_cancel(on, thread, "1")
        with (
            Full(on.journal, "update on keys when new.by_us"),
            pytest.raises(errors.JournalError, match="full"),
        ):
            await thread.run("one", key="1")
        assert (await thread.run("one", key="1")).status == "interrupted"


async def test_a_server_that_dies_meanwhile_is_replaced():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        on.model.hang("half")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                await on.model.wait_for_requests(1)
                await trio.sleep(0.1)
                with Full(on.journal, "update on threads"):
                    kill(await supervisor.ready())
                    while supervisor.generations()[0].ended is None:  # noqa: ASYNC110  # it has no event for this
                        await trio.sleep(0.001)

            assert (await thread.run("one", key="1")).status == "completed"


async def test_a_thread_that_could_not_be_opened_can_be_opened_later():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        await thread.run("one", key="1")
        with Full(on.journal, "update on threads"), pytest.raises(errors.JournalError, match="full"):
            await supervisor.thread("b").__aenter__()
        async with supervisor.thread("b") as thread:
            assert (await thread.run("one", key="1")).status == "completed"


async def test_usage_is_counted_as_soon_as_the_journal_can_be_written_again():
    async with stage() as on:
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            await thread.run("one", key="1")
            with Full(on.journal, "update on threads"):
                await trio.sleep(1.1)  # until the supervisor has tried to write it
        async with on.supervisor(budget=Budget(tokens=15)) as supervisor, supervisor.thread("b") as thread:
            with pytest.raises(errors.BudgetExceeded):
                await thread.run("one", key="1")


async def test_the_status_has_the_latest_known_number_of_tokens():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        await thread.run("one", key="1")
        tokens = supervisor.status().tokens
        await thread.run("two", key="2")
        with Full(on.journal, "update on threads"):
            assert supervisor.status().tokens == tokens
        assert supervisor.status().tokens > tokens
