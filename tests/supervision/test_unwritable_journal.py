"""A journal that cannot be written for a while, as on a full disk."""

import sqlite3
from contextlib import closing

import pytest
import trio
from supervised import stage

from trio_codex import errors


class Full:
    """Makes certain writes fail for the duration of a scope."""

    def __init__(self, path, event):
        self._path = path
        self._event = event

    def _execute(self, statement):
        with closing(sqlite3.connect(self._path)) as db:
            db.execute(statement)

    def __enter__(self):
        self._execute(
            f"create trigger full before {self._event} begin select raise(abort, 'database or disk is full'); end"
        )

    def __exit__(self, *exc):
        self._execute("drop trigger full")


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
