"""Limits of what a turn, a thread or a client may use: owns the budget value, and the meter that it is measured by.

The reader feeds the meters with tokens and turns report when they open and end. A meter does not end a turn: it tells the
turns that are open, and their scopes see to their ends.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from trio_codex._core._arguments import positive
from trio_codex._turns._usage import TokenUsage, plus
from trio_codex.errors import BudgetExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Carrier = Literal["turn", "thread", "client"]


@attrs.frozen(kw_only=True)
class Budget:
    """A limit of what a turn, the turns of a thread or those of a client may use together.

    Crossing it interrupts the open turns that it covers, as if they had been left early, and raises
    :class:`~trio_codex.errors.BudgetExceeded` out of their scopes. Once nothing is left of it, no further turn starts.

    The server reports tokens when a request to the model has ended, so the last request may go beyond the limit.

    Attributes:
        tokens: Input and output tokens, those of agents that were spawned included.
        turns: Turns started. Not for a turn.
        seconds: Of a turn: from its start to its end. Of a thread or a client: while at least one turn of it is open.

    Raises:
        ValueError: A limit is not positive.
        TypeError: A limit is not a number.
    """

    tokens: int | None = attrs.field(default=None, validator=positive)
    turns: int | None = attrs.field(default=None, validator=positive)
    seconds: float | None = attrs.field(default=None, validator=positive)


_NO_BUDGET = Budget()


class Meter:
    """What was used of one budget, or just what was used.

    Attributes:
        budget: The limits.
        usage: Tokens; ``None`` if the server has not reported any.
        turns: Turns started.
    """

    def __init__(self, carrier: Carrier, budget: Budget | None = None) -> None:
        self._carrier: Carrier = carrier
        self.budget: Budget = budget or _NO_BUDGET
        self.usage: TokenUsage | None = None
        self.turns: int = 0
        self._busy = 0.0
        self._busy_since = 0.0
        self._open: list[Callable[[BudgetExceeded], None]] = []

    def add(self, usage: TokenUsage) -> None:
        """Count tokens; past the limit, tell every open turn."""
        self.usage = plus(self.usage, usage)
        limit = self.budget.tokens
        if limit is not None and self.tokens > limit:
            for stop in self._open:
                stop(self.exceeded("tokens"))

    def check_something_left(self) -> None:
        """Make sure that a turn may start.

        Raises:
            BudgetExceeded: It must not.
        """
        used = {"tokens": self.tokens, "turns": self.turns, "seconds": self.seconds}
        for limit, spent in used.items():
            allowed = getattr(self.budget, limit)
            if allowed is not None and spent >= allowed:
                raise self.exceeded(limit)

    def open(self, stop: Callable[[BudgetExceeded], None]) -> None:
        """Note that a turn starts.

        Args:
            stop: Called, from the reader, whenever more tokens are used than the limit allows.
        """
        if not self._open:
            self._busy_since = trio.current_time()
        self._open.append(stop)
        self.turns += 1

    def close(self, stop: Callable[[BudgetExceeded], None]) -> None:
        """Note that a turn has ended."""
        self._open.remove(stop)
        if not self._open:
            self._busy += trio.current_time() - self._busy_since

    @property
    def tokens(self) -> int:
        """Tokens used, as far as the server said."""
        if self.usage is None:
            return 0
        if self.usage.total_tokens is not None:
            return self.usage.total_tokens
        return (self.usage.input_tokens or 0) + (self.usage.output_tokens or 0)

    @property
    def seconds(self) -> float:
        """How long at least one turn was open."""
        return self._busy + (trio.current_time() - self._busy_since if self._open else 0.0)

    @property
    def deadline(self) -> float:
        """When the time is up if a turn stays open, in Trio's time."""
        limit = self.budget.seconds
        return float("inf") if limit is None else trio.current_time() + limit - self.seconds

    def exceeded(self, limit: str) -> BudgetExceeded:
        """Give the error for one of the limits."""
        return BudgetExceeded(
            self._carrier, limit, getattr(self.budget, limit), getattr(self, limit), self.usage
        )


class Spending:
    """One turn as several meters count it, from its start to its end.

    Args:
        meters: Of the turn, its thread and its client; where several limits are crossed at once, the first one is named.
        scope: What runs out of time with the first of the budgets, unless the turn ends before.
        stop: Called once, if the time is up, or, from the reader, when more tokens are used than a limit allows.

    Raises:
        BudgetExceeded: Nothing is left of a budget; the turn must not start.
    """

    def __init__(
        self, meters: Sequence[Meter], scope: trio.CancelScope, stop: Callable[[BudgetExceeded], None]
    ) -> None:
        for meter in meters:
            meter.check_something_left()
        self._meters = meters
        self._scope = scope
        self._stop: Callable[[BudgetExceeded], None] | None = stop
        tell = self._tell
        for meter in meters:
            meter.open(tell)
        self._first_up = min(meters, key=lambda meter: meter.deadline)
        scope.deadline = self._first_up.deadline

    def check_time(self) -> None:
        """Tell if a budget is out of time, and the scope was cancelled for it."""
        if self._scope.cancel_called and self._scope.deadline <= trio.current_time():
            self._tell(self._first_up.exceeded("seconds"))

    def never_started(self) -> None:
        """Note that the server refused the turn, which then does not count as one."""
        for meter in self._meters:
            meter.turns -= 1

    def close(self) -> None:
        """Note that the turn has ended."""
        self.check_time()
        # The scope may stay open for long, but what it does is no turn any more.
        self._scope.deadline = math.inf
        for meter in self._meters:
            meter.close(self._tell)

    def _tell(self, error: BudgetExceeded) -> None:
        # Told again with every report past the limit; the first one is the reason.
        stop, self._stop = self._stop, None
        if stop is not None:
            stop(error)
