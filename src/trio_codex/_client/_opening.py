"""How a thread is opened: owns the requests that start, resume and fork one, and what undoes each of them.

An opening that is cancelled after its request was sent leaves nothing open on the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import trio

from trio_codex._client._options import check_given, fork_params, resume_params, start_params
from trio_codex._tools._toolbox import Toolbox

if TYPE_CHECKING:
    from trio_codex import wire
    from trio_codex._client._options import (
        ThreadForkOptions,
        ThreadOptions,
        ThreadResumeOptions,
        ThreadStartOptions,
    )
    from trio_codex._client._session import Session

    Opened: TypeAlias = wire.ThreadStartResponse | wire.ThreadResumeResponse | wire.ThreadForkResponse


def own_tools(session: Session, options: ThreadOptions) -> Toolbox:
    """Take the tools of a thread, before anything is sent.

    Raises:
        ValueError: Two have the same name, or ``experimental_api`` is off.
        TypeError: An option has another type, or a tool cannot be described to an agent.
    """
    check_given(options)
    own = Toolbox(options.get("tools", ()), session.tools)
    if own:
        session.config.need_experimental_api("tools")
    return own


async def start(session: Session, options: ThreadStartOptions, own: Toolbox) -> Opened:
    """Start a thread with the client's tools and its own, or delete it again."""
    tools = [*(options.get("dynamic_tools") or ()), *session.tools.specs(own)]
    params = start_params({**options, "dynamic_tools": tools or None})
    return await _open(session, "thread/start", params, "thread/delete")


async def resume(session: Session, thread_id: str, options: ThreadResumeOptions) -> Opened:
    """Open a stored thread, or unsubscribe from it again, unless somebody else here needs to hear of it."""
    return await _open(session, "thread/resume", resume_params(thread_id, options), "thread/unsubscribe")


async def fork(session: Session, thread_id: str, options: ThreadForkOptions) -> Opened:
    """Start a thread with the history of another, or delete it again."""
    return await _open(session, "thread/fork", fork_params(thread_id, options), "thread/delete")


async def _open(session: Session, method: str, params: wire.Wire, undo_method: str) -> Opened:
    async def undo(response: Opened) -> None:
        await trio.lowlevel.checkpoint()
        known = session.router.find(response.thread.id)
        if known is None or not known.is_followed:
            await session.request(undo_method, {"threadId": response.thread.id})

    response: Opened = await session.acquire(method, params, undo)
    return response
