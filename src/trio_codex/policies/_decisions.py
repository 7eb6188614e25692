"""What a policy may decide, as values. How each goes over the wire is not known here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from trio_codex._core.sequences import as_tuple
from trio_codex._values.paths import expand
from trio_codex._values.tool_result import ToolResult

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from trio_codex import wire


def _rule() -> Any:
    return attrs.field(default=None, kw_only=True, eq=False)


def _one_of(*values: str) -> Any:
    return attrs.validators.in_(values)


def _words(value: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if value is None else as_tuple(value)


@attrs.frozen
class Accept:
    """Let it happen.

    Attributes:
        scope: ``"once"``; ``"session"`` so that the server does not ask about the same thing again in this thread;
            ``"always"``, which only the approval of an MCP tool may offer, so that the server remembers it for good.
        exec_policy: For a command: the first words of commands that the server shall not ask about any more, in any
            thread. It writes them into ``$CODEX_HOME/rules``.
        content: For a form: its fields.
        rule: What in the policy led to it; for the audit alone.
    """

    scope: Literal["once", "session", "always"] = attrs.field(
        default="once", validator=_one_of("once", "session", "always")
    )
    exec_policy: tuple[str, ...] | None = attrs.field(
        default=None, kw_only=True, converter=_words, repr=False
    )
    content: Mapping[str, wire.JSON] | None = attrs.field(default=None, kw_only=True, repr=False)
    rule: str | None = _rule()


@attrs.frozen
class Decline:
    """Refuse; the agent is told so, and the turn goes on.

    Attributes:
        reason: Why. Only legacy approvals and tool calls carry it to the agent: to tell it otherwise, steer the turn as
            well.
        rule: What in the policy led to it; for the audit alone.
    """

    reason: str | None = None
    rule: str | None = _rule()


@attrs.frozen
class Cancel:
    """Refuse and interrupt the turn that asks.

    Attributes:
        rule: What in the policy led to it; for the audit alone.
    """

    rule: str | None = _rule()


@attrs.frozen
class NetworkRule:
    """Settle a command's wish to reach a host by a rule that lasts.

    Attributes:
        host: The host.
        action: ``"allow"`` or ``"deny"``.
        rule: What in the policy led to it; for the audit alone.
    """

    host: str
    action: Literal["allow", "deny"] = attrs.field(default="allow", validator=_one_of("allow", "deny"))
    rule: str | None = _rule()


@attrs.frozen
class Grant:
    """Grant some of the permissions that were asked for.

    Attributes:
        permissions: What is granted.
        scope: For this turn, or for the session.
        strict_auto_review: Have the server review each later command of the turn; ``None`` leaves it as it is.
        rule: What in the policy led to it; for the audit alone.
    """

    permissions: wire.GrantedPermissionProfile
    scope: Literal["turn", "session"] = attrs.field(default="turn", validator=_one_of("turn", "session"))
    strict_auto_review: bool | None = None
    rule: str | None = _rule()


def _answers(value: Mapping[str, str | Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {key: (given,) if isinstance(given, str) else tuple(given) for key, given in value.items()}


@attrs.frozen
class Answers:
    """Answers to the agent's questions.

    Attributes:
        answers: What was chosen or typed, by the question's id.
        rule: What in the policy led to it; for the audit alone.
    """

    answers: Mapping[str, tuple[str, ...]] = attrs.field(converter=_answers, repr=False)
    rule: str | None = _rule()


@attrs.frozen(kw_only=True)
class AuthTokens:
    """Fresh tokens for an account whose tokens the application manages.

    Attributes:
        access_token: The token.
        account_id: The account or workspace it is for.
        plan_type: Its plan, if known.
    """

    access_token: str = attrs.field(repr=False)
    account_id: str
    plan_type: str | None = None


@attrs.frozen
class Attestation:
    """An attestation of this client.

    Attributes:
        token: The token, as the server's operator expects it.
    """

    token: str = attrs.field(repr=False)


@attrs.frozen
class CurrentTime:
    """The time.

    Attributes:
        unix_seconds: Whole seconds since the epoch.
    """

    unix_seconds: int = attrs.field(validator=attrs.validators.instance_of(int))


@attrs.frozen
class Abstain:
    """Leave it to the next policy out; if all abstain, the request is denied."""


Decision: TypeAlias = Accept | Decline | Cancel | Abstain
"""What fits every approval."""

CommandDecision: TypeAlias = Decision | NetworkRule
PermissionsDecision: TypeAlias = Decision | Grant
UserInputDecision: TypeAlias = Answers | Decline | Cancel | Abstain
ElicitationDecision: TypeAlias = Decision
AuthRefreshDecision: TypeAlias = AuthTokens | Decline | Cancel | Abstain
AttestationDecision: TypeAlias = Attestation | Decline | Cancel | Abstain
CurrentTimeDecision: TypeAlias = CurrentTime | Decline | Cancel | Abstain
UnknownDecision: TypeAlias = "Mapping[str, wire.JSON] | Decline | Cancel | Abstain"
"""The result, as a JSON object, or a refusal."""

ToolCallDecision: TypeAlias = ToolResult | Decline | Cancel | Abstain
AnyDecision: TypeAlias = (
    Decision | NetworkRule | Grant | Answers | AuthTokens | Attestation | CurrentTime | ToolResult
)
"""Whatever a policy may decide."""


def accept(
    scope: Literal["once", "session", "always"] = "once",
    *,
    exec_policy: Iterable[str] | None = None,
    content: Mapping[str, wire.JSON] | None = None,
) -> Accept:
    """Let it happen. See :class:`Accept`.

    Raises:
        TypeError: ``exec_policy`` is one text, and no list of words.
    """
    return Accept(scope, exec_policy=exec_policy, content=content)


def decline(reason: str | None = None) -> Decline:
    """Refuse; the turn goes on. See :class:`Decline`."""
    return Decline(reason)


def cancel() -> Cancel:
    """Refuse and interrupt the turn that asks."""
    return Cancel()


def abstain() -> Abstain:
    """Leave it to the next policy out."""
    return Abstain()


def network_rule(host: str, action: Literal["allow", "deny"] = "allow") -> NetworkRule:
    """Allow or deny a host for good. See :class:`NetworkRule`."""
    return NetworkRule(host, action)


def answers(given: Mapping[str, str | Iterable[str]]) -> Answers:
    """Answer the agent's questions, by their ids: ``answers({"colour": "Blue", "sizes": ["S", "M"]})``."""
    return Answers(given)


def grant(
    *,
    read: Iterable[str | os.PathLike[str]] = (),
    write: Iterable[str | os.PathLike[str]] = (),
    network: bool = False,
    scope: Literal["turn", "session"] = "turn",
    strict_auto_review: bool | None = None,
) -> Grant:
    """Grant these permissions; :func:`accept` grants what was asked for.

    Args:
        read: Paths that may be read. Relative ones are below the present working directory, and ``~`` is the home directory.
        write: Paths that may be written, likewise.
        network: Whether the network may be reached.
        scope: For this turn, or for the session.
        strict_auto_review: See :class:`Grant`.

    Raises:
        TypeError: ``read`` or ``write`` is one text, and no list of paths.
        ValueError: A path begins with ``~``, and the home directory is unknown.
    """
    import os

    from trio_codex import wire

    readable, writable = [
        [os.path.abspath(expand(path)) for path in as_tuple(paths)] or None for paths in (read, write)
    ]
    files = wire.AdditionalFileSystemPermissions(read=readable, write=writable)
    permissions = wire.GrantedPermissionProfile(
        file_system=files if readable or writable else None,
        network=wire.AdditionalNetworkPermissions(enabled=True) if network else None,
    )
    return Grant(permissions, scope, strict_auto_review)
