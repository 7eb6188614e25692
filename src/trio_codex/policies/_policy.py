"""The policy class, with one callback for each kind of request, and the simplest policies."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

import attrs
import trio

from trio_codex._core.arguments import check_type, described, is_async_callable
from trio_codex.policies._decisions import (
    Abstain,
    Accept,
    AnyDecision,
    AttestationDecision,
    AuthRefreshDecision,
    CommandDecision,
    CurrentTime,
    CurrentTimeDecision,
    Decision,
    Decline,
    ElicitationDecision,
    PermissionsDecision,
    ToolCallDecision,
    UnknownDecision,
    UserInputDecision,
)
from trio_codex.policies._requests import (
    AttestationRequest,
    AuthRefreshRequest,
    CommandRequest,
    CurrentTimeRequest,
    ElicitationRequest,
    FileChangeRequest,
    McpToolApproval,
    PermissionsRequest,
    ToolCallRequest,
    UnknownRequest,
    UserInputRequest,
)

CommandCallback: TypeAlias = Callable[[CommandRequest], Awaitable[CommandDecision]]
FileChangeCallback: TypeAlias = Callable[[FileChangeRequest], Awaitable[Decision]]
PermissionsCallback: TypeAlias = Callable[[PermissionsRequest], Awaitable[PermissionsDecision]]
UserInputCallback: TypeAlias = Callable[[UserInputRequest], Awaitable[UserInputDecision]]
ElicitationCallback: TypeAlias = Callable[[ElicitationRequest], Awaitable[ElicitationDecision]]
ToolCallCallback: TypeAlias = Callable[[ToolCallRequest], Awaitable[ToolCallDecision]]
AuthRefreshCallback: TypeAlias = Callable[[AuthRefreshRequest], Awaitable[AuthRefreshDecision]]
AttestationCallback: TypeAlias = Callable[[AttestationRequest], Awaitable[AttestationDecision]]
CurrentTimeCallback: TypeAlias = Callable[[CurrentTimeRequest], Awaitable[CurrentTimeDecision]]

UnknownCallback: TypeAlias = Callable[[UnknownRequest], Awaitable[UnknownDecision]]


FITS: Final = "fits"
"""The metadata key of a callback's field for the decisions that fit its kind of request."""


@attrs.frozen(kw_only=True)
class Policy:
    """Callbacks that decide on requests, one for each kind; ``None`` leaves the kind to the next policy.

    If a callback raises, or returns a value that is not a decision, the request is denied and its turn ends with
    ``PolicyError``. For ``tool_call``, the tool call fails instead and the turn continues.

    Attributes:
        name: The policy's name in audit records; by default the names of its callbacks.
        command: Decides on commands, including those of the legacy ``execCommandApproval``.
        file_change: Decides on file changes, including those of the legacy ``applyPatchApproval``.
        permissions: Decides on permissions beyond the sandbox.
        user_input: Answers the agent's questions to the user.
        elicitation: Answers questions from MCP servers, and decides on calls to their tools.
        tool_call: Runs dynamic tools that are not among the ``tools`` of the thread or the client.
        auth_refresh: Returns new tokens. The protocol has no denial for this: without a callback, the server receives an
            error.
        attestation: Attests this client. Without a callback, the server receives an error.
        current_time: Returns the current time. Without a callback, the server receives an error.
        unknown: Answers requests whose method this version does not know, with the result as a JSON object. Without a
            callback, the server receives the JSON-RPC error "method not found".

    Raises:
        TypeError: A callback is neither an async function nor an object with an async ``__call__``.
    """

    name: str | None = None
    command: CommandCallback | None = attrs.field(default=None, metadata={FITS: CommandDecision})
    file_change: FileChangeCallback | None = attrs.field(default=None, metadata={FITS: Decision})
    permissions: PermissionsCallback | None = attrs.field(default=None, metadata={FITS: PermissionsDecision})
    user_input: UserInputCallback | None = attrs.field(default=None, metadata={FITS: UserInputDecision})
    elicitation: ElicitationCallback | None = attrs.field(default=None, metadata={FITS: ElicitationDecision})
    tool_call: ToolCallCallback | None = attrs.field(default=None, metadata={FITS: ToolCallDecision})
    auth_refresh: AuthRefreshCallback | None = attrs.field(default=None, metadata={FITS: AuthRefreshDecision})
    attestation: AttestationCallback | None = attrs.field(default=None, metadata={FITS: AttestationDecision})
    current_time: CurrentTimeCallback | None = attrs.field(default=None, metadata={FITS: CurrentTimeDecision})
    unknown: UnknownCallback | None = None

    def __attrs_post_init__(self) -> None:
        for kind in KINDS:
            _check_callback(kind, getattr(self, kind))

    def __bool__(self) -> bool:
        """Return whether the policy has any callback."""
        return any(getattr(self, kind) is not None for kind in KINDS)


