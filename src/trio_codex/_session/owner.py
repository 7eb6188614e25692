"""The scope of this client that a turn belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from trio_codex._link.dispatch import CallbackGroup
    from trio_codex._session.budget import BudgetTracker, Meter
    from trio_codex._values.sink import EventSink
    from trio_codex.policies import Policy


class TurnOwner(msgspec.Struct, frozen=True, eq=False):
    """The scope of this client that a turn belongs to: the one that started it, or the first that rejoined it.

    Attributes:
        handle: The handle that started or rejoined the turn.
        events: The buffer of its consumer.
        callbacks: Its callbacks.
        policy: The policy given for it.
        meter: What it uses, including the agents it spawned.
        budget_tracker: Tracks it against the budgets; ``None`` if they were already used up.
    """

    handle: object
    events: EventSink
    callbacks: CallbackGroup
    policy: Policy | None
    meter: Meter
    budget_tracker: BudgetTracker | None
