"""The table of server requests: converts each request to a question, and each decision to a response.

Independent of threads, turns and policies; :mod:`~trio_codex._session.asking` determines which policies are called.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import attrs

from trio_codex import wire
from trio_codex._core.json import list_of, object_of, string_of
from trio_codex._core.log import logger
from trio_codex._link.dispatch import Answer
from trio_codex._values.tool_result import ToolResult, escape_surrogates
from trio_codex.errors import DecodeError, PolicyError
from trio_codex.policies import (
    Accept,
    Answers,
    Attestation,
    AttestationRequest,
    AuthRefreshRequest,
    AuthTokens,
    Cancel,
    CommandRequest,
    CurrentTime,
    CurrentTimeRequest,
    Decline,
    ElicitationRequest,
    FileChangeRequest,
    FormElicitation,
    Grant,
    McpToolApproval,
    NetworkRule,
    PermissionsRequest,
    ToolCallRequest,
    UnknownRequest,
    UrlElicitation,
    UserInputRequest,
    VerificationElicitation,
)
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import Callable

NO_ANSWER: Final = -32000
"""The error code that denies requests whose results cannot, such as those for credentials and attestations."""

METHOD_NOT_FOUND: Final = -32601

NO_REASON: Final = "declined by the client"
"""The default reason for denials that require one."""


@attrs.frozen(kw_only=True)
class RequestContext:
    """The context that a question needs in addition to its parameters.

    Attributes:
        ancestors: See :class:`~trio_codex.policies.OfThread`.
        cwd: The working directory of the thread.
        changes: Returns the file changes of an item, as raw JSON.
        named: The thread id and turn id in the parameters, for a request of an unknown kind.
    """

    ancestors: tuple[str, ...] = ()
    cwd: str | None = None
    changes: Callable[[str], object] = lambda _: None
    named: tuple[str | None, str | None] = (None, None)


@attrs.frozen
class Kind:
    """One kind of server request.

    Attributes:
        callback: The name of the policy callback.
        denial: The answer that denies it.
        ask: Creates the question.
        answer: Converts a decision to an answer; returns ``None`` if the decision is invalid for this question.
        cancel_interrupts: Whether the answer to ``Cancel`` makes the server interrupt the turn. Otherwise, the client
            sends an interrupt.
    """

    callback: str
    denial: Answer
    ask: Callable[[Any, RequestContext], Any]
    answer: Callable[[Any, object], Answer | None]
    cancel_interrupts: bool = False


def _of_thread(params: Any, context: RequestContext) -> dict[str, Any]:
    """Return what all questions of a thread have in common."""
    return {
        "thread_id": params.thread_id,
        "turn_id": params.turn_id,
        "ancestors": context.ancestors,
        "params": params,
    }


# -- approvals -----------------------------------------------------------------------------------------------------


def _ask_command(
    params: wire.CommandExecutionRequestApprovalParams, context: RequestContext
) -> CommandRequest:
    proposed = params.proposed_execpolicy_amendment
    return CommandRequest(
        **_of_thread(params, context),
        item_id=params.item_id,
        command=params.command,
        cwd=params.cwd,
        reason=params.reason,
        input_to_terminal=params.kind != wire.CommandExecutionApprovalKind.command,
        network=params.network_approval_context,
        proposed_exec_policy=None if proposed is None else tuple(proposed),
        proposed_network_rules=tuple(params.proposed_network_policy_amendments or ()),
        additional_permissions=params.additional_permissions,
    )


def _ask_legacy_command(params: wire.ExecCommandApprovalParams, context: RequestContext) -> CommandRequest:
    return CommandRequest(
        thread_id=params.conversation_id,
        turn_id=None,
        ancestors=context.ancestors,
        item_id=params.call_id,
        command=shlex.join(params.command),
        cwd=params.cwd,
        reason=params.reason,
        params=params,
    )


def _answer_command(request: CommandRequest, decision: object) -> Answer | None:
    match decision:
        case Accept(scope="once", exec_policy=tuple(words), content=None):
            return _decided({"acceptWithExecpolicyAmendment": {"execpolicy_amendment": list(words)}})
        case NetworkRule(host=host, action=action):
            rule = {"host": host, "action": action}
            return _decided({"applyNetworkPolicyAmendment": {"network_policy_amendment": rule}})
        case _:
            return _answer_approval(request, decision)


def _answer_approval(_: object, decision: object) -> Answer | None:
    match decision:
        case Accept(scope="once", exec_policy=None, content=None):
            return _decided("accept")
        case Accept(scope="session", exec_policy=None, content=None):
            return _decided("acceptForSession")
        case Decline():
            return _decided("decline")
        case Cancel():
            return _decided("cancel")
        case _:
            return None


def _answer_legacy_command(_: CommandRequest, decision: object) -> Answer | None:
    match decision:
        case Accept(scope="once", exec_policy=tuple(words), content=None):
            return _decided({"approved_execpolicy_amendment": {"proposed_execpolicy_amendment": list(words)}})
        case NetworkRule(host=host, action=action):
            rule = {"host": host, "action": action}
            return _decided({"network_policy_amendment": {"network_policy_amendment": rule}})
        case _:
            return _answer_legacy_approval(_, decision)


def _answer_legacy_approval(_: object, decision: object) -> Answer | None:
    match decision:
        case Accept(scope="once", exec_policy=None, content=None):
            return _decided("approved")
        case Accept(scope="session", exec_policy=None, content=None):
            return _decided("approved_for_session")
        case Decline(reason=reason):
            return _decided({"denied": {"rejection": reason or NO_REASON}})
        case Cancel():
            return _decided("abort")
        case _:
            return None


def _decided(decision: object) -> Answer:
    return Answer({"decision": decision})


def _ask_file_change(
    params: wire.FileChangeRequestApprovalParams, context: RequestContext
) -> FileChangeRequest:
    return FileChangeRequest(
        **_of_thread(params, context),
        item_id=params.item_id,
        cwd=context.cwd,
        changes=_changes(context.changes(params.item_id)),
        reason=params.reason,
        grant_root=params.grant_root,
    )


def _ask_legacy_file_change(
    params: wire.ApplyPatchApprovalParams, context: RequestContext
) -> FileChangeRequest:
    changes: list[dict[str, Any]] = []
    for path, change in params.file_changes.items():
        raw = _convert.encode(change)
        kind = {key: raw[key] for key in ("type", "move_path") if key in raw}
        changes.append({"path": path, "kind": kind, "diff": raw.get("unified_diff", raw.get("content", ""))})
    return FileChangeRequest(
        thread_id=params.conversation_id,
        turn_id=None,
        ancestors=context.ancestors,
        item_id=params.call_id,
        cwd=context.cwd,
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
            # Pass no changes at all: a policy that accepted only the readable ones would also accept this one unseen.
            logger.warning("a file change does not match the schema, so the policy receives no changes")
            return ()
    return tuple(found)


def _ask_permissions(
    params: wire.PermissionsRequestApprovalParams, context: RequestContext
) -> PermissionsRequest:
    return PermissionsRequest(
        **_of_thread(params, context),
        item_id=params.item_id,
        cwd=params.cwd,
        permissions=params.permissions,
        reason=params.reason,
    )


def _answer_permissions(request: PermissionsRequest, decision: object) -> Answer | None:
    match decision:
        case Accept(scope="once" | "session" as scope, exec_policy=None, content=None):
            granted = _convert.encode(request.permissions)
            return Answer({"permissions": granted, "scope": "turn" if scope == "once" else "session"})
        case Grant(permissions=permissions, scope=scope, strict_auto_review=strict):
            result = {"permissions": _convert.encode(permissions), "scope": scope}
            return Answer(result if strict is None else {**result, "strictAutoReview": strict})
        case Decline() | Cancel():
            return NOTHING_GRANTED
        case _:
            return None


# -- questions -----------------------------------------------------------------------------------------------------


def _ask_user_input(params: wire.ToolRequestUserInputParams, context: RequestContext) -> UserInputRequest:
    return UserInputRequest(
        **_of_thread(params, context),
        item_id=params.item_id,
        questions=tuple(params.questions),
        blocking=params.is_blocking,
    )


def _answer_user_input(request: UserInputRequest, decision: object) -> Answer | None:
    match decision:
        case Answers(answers=answers):
            if unknown := answers.keys() - {question.id for question in request.questions}:
                raise PolicyError("item/tool/requestUserInput", f"unknown question id {min(unknown)!r}")
            return Answer({"answers": {key: {"answers": list(given)} for key, given in answers.items()}})
        case Decline() | Cancel():
            return NOT_ANSWERED
        case _:
            return None


def _ask_elicitation(
    params: wire.McpServerElicitationRequestParams, context: RequestContext
) -> ElicitationRequest:
    if isinstance(params, wire.UnknownVariant):
        raise DecodeError("mcpServer/elicitation/request", "$.mode", f"unknown mode {params.tag!r}")
    common: dict[str, Any] = _of_thread(params, context) | {"server_name": params.server_name}
    match params:
        case wire.UserVerificationMcpServerElicitationRequestParams():
            return VerificationElicitation(
                message=params.description, title=params.title, challenge=params.challenge, **common
            )
        case wire.UrlMcpServerElicitationRequestParams():
            return UrlElicitation(
                message=params.message, url=params.url, elicitation_id=params.elicitation_id, **common
            )
        case wire.FormMcpServerElicitationRequestParams():
            meta = object_of(params.meta)
            if meta.get("codex_approval_kind") == "mcp_tool_call":
                return McpToolApproval(
                    message=params.message,
                    tool_title=string_of(meta.get("tool_title")),
                    tool_description=string_of(meta.get("tool_description")),
                    arguments=object_of(meta.get("tool_params")),
                    scopes=_scopes(meta.get("persist")),
                    **common,
                )
            return FormElicitation(
                message=params.message, schema=_convert.encode(params.requested_schema), **common
            )
        case _:
            return FormElicitation(message=params.message, schema=params.requested_schema, **common)


def _scopes(persist: object) -> tuple[Literal["session", "always"], ...]:
    offered = list_of(persist) or [persist]
    scopes: tuple[Literal["session", "always"], ...] = ("session", "always")
    return tuple(scope for scope in scopes if scope in offered)


def _answer_elicitation(request: ElicitationRequest, decision: object) -> Answer | None:
    match request, decision:
        case McpToolApproval(), Accept(scope="once", exec_policy=None, content=None):
            return Answer({"action": "accept", "content": {}})
        case McpToolApproval(scopes=scopes), Accept(scope=scope, exec_policy=None, content=None):
            if scope not in scopes:
                raise PolicyError("mcpServer/elicitation/request", f"the scope {scope!r} was not offered")
            return Answer({"action": "accept", "content": {}, "_meta": {"persist": scope}})
        case UrlElicitation(), Accept(scope="once", exec_policy=None, content=None):
            return Answer({"action": "accept"})
        case FormElicitation() | VerificationElicitation(), Accept(scope="once", exec_policy=None):
            if decision.content is None:
                raise PolicyError("mcpServer/elicitation/request", "Accept for a form needs its content")
            return Answer({"action": "accept", "content": dict(decision.content)})
        case _, Decline():
            return Answer({"action": "decline"})
        case _, Cancel():
            return Answer({"action": "cancel"})
        case _:
            return None


# -- actions -------------------------------------------------------------------------------------------------------


def _ask_tool_call(params: wire.DynamicToolCallParams, context: RequestContext) -> ToolCallRequest:
    return ToolCallRequest(
        **_of_thread(params, context),
        call_id=params.call_id,
        tool=params.tool,
        namespace=params.namespace,
        arguments=params.arguments,
    )


def answer_tool_call(_: object, decision: object) -> Answer | None:
    match decision:
        case ToolResult(content=content, success=success):
            return Answer({"contentItems": [_convert.encode(item) for item in content], "success": success})
        case Decline(reason=reason):
            return failed_call(reason or NO_REASON)
        case Cancel():
            return failed_call(NO_REASON)
        case _:
            return None


def failed_call(text: str) -> Answer:
    return Answer(
        {"contentItems": [{"type": "inputText", "text": escape_surrogates(text)}], "success": False}
    )


def _ask_auth_refresh(params: wire.ChatgptAuthTokensRefreshParams, _: RequestContext) -> AuthRefreshRequest:
    return AuthRefreshRequest(
        reason=params.reason, previous_account_id=params.previous_account_id, params=params
    )


def _answer_auth_refresh(_: AuthRefreshRequest, decision: object) -> Answer | None:
    match decision:
        case AuthTokens(access_token=token, account_id=account_id, plan_type=plan_type):
            result = {"accessToken": token, "chatgptAccountId": account_id, "chatgptPlanType": plan_type}
            return Answer(result)
        case _:
            return _refusal(decision)


def _ask_attestation(params: wire.AttestationGenerateParams, _: RequestContext) -> AttestationRequest:
    return AttestationRequest(params=params)


def _answer_attestation(_: AttestationRequest, decision: object) -> Answer | None:
    match decision:
        case Attestation(token=token):
            return Answer({"token": token})
        case _:
            return _refusal(decision)


def _ask_current_time(params: wire.CurrentTimeReadParams, context: RequestContext) -> CurrentTimeRequest:
    return CurrentTimeRequest(
        thread_id=params.thread_id, turn_id=None, ancestors=context.ancestors, params=params
    )


def _answer_current_time(_: CurrentTimeRequest, decision: object) -> Answer | None:
    match decision:
        case CurrentTime(unix_seconds=seconds):
            return Answer({"currentTimeAt": seconds})
        case _:
            return _refusal(decision)


def _refusal(decision: object, code: int = NO_ANSWER) -> Answer | None:
    match decision:
        case Decline(reason=reason):
            return Answer(error=(code, reason or NO_REASON))
        case Cancel():
            return Answer(error=(code, NO_REASON))
        case _:
            return None


# -- the table -----------------------------------------------------------------------------------------------------

NOTHING_GRANTED: Final = Answer({"permissions": {}, "scope": "turn"})
NOT_ANSWERED: Final = Answer({"answers": {}})
_DECLINED: Final = _decided("decline")
_LEGACY_DECLINED: Final = _decided({"denied": {"rejection": NO_REASON}})

KINDS: Final[dict[str, Kind]] = {
    "item/commandExecution/requestApproval": Kind("command", _DECLINED, _ask_command, _answer_command, True),
    "item/fileChange/requestApproval": Kind(
        "file_change", _DECLINED, _ask_file_change, _answer_approval, True
    ),
    "execCommandApproval": Kind(
        "command", _LEGACY_DECLINED, _ask_legacy_command, _answer_legacy_command, True
    ),
    "applyPatchApproval": Kind(
        "file_change", _LEGACY_DECLINED, _ask_legacy_file_change, _answer_legacy_approval, True
    ),
    "item/permissions/requestApproval": Kind(
        "permissions", NOTHING_GRANTED, _ask_permissions, _answer_permissions
    ),
    "item/tool/requestUserInput": Kind("user_input", NOT_ANSWERED, _ask_user_input, _answer_user_input),
    "mcpServer/elicitation/request": Kind(
        "elicitation", Answer({"action": "decline"}), _ask_elicitation, _answer_elicitation
    ),
    "item/tool/call": Kind(
        "tool_call", failed_call("This client has no such tool."), _ask_tool_call, answer_tool_call
    ),
    "account/chatgptAuthTokens/refresh": Kind(
        "auth_refresh",
        Answer(error=(NO_ANSWER, "this client does not refresh tokens")),
        _ask_auth_refresh,
        _answer_auth_refresh,
    ),
    "attestation/generate": Kind(
        "attestation",
        Answer(error=(NO_ANSWER, "this client does not generate attestations")),
        _ask_attestation,
        _answer_attestation,
    ),
    "currentTime/read": Kind(
        "current_time",
        Answer(error=(NO_ANSWER, "this client does not report the current time")),
        _ask_current_time,
        _answer_current_time,
    ),
}
"""Every request that a server of this version may send."""


def unknown_kind(method: str) -> Kind:
    """Return the kind of a request that is not in the table."""

    def ask(params: Any, context: RequestContext) -> UnknownRequest:
        thread_id, turn_id = context.named
        return UnknownRequest(method=method, thread_id=thread_id, turn_id=turn_id, params=params)

    denial = Answer(error=(METHOD_NOT_FOUND, f"this client does not handle {method}"))
    return Kind("unknown", denial, ask, _answer_unknown)


def _answer_unknown(_: UnknownRequest, decision: object) -> Answer | None:
    if isinstance(decision, Mapping):
        return Answer(cast("Mapping[str, wire.JSON]", decision))
    return _refusal(decision, METHOD_NOT_FOUND)
