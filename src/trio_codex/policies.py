"""Who decides what an agent may do: policies, the requests they are asked, and the decisions they give.

A :class:`Policy` holds one async callback for each kind of request. What it leaves out falls through: from the turn's
policy to the thread's, to the client's, and then to a denial. Nothing is accepted unless a policy says so.

A callback runs in a task of its own, in a cancel scope that belongs to the turn that asks: it may take hours without
holding anything up, and it is cancelled when the server withdraws the request, the turn ends, or the connection does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs
import trio

if TYPE_CHECKING:
    from trio_codex import wire

# -- decisions -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Accept:
    """Let it happen.

    Attributes:
        scope: ``"once"``, or ``"session"`` so that the server does not ask about the same thing again in this thread.
    """

    scope: Literal["once", "session"] = attrs.field(
        default="once", validator=attrs.validators.in_(("once", "session"))
    )


@attrs.frozen
class Decline:
    """Refuse; the agent is told so, and the turn goes on.

    Attributes:
        reason: Why. Only the legacy approvals carry it to the agent: to tell it otherwise, steer the turn as well.
    """

    reason: str | None = None


@attrs.frozen
class Cancel:
    """Refuse and interrupt the turn."""


Decision: TypeAlias = Accept | Decline | Cancel


def accept(scope: Literal["once", "session"] = "once") -> Accept:
    """Let it happen: this once, or for the session."""
    return Accept(scope)


def decline(reason: str | None = None) -> Decline:
    """Refuse; the turn goes on. Only the legacy approvals carry the reason to the agent."""
    return Decline(reason)


def cancel() -> Cancel:
    """Refuse and interrupt the turn."""
    return Cancel()


# -- requests ------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class CommandRequest:
    """The agent wants to run a command that it may not run by itself.

    What is shown here is what the server says it is going to run; it does not pin the files that the command reads.

    Attributes:
        thread_id: The thread that asks; a child agent's is not the one you started.
        turn_id: The turn that asks; ``None`` in the legacy form.
        item_id: The item of the command.
        command: The command line, as a shell would take it; ``None`` if the server did not say.
        cwd: Where it would run.
        reason: Why, in the agent's words.
        params: Everything the server said.
    """

    thread_id: str
    turn_id: str | None
    item_id: str
    command: str | None
    cwd: str | None
    reason: str | None
    params: wire.CommandExecutionRequestApprovalParams | wire.ExecCommandApprovalParams = attrs.field(
        repr=False
    )


@attrs.frozen(kw_only=True)
class FileChangeRequest:
    """The agent wants to change files that it may not change by itself.

    Attributes:
        thread_id: The thread that asks; a child agent's is not the one you started.
        turn_id: The turn that asks; ``None`` in the legacy form.
        item_id: The item of the change.
        changes: What would change, by path. The request itself does not say; it is taken from the item.
        reason: Why, in the agent's words.
        grant_root: A directory below which the server asks to write for the rest of the session.
        params: Everything the server said.
    """

    thread_id: str
    turn_id: str | None
    item_id: str
    changes: tuple[wire.FileUpdateChange, ...]
    reason: str | None
    grant_root: str | None
    params: wire.FileChangeRequestApprovalParams | wire.ApplyPatchApprovalParams = attrs.field(repr=False)


CommandCallback: TypeAlias = Callable[[CommandRequest], Awaitable[Decision]]
FileChangeCallback: TypeAlias = Callable[[FileChangeRequest], Awaitable[Decision]]

# -- policies ------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Policy:
    """Callbacks that decide, one for each kind of request; ``None`` leaves it to the next policy out.

    A callback that raises, or returns what is no decision, denies the request and ends its turn with ``PolicyError``.

    Attributes:
        command: Decides on commands, those of the legacy ``execCommandApproval`` too.
        file_change: Decides on file changes, those of the legacy ``applyPatchApproval`` too.
    """

    command: CommandCallback | None = None
    file_change: FileChangeCallback | None = None

    def __bool__(self) -> bool:
        """Whether it decides anything."""
        return any(callback is not None for callback in attrs.astuple(self, recurse=False))


async def _accept(_: Any) -> Decision:
    await trio.lowlevel.checkpoint()
    return accept()


async def _decline(_: Any) -> Decision:
    await trio.lowlevel.checkpoint()
    return decline("declined by decline_all")


decline_all: Final = Policy(command=_decline, file_change=_decline)
"""Declines everything, without the warning that an unhandled request logs."""

accept_all: Final = Policy(command=_accept, file_change=_accept)
"""Accepts everything the agent asks for. What stops it then is the sandbox, and nothing where it asks to leave that."""