KINDS: Final = tuple(field.name for field in attrs.fields(Policy) if field.name != "name")
"""The kinds of request: the names of the callbacks."""

FITTING: Final[dict[str, Any]] = {
    field.name: field.metadata[FITS] for field in attrs.fields(Policy) if field.metadata
}
"""The decisions that fit each kind, except unknown requests."""


def _check_callback(kind: str, value: object) -> None:
    """Reject a callback that would fail only when the server sends a request."""
    if value is None or is_async_callable(value):
        return
    if isinstance(value, Policy):
        hint = f"pass a policy as policy=…, and combine several with first_of(…, Policy({kind}=…))"
    elif isinstance(value, AnyDecision | Abstain):
        hint = f"write an async function that returns {type(value).__name__}(…)"
    elif inspect.iscoroutine(value):
        hint = "pass the function itself, without calling it"
    else:
        hint = f"write async def {kind}(request): …, and pass it without calling it"
    raise TypeError(f"Policy({kind}=…) expects an async function, got {described(value)}: {hint}")


def check_policies(values: Iterable[object]) -> None:
    """Raise ``TypeError`` unless all values are policies, and not functions or lists."""
    for value in values:
        check_type(
            "policy",
            value,
            Policy,
            "write Policy(command=…), with an async function for each kind of request",
        )


def name_of(policy: Policy, kind: str) -> str:
    """Return the name of a callback in audit records: the policy's name, or else the callback's own."""
    callback = getattr(policy, kind)
    return policy.name or getattr(callback, "__qualname__", None) or type(callback).__qualname__


async def _accept(_: object) -> Accept:
    await trio.lowlevel.checkpoint()
    return Accept()


async def _accept_tool(request: ElicitationRequest) -> Accept | Decline:
    await trio.lowlevel.checkpoint()
    if isinstance(request, McpToolApproval):
        return Accept()
    return Decline("accept_all does not answer questions")


async def _decline(_: object) -> Decline:
    await trio.lowlevel.checkpoint()
    return Decline("declined by decline_all")


async def _system_time(_: CurrentTimeRequest) -> CurrentTime:
    await trio.lowlevel.checkpoint()
    return CurrentTime(int(time.time()))


async def _no_answer(_: object) -> Decline:
    await trio.lowlevel.checkpoint()
    return Decline("accept_all does not answer questions")


_DECLINES: Final[dict[str, Any]] = dict.fromkeys(KINDS, _decline)

decline_all: Final = Policy(name="decline_all", **_DECLINES)
"""Declines every request, without the warning that is logged when no policy decides."""

accept_all: Final = Policy(
    name="accept_all",
    command=_accept,
    file_change=_accept,
    permissions=_accept,
    user_input=_no_answer,
    elicitation=_accept_tool,
)
"""Accepts every approval request. The sandbox is then the only limit, and requests to leave the sandbox are accepted too.

Questions, forms and links are declined, because accepting them requires an actual answer.
"""

system_clock: Final = Policy(name="system_clock", current_time=_system_time)
"""Returns the time of this machine's clock."""
