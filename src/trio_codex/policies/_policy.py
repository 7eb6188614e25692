"""The policy itself: one callback for each kind of request, and the simplest of them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

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


@attrs.frozen(kw_only=True)
class Policy:
    """Callbacks that decide, one for each kind of request; ``None`` leaves it to the next policy out.

    A callback that raises, or returns what is no decision, denies the request and ends its turn with ``PolicyError``; for
    ``tool_call`` that is a failed tool call instead, and the turn goes on.

    Attributes:
        name: By which the audit calls it; by default its callbacks go by their own names.
        command: Decides on commands, those of the legacy ``execCommandApproval`` too.
        file_change: Decides on file changes, those of the legacy ``applyPatchApproval`` too.
        permissions: Decides on permissions beyond the sandbox.
        user_input: Answers questions of the agent.
        elicitation: Answers questions of MCP servers, and decides on calls of their tools.
        tool_call: Carries out calls of dynamic tools that are not among the ``tools`` of the thread or the client.
        auth_refresh: Gives fresh tokens. Without one, the server gets an error: there is no denial in the protocol.
        attestation: Attests this client; likewise.
        current_time: Tells the time; likewise.
        unknown: Answers requests of methods that this version does not know, with the result as a JSON object. Without one,
            the server gets the JSON-RPC error "method not found".

    Raises:
        TypeError: A callback is not an async function, nor an object with an async ``__call__``.
    """

    name: str | None = None
    command: CommandCallback | None = None
    file_change: FileChangeCallback | None = None
    permissions: PermissionsCallback | None = None
    user_input: UserInputCallback | None = None
    elicitation: ElicitationCallback | None = None
    tool_call: ToolCallCallback | None = None
    auth_refresh: AuthRefreshCallback | None = None
    attestation: AttestationCallback | None = None
    current_time: CurrentTimeCallback | None = None
    unknown: UnknownCallback | None = None

    def __attrs_post_init__(self) -> None:
        for kind in KINDS:
            _check_callback(kind, getattr(self, kind))

    def __bool__(self) -> bool:
        """Whether it decides anything."""
        return any(getattr(self, kind) is not None for kind in KINDS)


KINDS: Final = tuple(field.name for field in attrs.fields(Policy) if field.name != "name")
"""The kinds of requests, by the names of the callbacks."""


def _check_callback(kind: str, value: object) -> None:
    """Refuse what could only fail once the server asks."""
    if value is None or is_async_callable(value):
        return
    if isinstance(value, Policy):
        hint = f"a policy is used whole, as policy=…; combine several with first_of(…, Policy({kind}=…))"
    elif isinstance(value, AnyDecision | Abstain):
        hint = f"write an async function that returns {type(value).__name__}(…)"
    elif inspect.iscoroutine(value):
        hint = "pass the function itself, without calling it"
    else:
        hint = f"write async def {kind}(request): …, and pass it without calling it"
    raise TypeError(f"Policy({kind}=…) expects an async function, got {described(value)}: {hint}")


def check_policies(values: Iterable[object]) -> None:
    """Check that policies are policies, and not functions or a list.

    Raises:
        TypeError: One is something else.
    """
    for value in values:
        check_type(
            "policy",
            value,
            Policy,
            "write Policy(command=…), with an async function for each kind of request",
        )


def name_of(policy: Policy, kind: str) -> str:
    """Give the name by which an audit calls a callback of a policy: the policy's, else the callback's own."""
    callback = getattr(policy, kind)
    return policy.name or getattr(callback, "__qualname__", None) or type(callback).__qualname__


async def _accept(_: object) -> Accept:
    await trio.lowlevel.checkpoint()
    return Accept()


async def _accept_tool(request: ElicitationRequest) -> Accept | Decline:
    await trio.lowlevel.checkpoint()
    if isinstance(request, McpToolApproval):
        return Accept()
    return Decline("accept_all answers no questions")


async def _decline(_: object) -> Decline:
    await trio.lowlevel.checkpoint()
    return Decline("declined by decline_all")


async def _system_time(_: CurrentTimeRequest) -> CurrentTime:
    await trio.lowlevel.checkpoint()
    return CurrentTime(int(time.time()))


async def _no_answer(_: object) -> Decline:
    await trio.lowlevel.checkpoint()
    return Decline("accept_all answers no questions")


decline_all: Final = Policy(
    name="decline_all",
    command=_decline,
    file_change=_decline,
    permissions=_decline,
    user_input=_decline,
    elicitation=_decline,
    tool_call=_decline,
    auth_refresh=_decline,
    attestation=_decline,
    current_time=_decline,
    unknown=_decline,
)
"""Declines everything, without the warning that an unhandled request logs."""

accept_all: Final = Policy(
    name="accept_all",
    command=_accept,
    file_change=_accept,
    permissions=_accept,
    user_input=_no_answer,
    elicitation=_accept_tool,
)
"""Accepts whatever the agent asks to be allowed. What stops it then is the sandbox, and nothing where it asks to leave that.

Questions, forms and links have no answer that could be made up: they are declined.
"""

system_clock: Final = Policy(name="system_clock", current_time=_system_time)
"""Tells the time of this machine."""
