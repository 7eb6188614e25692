"""Find who decides on a server request; holds a client's policies and tools, and the records of decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_codex._core.log import logger
from trio_codex._link.dispatch import CallbackGroup
from trio_codex._session.audit import Audit

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_codex import wire
    from trio_codex._core.rpc import ServerRequest
    from trio_codex._link.dispatch import Handler
    from trio_codex._session.router import Router
    from trio_codex._session.turn_state import TurnState
    from trio_codex._tools.toolbox import Toolbox
    from trio_codex.policies import Policy

BYPASSED: Final = ("command", "file_change", "permissions", "elicitation")
"""Requests that the server may decide itself, depending on its settings. It always sends questions and tool calls."""


class Approvals:
    """Finds who decides on a server request.

    Args:
        router: The threads and turns of the client.
        policy: The client's policy.
        tools: The client's tools.

    Attributes:
        router: The threads and turns of the client.
        policy: The client's policy.
        tools: The client's tools.
        unowned: The callbacks for requests that belong to no open turn of this client.
        audit: The records of decisions.
        interrupt: Schedules the interrupt of a turn; set before the reader starts.
        is_shared: Whether other clients use the same server and answer for their own turns; set before the reader
            starts.
    """

    interrupt: Callable[[TurnState], object]
    is_shared: bool = False

    def __init__(self, router: Router, policy: Policy | None, tools: Toolbox | None = None) -> None:
        self.router = router
        self.policy = policy
        self.tools = tools
        self.unowned: CallbackGroup = CallbackGroup()
        self.audit: Audit = Audit()
        self._warned = False

    def warn_if_bypassed(
        self,
        settings: wire.ThreadStartResponse | wire.ThreadResumeResponse | wire.ThreadForkResponse,
        policy: Policy | None,
    ) -> None:
        """Warn once if a thread's settings keep the server from asking its policies."""
        asked = (each for each in (policy, self.policy) if each is not None)
        if self._warned or not any(getattr(each, kind) for each in asked for kind in BYPASSED):
            return
        if settings.approval_policy == "never":
            why = "its approval policy is never"
        elif settings.approvals_reviewer != "user":
            why = f"its approvals are reviewed by {settings.approvals_reviewer}"
        else:
            return
        self._warned = True
        logger.warning("thread %s has a policy that will not be asked: %s", settings.thread.id, why)

    def resolve(self, request: ServerRequest) -> Handler | None:
        """Return the handler of a request; ``None`` if another client answers it. Called on the reader; never raises."""
        # Imported when a session starts instead of with the package: its types cost more than the rest of a client.
        from trio_codex._session.asking import resolve

        return resolve(self, request)
