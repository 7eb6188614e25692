"""Open a thread in a new generation: pause its goal, fence it, and check its tail.

No decision may depend on a read without a fence. The resume is the fence: a second server cannot resume the thread
while the first one has it, even if the first one is stopped.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from trio_codex import ThreadResumeOptions, errors, wire
from trio_codex.instruments import notify
from trio_codex.supervision._history import take_back_tail
from trio_codex.supervision._system import still_runs

if TYPE_CHECKING:
    from trio_codex import Codex, Thread, ThreadStartOptions
    from trio_codex.supervision._generations import Generations, Life
    from trio_codex.supervision._journal import ThreadRow

RETRY_SECONDS: Final = 0.05
"""Seconds between attempts while another server has the thread. The lock of a killed server is free within 35 ms."""

LONGEST_LOOK: Final = 1.0
"""The longest time that one attempt counts as waiting: if it takes longer, this program was blocked."""

NOT_STORED: Final = ("no rollout found", ".jsonl is empty")
"""Errors from a server that has never stored the thread. It may have been killed just after it created the file."""

ARCHIVED: Final = "is archived"

_RESUME_OPTIONS: Final = ThreadResumeOptions.__annotations__.keys()


async def open_thread(
    generations: Generations, life: Life, name: str, options: ThreadStartOptions
) -> tuple[Thread, str | None]:
    """Resume a thread, or start it if it is new or the server never stored it.

    Args:
        generations: The generations of the supervisor.
        life: The current one.
        name: The name of the thread.
        options: The options of the thread.

    Returns:
        The handle, and the id of the newest turn, if there is one.

    Raises:
        ThreadInUse: Another server has the thread.
        ThreadGone: The thread was stored and is gone, or this server uses another ``CODEX_HOME``.
        ValueError: The thread has no paginated history.
    """
    codex, journal = life.codex, generations.journal
    await trio.lowlevel.checkpoint()
    row = journal.thread(name)
    thread = None if row is None else await _resume(generations, life, row, options)
    is_new = thread is None
    if thread is None:
        thread = await codex.thread_start(**options)
    try:
        if is_new:
            journal.started(name, thread.id, codex.metadata.codex_home, life.stamp)
        _check_history(thread)
        if is_new:
            return thread, None
        journal.resumed(name, life.stamp)
        return thread, await take_back_tail(thread, None if row is None else row.anchor)
    except BaseException:
        await thread.__aexit__(None, None, None)  # noqa: ASYNC102  # shielded and bounded inside
        raise


async def _resume(
    generations: Generations, life: Life, row: ThreadRow, options: ThreadStartOptions
) -> Thread | None:
    """Resume a thread. Return ``None`` if no server has stored it or ever will."""
    codex = life.codex
    given = {option: value for option, value in options.items() if option in _RESUME_OPTIONS}
    patience = generations.config.start_timeout
    waited = 0.0
    is_fenced = False
    waits = 0
    await trio.lowlevel.checkpoint()
    while True:
        looked_at = trio.current_time()
        # Check this before the resume: a server that has ended by then can write nothing more.
        is_gone = row.server is None or not still_runs(row.server)
        try:
            await _pause_goal(codex, row.id)
            return await codex.thread_resume(row.id, **cast("Any", given))
        except (errors.InvalidRequestError, errors.InternalRpcError) as exc:
            refusal: errors.RpcError = exc
        if ARCHIVED in refusal.message:
            await codex.api.thread.unarchive(thread_id=row.id)
            continue
        if not isinstance(refusal, errors.ThreadInUse):
            _check_may_start_anew(codex, row, refusal)
            if is_fenced or (is_gone and life.stamp is not None):
                return None
            if life.stamp in (None, row.server):
                # The server that had the thread may be this one, and may still read a line from a lost connection.
                with suppress(errors.InvalidRequestError):  # another server does not know the thread
                    await codex.thread_archive(row.id)
                is_fenced = True
                continue
            refusal = errors.ThreadInUse(-32600, f"the server that had thread {row.id} still runs")
        if waited > patience:
            raise refusal
        waits += 1
        if waits == 2:  # not for a server that was just killed
            notify(generations.instruments, "thread_awaited", row.id, patience)
        await trio.sleep(RETRY_SECONDS)
        waited += min(trio.current_time() - looked_at, LONGEST_LOOK)


def _check_may_start_anew(codex: Codex, row: ThreadRow, refusal: errors.RpcError) -> None:
    """Check that the server refused to resume a thread because it was never stored.

    Raises:
        ThreadGone: The thread was stored, or may be stored elsewhere.
        RpcError: The server's error, if it has another reason.
    """
    if not any(sign in refusal.message for sign in NOT_STORED):
        raise refusal
    home = codex.metadata.codex_home
    if home != row.home:
        raise errors.ThreadGone(row.name, row.id, f"it is stored in {row.home}, but this server uses {home}")
    if row.accepted:
        raise errors.ThreadGone(row.name, row.id, "it was stored, and has been deleted since")


async def _pause_goal(codex: Codex, thread_id: str) -> None:
    """Pause the goal of a stored thread, because the resume would continue it."""
    await trio.lowlevel.checkpoint()
    with suppress(errors.InvalidRequestError, errors.MethodNotFoundError):
        goal = (await codex.api.thread.goal_get(thread_id=thread_id)).goal
        if goal is not None and goal.status == wire.ThreadGoalStatus.active:
            await codex.api.thread.goal_set(thread_id=thread_id, status=wire.ThreadGoalStatus.paused)


def _check_history(thread: Thread) -> None:
    if thread.info.history_mode not in (None, wire.ThreadHistoryMode.paginated):
        raise ValueError(
            f"thread {thread.id} has a {thread.info.history_mode} history, which cannot be durable"
        )
