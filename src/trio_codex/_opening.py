"""How a thread is opened: owns the requests that start, resume and fork one, and what undoes each of them.

An opening that is cancelled after its request was sent leaves nothing open on the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from trio_codex._options import fork_params, resume_params, start_params

if TYPE_CHECKING:
    from trio_codex import wire
    from trio_codex._options import ThreadForkOptions, ThreadResumeOptions, ThreadStartOptions
    from trio_codex._session import Session

    Opened: TypeAlias = wire.ThreadStartResponse | wire.ThreadResumeResponse | wire.ThreadForkResponse


async def start(session: Session, options: ThreadStartOptions) -> Opened:
    """Start a thread, or delete it again."""
    return await _open(session, "thread/start", start_params(options), "thread/delete")


async def resume(session: Session, thread_id: str, options: ThreadResumeOptions) -> Opened:
    """Open a stored thread, or unsubscribe from it again."""
    return await _open(session, "thread/resume", resume_params(thread_id, options), "thread/unsubscribe")


async def fork(session: Session, thread_id: str, options: ThreadForkOptions) -> Opened:
    """Start a thread with the history of another, or delete it again."""
    return await _open(session, "thread/fork", fork_params(thread_id, options), "thread/delete")


async def _open(session: Session, method: str, params: wire.Wire, undo_method: str) -> Opened:
    async def undo(response: Opened) -> None:
        await session.request(undo_method, {"threadId": response.thread.id})

    response: Opened = await session.acquire(method, params, undo)
    return response
