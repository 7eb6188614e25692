"""Requests that start, resume and fork a thread, and undo that if necessary.

A handle is registered before its request is written, so its policy and tools apply from the first message on. The request
is undone if it is cancelled after it was sent or if its response is unreadable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs
import msgspec
import trio

from trio_codex._api.options import check_given, fork_params, resume_params, start_params
from trio_codex._core.json import object_of
from trio_codex._core.log import logger
from trio_codex._session.left_behind import LOOK_SECONDS
from trio_codex._session.pending import PendingHandle
from trio_codex._session.server import parse_result
from trio_codex._session.snapshot import newest_turn
from trio_codex._tools.toolbox import Toolbox
from trio_codex._values.event import route
from trio_codex.errors import InternalRpcError, MethodNotFoundError, RemoteProtocolError
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_codex import wire
    from trio_codex._api.options import (
        ThreadForkOptions,
        ThreadOptions,
        ThreadResumeOptions,
        ThreadStartOptions,
    )
    from trio_codex._session.session import Session
    from trio_codex._session.state import ThreadState

    Response: TypeAlias = wire.ThreadStartResponse | wire.ThreadResumeResponse | wire.ThreadForkResponse

BEING_STORED: Final = ("list_turns is not supported yet", ".jsonl is empty")
"""Errors for resuming a thread whose first turn, started by another client, the server has not stored yet."""

STORING_LOOKS: Final = 10
"""Number of attempts, within half a second. The server stores a turn within 50 ms of its start."""


class Opened(msgspec.Struct, frozen=True, eq=False):
    """A thread that the server has opened and that has no handle yet."""

    pending: PendingHandle
    response: Response
    newest_turn: dict[str, Any]
    """The newest turn of the thread, as plain JSON; empty if there is none."""


def own_tools(session: Session, options: ThreadOptions) -> Toolbox:
    """Check the options of a thread before anything is sent, and return its tools."""
    check_given(options)
    own = Toolbox(options.get("tools", ()), session.tools)
    if own:
        session.config.need_experimental_api("tools")
    return own


async def start(session: Session, options: ThreadStartOptions) -> Opened:
    """Start a thread with the client's tools and its own. If undone, remove it."""
    own = own_tools(session, options)
    tools = [*(options.get("dynamic_tools") or ()), *session.tools.specs(own)]
    params = start_params({**options, "dynamic_tools": tools or None}, session.server.absolute)
    return await _open(session, "thread/start", params, _pending(None, options, own), _removal(options))


async def resume(session: Session, thread_id: str, options: ThreadResumeOptions) -> Opened:
    """Open a stored thread. If undone, unsubscribe unless this client still needs its events."""
    own = own_tools(session, options)
    params = resume_params(thread_id, options, session.server.absolute, paged=session.config.experimental_api)
    looks = 0
    while True:
        pending = _pending(thread_id, options, own)
        try:
            opened = await _open(session, "thread/resume", params, pending, "thread/unsubscribe")
            break
        except (MethodNotFoundError, InternalRpcError) as exc:
            looks += 1
            if looks == STORING_LOOKS or not any(text in exc.message for text in BEING_STORED):
                raise
        await session.timeouts.sleep(LOOK_SECONDS)
    if not options.get("include_turns", False) and opened.response.thread.turns:
        # The turns were requested only to find out whether one is running.
        thread = attrs.evolve(opened.response.thread, turns=())
        return msgspec.structs.replace(opened, response=attrs.evolve(opened.response, thread=thread))
    return opened


async def fork(session: Session, thread_id: str, options: ThreadForkOptions) -> Opened:
    """Start a thread with the history of another. If undone, remove it."""
    own = own_tools(session, options)
    params = fork_params(thread_id, options, session.server.absolute)
    return await _open(session, "thread/fork", params, _pending(None, options, own), _removal(options))


async def unsubscribe(session: Session, state: ThreadState) -> None:
    params = {"threadId": state.id}
    await _unsubscribe(state, lambda: session.server.request("thread/unsubscribe", params))


