"""Handles whose threads are being opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_codex._session.budget import Budget
    from trio_codex._tools.toolbox import Toolbox
    from trio_codex.policies import Policy


class PendingHandle:
    """A handle whose thread is being opened. It is registered before the request is written.

    Attributes:
        thread_id: The id of its thread; ``None`` for a new thread, whose id is only in the response.
        policy: The policy given for it.
        tools: The tools given for it.
        budget: The budget given for it.
        holds: Whether messages about the thread are held until the response is applied.
        is_overtaken: Whether an unsubscribe from the thread was requested after this handle.
    """

    def __init__(
        self,
        thread_id: str | None = None,
        policy: Policy | None = None,
        tools: Toolbox | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.thread_id = thread_id
        self.policy = policy
        self.tools: Toolbox | None = tools or None
        self.budget = budget
        self.holds: bool = True
        self.is_overtaken: bool = False
