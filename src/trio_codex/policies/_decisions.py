"""The decisions of a policy, as values. Independent of their encoding on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from trio_codex._core.arguments import as_tuple
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
    """Allow the request.

    Attributes:
        scope: ``"once"`` covers this request only. With ``"session"`` the server does not ask about the same thing again
            in this thread. With ``"always"``, which only approvals of MCP tools offer, the server stores the approval.
        exec_policy: The first words of commands that the server no longer asks about, in any thread. Only for commands.
            The server writes them to ``$CODEX_HOME/rules``.
        content: The fields of a form. Only for forms.
        rule: The part of the policy that led to this decision; recorded in the audit, never sent.
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
    """Refuse the request; the agent is notified, and the turn continues.

    Attributes:
        reason: Why the request is refused. The protocol passes this to the agent only for legacy approvals and tool
            calls; in other cases, steer the turn to explain the refusal.
        rule: The part of the policy that led to this decision; recorded in the audit, never sent.
    """

    reason: str | None = None
    rule: str | None = _rule()


@attrs.frozen
class Cancel:
    """Refuse the request and interrupt its turn.

    Attributes:
        rule: The part of the policy that led to this decision; recorded in the audit, never sent.
    """

    rule: str | None = _rule()


@attrs.frozen
class NetworkRule:
    """Allow or deny a host permanently, in response to a command that wants to reach it.

    Attributes:
        host: The host.
        action: ``"allow"`` or ``"deny"``.
        rule: The part of the policy that led to this decision; recorded in the audit, never sent.
    """

    host: str
    action: Literal["allow", "deny"] = attrs.field(default="allow", validator=_one_of("allow", "deny"))
    rule: str | None = _rule()


@attrs.frozen
class Grant:
    """Grant some of the requested permissions.

    Attributes:
        permissions: The permissions to grant.
        scope: Whether they last for the turn or for the session.
        strict_auto_review: Whether the server reviews each later command of the turn; ``None`` leaves this unchanged.
        rule: The part of the policy that led to this decision; recorded in the audit, never sent.
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
        answers: The chosen or typed answers, by the question's id.
        rule: The part of the policy that led to this decision; recorded in the audit, never sent.
    """

    answers: Mapping[str, tuple[str, ...]] = attrs.field(converter=_answers, repr=False)
    rule: str | None = _rule()


@attrs.frozen(kw_only=True)
class AuthTokens:
    """New tokens for an account whose tokens the application manages.

    Attributes:
        access_token: The access token.
        account_id: The id of the account or workspace.
        plan_type: The plan of the account, if known.
    """

    access_token: str = attrs.field(repr=False)
    account_id: str
    plan_type: str | None = None


@attrs.frozen
class Attestation:
    """An attestation of this client.

    Attributes:
        token: The token, in the form that the server's operator expects.
    """

    token: str = attrs.field(repr=False)


@attrs.frozen
class CurrentTime:
    """The current time.

    Attributes:
        unix_seconds: Whole seconds since the epoch.
    """

    unix_seconds: int = attrs.field(validator=attrs.validators.instance_of(int))


@attrs.frozen
class Abstain:
    """Leave the request to the next policy; if all policies abstain, it is denied."""


Decision: TypeAlias = Accept | Decline | Cancel | Abstain
"""The decisions that fit every kind of approval."""

CommandDecision: TypeAlias = Decision | NetworkRule
PermissionsDecision: TypeAlias = Decision | Grant
UserInputDecision: TypeAlias = Answers | Decline | Cancel | Abstain
ElicitationDecision: TypeAlias = Decision
AuthRefreshDecision: TypeAlias = AuthTokens | Decline | Cancel | Abstain
AttestationDecision: TypeAlias = Attestation | Decline | Cancel | Abstain
CurrentTimeDecision: TypeAlias = CurrentTime | Decline | Cancel | Abstain
UnknownDecision: TypeAlias = "Mapping[str, wire.JSON] | Decline | Cancel | Abstain"
"""The result as a JSON object, or a refusal."""

ToolCallDecision: TypeAlias = ToolResult | Decline | Cancel | Abstain
AnyDecision: TypeAlias = (
    Decision | NetworkRule | Grant | Answers | AuthTokens | Attestation | CurrentTime | ToolResult
)
"""Every decision that a policy can make."""


def accept(
    scope: Literal["once", "session", "always"] = "once",
    *,
    exec_policy: Iterable[str] | None = None,
    content: Mapping[str, wire.JSON] | None = None,
) -> Accept:
    """Allow the request. See :class:`Accept`.

    Raises:
        TypeError: ``exec_policy`` is a bare string instead of a list of words.
    """
    return Accept(scope, exec_policy=exec_policy, content=content)


def decline(reason: str | None = None) -> Decline:
    """Refuse the request; the turn continues. See :class:`Decline`."""
    return Decline(reason)


def cancel() -> Cancel:
    """Refuse the request and interrupt its turn. See :class:`Cancel`."""
    return Cancel()


def abstain() -> Abstain:
    """Leave the request to the next policy. See :class:`Abstain`."""
    return Abstain()


def network_rule(host: str, action: Literal["allow", "deny"] = "allow") -> NetworkRule:
    """Allow or deny a host permanently. See :class:`NetworkRule`."""
    return NetworkRule(host, action)


def answers(given: Mapping[str, str | Iterable[str]]) -> Answers:
    """Answer the agent's questions by id, as in ``answers({"color": "Blue", "sizes": ["S", "M"]})``."""
    return Answers(given)


def grant(
    *,
    read: Iterable[str | os.PathLike[str]] = (),
    write: Iterable[str | os.PathLike[str]] = (),
    network: bool = False,
    scope: Literal["turn", "session"] = "turn",
    strict_auto_review: bool | None = None,
) -> Grant:
    """Grant these permissions. Use :func:`accept` to grant all requested permissions.

    Args:
        read: Paths to allow reading. Relative paths are resolved against the current working directory, and a leading
            ``~`` is the home directory.
        write: Paths to allow writing, in the same form.
        network: Whether to allow network access.
        scope: Whether the grant lasts for the turn or for the session.
        strict_auto_review: See :class:`Grant`.

    Raises:
        TypeError: ``read`` or ``write`` is a bare string instead of a list of paths.
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