async def close_if_unfollowed(session: Session, state: ThreadState) -> None:
    """End the background commands and the subscription of a thread that was left open, unless it is still needed.

    Each request has ``interrupt_grace``.
    """
    await trio.lowlevel.checkpoint()
    if state.handles or state.pending or state.is_unloaded:
        return
    params = {"threadId": state.id}
    clean, state.is_uncleaned = state.is_uncleaned, False
    # If the server unloaded the thread without reporting it, these requests fail harmlessly. If a turn of another
    # client is still running, the terminals belong to that client.
    if clean and session.config.experimental_api and (state.turn is None or state.turn.ends_with_scope):
        await session.server.end("thread/backgroundTerminals/clean", params)

    async def end() -> None:
        await trio.lowlevel.checkpoint()
        if state.is_left_open and not state.is_followed:
            state.is_left_open = False
            await session.server.end("thread/unsubscribe", params)

    await _unsubscribe(state, end)


async def _unsubscribe(state: ThreadState, send: Callable[[], Awaitable[object]]) -> None:
    """Send a request to unsubscribe. A concurrent resume waits, so that its line follows this one."""
    await trio.lowlevel.checkpoint()
    while state.unsubscribed is not None:
        await state.unsubscribed.wait()
    settled = state.unsubscribed = trio.Event()
    try:
        await send()
    finally:
        state.unsubscribed = None
        settled.set()


def _pending(thread_id: str | None, options: ThreadOptions, own: Toolbox) -> PendingHandle:
    return PendingHandle(thread_id, options.get("policy"), own, options.get("budget"))


def _removal(options: ThreadStartOptions | ThreadForkOptions) -> str:
    """Return the method that removes a new thread. The server deletes only stored threads (Q64)."""
    return "thread/unsubscribe" if options.get("ephemeral") else "thread/delete"


@trio.lowlevel.enable_ki_protection
async def _open(
    session: Session, method: str, params: wire.Wire, pending: PendingHandle, undo_method: str
) -> Opened:
    """Send the request that opens a thread. The result must be admitted without a checkpoint in between."""
    router = session.router

    async def undo(answer: msgspec.Raw | None) -> None:
        await trio.lowlevel.checkpoint()
        thread_id = pending.thread_id if answer is None else route(answer).thread_id or pending.thread_id
        if thread_id is None:
            logger.warning(
                "a thread may still be open on the server: the response to %s contains no readable thread id",
                method,
            )
            return
        state = session.threads.find(thread_id)
        if state is not None:
            state.dismiss(pending)
            if undo_method == "thread/unsubscribe":
                state.is_left_open, state.is_unloaded = True, False
                await close_if_unfollowed(session, state)
                return
            if state.is_followed:
                return
        await session.server.end(undo_method, {"threadId": thread_id})

    router.expect(pending)
    answer: msgspec.Raw | None = None
    try:
        if pending.thread_id is not None:
            state = session.threads.thread(pending.thread_id)
            while state.unsubscribed is not None:
                await state.unsubscribed.wait()
        raw = await session.server.acquire(method, params, undo)
        answer = raw
        plain = parse_result(method, raw)
        response: Response = _convert.decode_result(method, plain)
    except RemoteProtocolError:
        # Not a cancellation point, and bounded internally.
        await session.services.finish(_undo_unread, session, undo, answer)  # noqa: ASYNC102, ASYNC120
        router.dismiss(pending)
        raise
    except BaseException:
        if (thread := session.threads.find(pending.thread_id or "")) is not None:
            # Before the thread may be discarded, so that a later resume waits for the request to unsubscribe.
            thread.dismiss(pending)
            if thread.is_left_open and session.connection.close_reason is None:
                # Not a cancellation point, and bounded internally.
                await session.services.finish(close_if_unfollowed, session, thread)  # noqa: ASYNC102, ASYNC120
        router.dismiss(pending)
        raise
    return Opened(pending, response, newest_turn(object_of(plain)))


async def _undo_unread(
    session: Session,
    undo: Callable[[msgspec.Raw | None], Awaitable[object]],
    answer: msgspec.Raw | None,
) -> None:
    """Undo a request whose response is unreadable."""
    with session.timeouts.move_on_after(session.config.interrupt_grace):
        await trio.lowlevel.checkpoint()
        await undo(answer)
