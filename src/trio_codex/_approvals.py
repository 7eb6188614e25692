"""What the server asks and how it is answered: owns the table of server requests, their denials, and policy look-up."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec

from trio_codex import wire
from trio_codex._dispatch import CallbackGroup, Denial, Handler
from trio_codex._event import route
from trio_codex._json import UNREADABLE, list_of
from trio_codex._router import UNKNOWN_REQUEST_METHOD
from trio_codex.errors import DecodeError, PolicyError
from trio_codex.policies import Accept, Cancel, CommandRequest, Decision, Decline, FileChangeRequest, Policy
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_codex._router import Router
    from trio_codex._rpc import ServerRequest
    from trio_codex._turn_state import ThreadState
    from trio_codex.wire import JSON

logger = logging.getLogger("trio_codex")

METHOD_NOT_FOUND: Final = -32601
NO_ANSWER: Final = -32000
"""For requests that have no denial in the protocol: credentials and attestations are never made up."""

NO_REASON: Final = "declined by the client"
"""The rejection of a legacy approval, which has to have one, where nobody gave a reason."""

DENIALS: Final[dict[str, Denial]] = {
    "item/commandExecution/requestApproval": Denial({"decision": "decline"}),
    "item/fileChange/requestApproval": Denial({"decision": "decline"}),
    "item/permissions/requestApproval": Denial({"permissions": {}, "scope": "turn"}),
    "item/tool/requestUserInput": Denial({"answers": {}}),
    "item/tool/call": Denial(
        {"contentItems": [{"type": "inputText", "text": "This client has no such tool."}], "success": False}
    ),
    "mcpServer/elicitation/request": Denial({"action": "decline"}),
    "execCommandApproval": Denial({"decision": {"denied": {"rejection": NO_REASON}}}),
    "applyPatchApproval": Denial({"decision": {"denied": {"rejection": NO_REASON}}}),
    "account/chatgptAuthTokens/refresh": Denial(error=(NO_ANSWER, "this client does not refresh tokens")),
    "attestation/generate": Denial(error=(NO_ANSWER, "this client does not attest")),
    "currentTime/read": Denial(error=(NO_ANSWER, "this client does not tell the time")),
}
"""The answer that refuses each server request, in the right shape for it."""


@attrs.frozen
class _Kind:
    """One kind of request that a policy can decide on.

    Attributes:
        callback: The field of the policy.
        ask: Makes the typed request.
            answer: Gives a decision as it goes over the wire; ``None`` for what is no decision.
    """

    callback: str
    ask: Callable[[Any, ThreadState | None], Any]
    answer: Callable[[object], JSON]

    def encode(self, method: str, decision: object) -> JSON:
        answer = self.answer(decision)
        if answer is None:
            raise PolicyError(method, f"the policy returned {type(decision).__name__}, which is no decision")
        return {"decision": answer}


def _answer(decision: object) -> JSON:
    match decision:
        case Accept(scope="session"):
            return "acceptForSession"
        case Accept():
            return "accept"
        case Decline():
            return "decline"
        case Cancel():
            return "cancel"
        case _:
            return None


def _legacy_answer(decision: object) -> JSON:
    match decision:
        case Accept(scope="session"):
            return "approved_for_session"
        case Accept():
            return "approved"
        case Decline(reason=reason):
            return {"denied": {"rejection": reason or NO_REASON}}
        case Cancel():
            return "abort"
        case _:
            return None


def _command(params: wire.CommandExecutionRequestApprovalParams, _: ThreadState | None) -> CommandRequest:
    return CommandRequest(
        thread_id=params.thread_id,
        turn_id=params.turn_id,
        item_id=params.item_id,
        command=params.command,
        cwd=params.cwd,
        reason=params.reason,
        params=params,
    )


def _legacy_command(params: wire.ExecCommandApprovalParams, _: ThreadState | None) -> CommandRequest:
    import shlex

    return CommandRequest(
        thread_id=params.conversation_id,
        turn_id=None,
        item_id=params.call_id,
        command=shlex.join(params.command),
        cwd=params.cwd,
        reason=params.reason,
        params=params,
    )


def _file_change(
    params: wire.FileChangeRequestApprovalParams, state: ThreadState | None
) -> FileChangeRequest:
    turn = state.turn if state is not None else None
    return FileChangeRequest(
        thread_id=params.thread_id,
        turn_id=params.turn_id,
        item_id=params.item_id,
        changes=_changes(turn.reducer.changes.get(params.item_id) if turn is not None else None),
        reason=params.reason,
        grant_root=params.grant_root,
        params=params,
    )


def _legacy_file_change(params: wire.ApplyPatchApprovalParams, _: ThreadState | None) -> FileChangeRequest:
    changes: list[dict[str, Any]] = []
    for path, change in params.file_changes.items():
        raw = _convert.encode(change)
        kind = {key: raw[key] for key in ("type", "move_path") if key in raw}
        changes.append({"path": path, "kind": kind, "diff": raw.get("unified_diff", raw.get("content", ""))})
    return FileChangeRequest(
        thread_id=params.conversation_id,
        turn_id=None,
        item_id=params.call_id,
        changes=_changes(changes),
        reason=params.reason,
        grant_root=params.grant_root,
        params=params,
    )


def _changes(raw: object) -> tuple[wire.FileUpdateChange, ...]:
    found: list[wire.FileUpdateChange] = []
    for change in list_of(raw):
        try:
            found.append(_convert.decode(wire.FileUpdateChange, change))
        except DecodeError:
            logger.warning("a file change of the server does not fit the schema; the policy is not shown it")
    return tuple(found)


KINDS: Final[dict[str, _Kind]] = {
    "item/commandExecution/requestApproval": _Kind("command", _command, _answer),
    "item/fileChange/requestApproval": _Kind("file_change", _file_change, _answer),
    "execCommandApproval": _Kind("command", _legacy_command, _legacy_answer),
    "applyPatchApproval": _Kind("file_change", _legacy_file_change, _legacy_answer),
}
"""The requests that policies decide on; all others are denied."""


class Approvals:
    """Finds who decides on a server request.

    Args:
        router: Knows the threads and turns.
        policy: The client's policy.
    """

    def __init__(self, router: Router, policy: Policy | None) -> None:
        self._router = router
        self._policy = policy
        self._unowned = CallbackGroup()
        self._warned = False

    @property
    def policy(self) -> Policy | None:
        """The client's policy."""
        return self._policy

    def warn_if_bypassed(
        self,
        settings: wire.ThreadStartResponse | wire.ThreadResumeResponse | wire.ThreadForkResponse,
        policy: Policy | None,
    ) -> None:
        """Say once that policies are not asked, if the settings of a thread see to that."""
        if self._warned or not (policy or self._policy):
            return
        if settings.approval_policy == "never":
            why = "its approval policy is never"
        elif settings.approvals_reviewer != "user":
            why = f"its approvals are reviewed by {settings.approvals_reviewer}"
        else:
            return
        self._warned = True
        logger.warning("thread %s has a policy that will not be asked: %s", settings.thread.id, why)

    def resolve(self, request: ServerRequest) -> Handler:
        """Tell how a request is to be answered. Called on the reader; raises nothing."""
        method = request.method
        denial = DENIALS.get(method)
        if denial is None:
            self._router.report(UNKNOWN_REQUEST_METHOD, {"method": method, "id": request.id})
            logger.warning("the server sent a request that this version does not know: %s", method)
            return self._deny(Denial(error=(METHOD_NOT_FOUND, f"this client does not handle {method}")))
        if request.params is None:
            logger.warning("denied %s: its line was too long, or cannot be read", method)
            return self._deny(denial)
        kind = KINDS.get(method)
        state = self._thread_of(request.params)
        callback = None if kind is None else self._callback(kind, state)
        if kind is None or callback is None:
            logger.warning("denied %s: no policy of this client decides on it", method)
            return self._deny(denial)
        try:
            params = _convert.decode_server_request(method, msgspec.json.decode(request.params))
            question = kind.ask(params, state)
        except (DecodeError, *UNREADABLE) as exc:
            logger.warning("denied %s: it cannot be read: %s", method, exc)
            return self._deny(denial)

        async def decide() -> object:
            decision = await callback(question)
            return kind.encode(method, decision)

        return Handler(self._group(state), denial, decide)

    def _deny(self, denial: Denial) -> Handler:
        return Handler(self._unowned, denial, None)

    def _thread_of(self, params: msgspec.Raw) -> ThreadState | None:
        where = route(params)
        thread_id = where.thread_id or where.conversationId
        return None if thread_id is None else self._router.find(thread_id)

    def _callback(
        self, kind: _Kind, state: ThreadState | None
    ) -> Callable[[Any], Awaitable[Decision]] | None:
        """Find the innermost policy that decides: the turn's, the thread's, the client's."""
        owner = state.owner if state is not None else None
        thread = owner.thread if owner is not None else state
        for policy in (owner and owner.policy, thread and thread.policy, self._policy):
            callback: Callable[[Any], Awaitable[Decision]] | None = getattr(policy, kind.callback, None)
            if callback is not None:
                return callback
        return None

    def _group(self, state: ThreadState | None) -> CallbackGroup:
        owner = state.owner if state is not None else None
        if owner is None or owner.callbacks is None or owner.ended.is_set():
            # A child agent may ask after its parent's turn has ended (Q24): there is no open turn to fail or to leave.
            return self._unowned
        return owner.callbacks
