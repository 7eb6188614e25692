"""The policies and tools of a client, which decide on server requests, and the records of their decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from trio_codex._core.log import logger
from trio_codex._link.dispatch import CallbackGroup
from trio_codex._session.audit import Audit

if TYPE_CHECKING:
    from trio_codex import wire
    from trio_codex._session.budget import Budget
    from trio_codex._session.ending import TurnEnder
    from trio_codex._session.listeners import Listeners
    from trio_codex._session.threads import Threads
    from trio_codex._tools.toolbox import Toolbox
    from trio_codex.policies import Policy

BYPASSED: Final = ("command", "file_change", "permissions", "elicitation")
"""Requests that the server may decide itself, depending on its settings. It always sends questions and tool calls."""


class Defaults(msgspec.Struct, frozen=True, eq=False):
    """The settings that apply to all threads of a client.

    Attributes:
        policy: Handles requests that the policies of the turn and the thread leave to it.
        tools: Declared on every new thread.
        budget: The joint budget of all turns.
    """

    policy: Policy | None
    tools: Toolbox
    budget: Budget | None


class Approvals:
    """Everything that the decision on a server request depends on.

    Attributes:
        listeners: Notified of unknown requests.
        ender: Interrupts the turn of a request that is cancelled.
        is_shared: Whether other clients may use the same server and answer for their own turns.
        has_peers: Whether the server asks several clients the same question.
        unowned: The callbacks for requests that belong to no open turn of this client.
        audit: The records of decisions.
    """

    def __init__(
        self,
        threads: Threads,
        listeners: Listeners,
        ender: TurnEnder,
        defaults: Defaults,
        *,
        shared: bool,
        has_peers: bool = False,
    ) -> None:
        self.threads: Threads = threads
        self.listeners: Listeners = listeners
        self.ender: TurnEnder = ender
        self.policy: Policy | None = defaults.policy
        self.tools: Toolbox = defaults.tools
        self.is_shared: bool = shared
        self.has_peers: bool = has_peers
        self.unowned: CallbackGroup = CallbackGroup()
        self.audit: Audit = Audit(listeners.instruments)
        self._warned = False

    def warn_if_bypassed(
        self,
        settings: wire.ThreadStartResponse | wire.ThreadResumeResponse | wire.ThreadForkResponse,
        policy: Policy | None,
    ) -> None:
        """Warn once if a thread has a policy that the server will never ask, because of the thread's settings."""
        asked = (each for each in (policy, self.policy) if each is not None)
        if self._warned or not any(getattr(each, kind) for each in asked for kind in BYPASSED):
            return
        if settings.approval_policy == "never":
            why = "its approval policy is 'never'"
        elif settings.approvals_reviewer != "user":
            why = f"its approvals are reviewed by {settings.approvals_reviewer}"
        else:
            return
        self._warned = True
        logger.warning("the policy of thread %s will not be asked: %s", settings.thread.id, why)
