"""Answer server requests: determine which policies and tools to call, in which order, and apply their decision."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from trio_codex._core.exceptions import describe_error
from trio_codex._core.json import UNREADABLE
from trio_codex._core.log import logger
from trio_codex._core.user_code import call_user
from trio_codex._link.dispatch import Answer, CallbackGroup, Handler
from trio_codex._link.services import cancelled_and_failed
from trio_codex._session.lineage import ancestors_of, is_left_running, owner_of
from trio_codex._session.listeners import UNKNOWN_REQUEST_METHOD
from trio_codex._session.request_kinds import KINDS, Kind, RequestContext, failed_call, unknown_kind
from trio_codex._values.event import route
from trio_codex.errors import DecodeError, PolicyError
from trio_codex.instruments._base import DecidedBy
from trio_codex.policies import Abstain, Cancel, ToolCallRequest
from trio_codex.policies._policy import name_of
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio_codex._core.rpc import ServerRequest
    from trio_codex._link.dispatch import Outcome
    from trio_codex._session.approvals import Approvals
    from trio_codex._session.audit import Entry
    from trio_codex._session.state import ThreadState, TurnState
    from trio_codex._values.event import Route


def resolve(approvals: Approvals, request: ServerRequest) -> Handler | None:
    """Return the handler for a request, or ``None`` if another client answers it. Never raises."""
    method = request.method
    where = None if request.params is None else route(request.params)
    thread_id = None if where is None else where.thread_id or where.conversationId
    size = 0 if request.params is None else len(request.params)
    entry = approvals.audit.begin(request.id, method, thread_id, size)
    state = None if thread_id is None else approvals.threads.find(thread_id)
    turn = None if state is None else state.turn
    is_others = _belongs_to_others(approvals, state)
    for_thread = state is not None and (state.policy is not None or state.tools is not None)
    if is_others and thread_id is not None and not for_thread:
        _leave(entry, turn)
        return None
    kind = KINDS.get(method)
    if kind is None:
        approvals.listeners.report(UNKNOWN_REQUEST_METHOD, {"method": method, "id": request.id})
        kind = unknown_kind(method)

    def undecided(reason: str, *, by_others: bool = is_others) -> Handler | None:
        if not by_others:
            return _deny(approvals, entry, kind.denial, reason)
        _leave(entry, turn)
        return None

    if request.params is None:
        return undecided("its line was too long or unreadable")
    try:
        params = msgspec.json.decode(request.params)
        if method in KINDS:
            params = _convert.decode_server_request(method, params)
        question = kind.ask(params, _request_context(state, where))
    except (DecodeError, *UNREADABLE) as exc:
        return undecided(f"its parameters are unreadable: {exc}")
    entry.ask(question)
    deciders = list(_deciders(approvals, kind, question, state))
    if is_others and thread_id is not None:
        # The client's policy decides only on requests from its own turns and on those without a thread, such as a
        # token refresh.
        deciders = [each for each in deciders if each[0] is not DecidedBy.client]
    if not deciders:
        # A thread has the tools of the client that started it, but the server sends the calls to all subscribers.
        is_rejoined = approvals.is_shared and turn is not None and not turn.is_ours
        return undecided(
            "no policy of this client handles it"
            if method in KINDS
            else "this version does not know the method, and no policy handles it; see Policy(unknown=…)",
            by_others=is_others or (is_rejoined and isinstance(question, ToolCallRequest)),
        )
    asking = _Asking(approvals, kind, question, deciders, entry, state)
    return Handler(_group(approvals, state), kind.denial, asking.decide, asking.settled)


def _belongs_to_others(approvals: Approvals, state: ThreadState | None) -> bool:
    """Return whether a request belongs to a turn of another client, which this client neither started nor rejoined."""
    if state is None or state.turn is None:
        # Leave the request only if another client is known to receive it: otherwise nobody would answer it.
        return approvals.has_peers and owner_of(state) is None
    return (approvals.is_shared or is_left_running(state)) and owner_of(state) is None


def _leave(entry: Entry, turn: TurnState | None) -> None:
    if turn is not None:
        turn.has_parked = True
    entry.decided_by, entry.reason = DecidedBy.others, "it belongs to a turn of another client"
    entry.settle("left")


def _deny(approvals: Approvals, entry: Entry, denial: Answer, reason: str) -> Handler:
    logger.warning("denied %s: %s", entry.method, reason)
    entry.reason = reason
    return Handler(approvals.unowned, denial, None, entry.settle)


def _deciders(
    approvals: Approvals, kind: Kind, question: object, state: ThreadState | None
) -> Iterator[tuple[DecidedBy, str, Callable[[Any], Awaitable[object]]]]:
    """Yield the callbacks that may decide, innermost first, with their levels and names."""
    owner = owner_of(state)
    thread = owner.thread if owner is not None else state
    levels = (
        (DecidedBy.turn, owner.policy if owner is not None else None),
        (DecidedBy.thread, thread.policy if thread is not None else None),
        (DecidedBy.client, approvals.policy),
    )
    if isinstance(question, ToolCallRequest):
        for tools in (thread.tools if thread is not None else None, approvals.tools):
            tool = None if tools is None else tools.find(question.namespace, question.tool)
            if tools is not None and tool is not None:
                call: Callable[[Any], Awaitable[object]] = tools.call
                if approvals.is_shared:
                    # The server resends parked requests. This one may have been answered over an earlier connection,
                    # unless its turn began on the current connection.
                    is_new = state is not None and state.turn is not None and state.turn.is_ours
                    call = partial(tools.call_on_shared_server, may_be_repeated=not is_new)
                yield DecidedBy.tool, tool.full_name, call
                return
    for level, policy in levels:
        callback = None if policy is None else getattr(policy, kind.callback)
        if policy is not None and callback is not None:
            yield level, name_of(policy, kind.callback), callback


def _group(approvals: Approvals, state: ThreadState | None) -> CallbackGroup:
    """Return the callback group of the turn that sent a request on this thread."""
    owner = owner_of(state)
    turn = state.turn if state is not None else None
    if turn is None or turn.owned or (owner is not None and owner.machine.was_left):
        return _owners_group(approvals, state)
    if turn.agent_callbacks is None:
        # Look up the owner when a callback fails, not now: this turn may outlive the one that spawned it.
        turn.agent_callbacks = CallbackGroup(
            lambda error: _owners_group(approvals, state).fail(error), _owners_group(approvals, state).context
        )
    return turn.agent_callbacks


def _owners_group(approvals: Approvals, state: ThreadState | None) -> CallbackGroup:
    """Return the callback group of the open turn that owns this thread."""
    owner = owner_of(state)
    if owner is None or owner.callbacks is None or owner.ended.is_set():
        # A child agent may send requests after its parent's turn has ended (Q24). Then no open turn owns them.
        return approvals.unowned
    return owner.callbacks


class _Asking:
    """One question, and the callbacks that may decide it."""

    def __init__(
        self,
        approvals: Approvals,
        kind: Kind,
        question: Any,
        deciders: list[tuple[DecidedBy, str, Callable[[Any], Awaitable[object]]]],
        entry: Entry,
        state: ThreadState | None,
    ) -> None:
        self._approvals = approvals
        self._kind = kind
        self._question = question
        self._deciders = deciders
        self._entry = entry
        self._state = state
        # Counted here, in the reader, because the server is waiting from now on.
        if state is not None and not isinstance(question, ToolCallRequest):
            state.held_requests += 1

    async def decide(self) -> Answer:
        """Call the deciders in order until one does not abstain."""
        entry = self._entry
        await trio.lowlevel.checkpoint()
        for entry.decided_by, entry.policy, callback in self._deciders:
            try:
                decision = await call_user(callback, self._question)
                if not isinstance(decision, Abstain):
                    return self._answer(decision)
            except Exception as exc:
                if not isinstance(self._question, ToolCallRequest):
                    raise
                return self._failed_call(self._question, exc)
            except BaseExceptionGroup as group:
                if not isinstance(self._question, ToolCallRequest):
                    raise
                cancelled, failed = cancelled_and_failed(group)
                if failed is not None:
                    self._failed_call(self._question, failed)
                raise cancelled from None
        entry.decided_by, entry.policy, entry.reason = DecidedBy.default, None, "every policy abstained"
        logger.warning("denied %s: %s", entry.method, entry.reason)
        return self._kind.denial

    def settled(self, outcome: Outcome, reason: str | None) -> None:
        if self._state is not None and not isinstance(self._question, ToolCallRequest):
            self._state.held_requests -= 1
        self._entry.settle(outcome, reason)

    def _failed_call(self, call: ToolCallRequest, exc: Exception) -> Answer:
        """Return the answer for a tool that raised. The turn continues, and the agent sees the error."""
        logger.error("the tool %s failed", call.tool, exc_info=exc)
        self._entry.reason = describe_error(exc)
        return failed_call(self._entry.reason)

    def _answer(self, decision: object) -> Answer:
        answer = self._kind.answer(self._question, decision)
        if answer is None:
            problem = (
                f"the policy returned {type(decision).__name__}, which is not a decision for this request"
            )
            raise PolicyError(self._entry.method, problem)
        # For an unknown request, the policy returns the result itself. Do not record it: it may be large.
        self._entry.decide("answered" if isinstance(decision, Mapping) else decision, answer.result)
        turn = self._state.turn if self._state is not None else None
        if isinstance(decision, Cancel) and not self._kind.cancel_interrupts and turn is not None:
            interrupt_soon = self._approvals.ender.interrupt_soon
            return Answer(answer.result, answer.error, lambda: interrupt_soon(turn))
        return answer


def _request_context(state: ThreadState | None, where: Route | None) -> RequestContext:
    named = (None, None) if where is None else (where.thread_id or where.conversationId, where.turn_id)
    if state is None:
        return RequestContext(named=named)
    turn = state.turn
    ancestors = ancestors_of(state)
    if turn is None:
        return RequestContext(ancestors=ancestors, cwd=state.cwd, named=named)
    return RequestContext(ancestors=ancestors, cwd=state.cwd, changes=turn.reducer.changes.get, named=named)
