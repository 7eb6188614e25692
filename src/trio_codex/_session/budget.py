"""Budgets: limits on what a turn, a thread or a client may use, and the meters that enforce them.

The reader feeds tokens to the meters; turns report when they open and end. A meter never ends a turn itself: it
notifies the open turns, and their scopes end them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from trio_codex._core.arguments import positive
from trio_codex._values.usage import TokenUsage, plus
from trio_codex.errors import BudgetExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from trio_codex._link.timeouts import Timeout, Timeouts

Carrier = Literal["turn", "thread", "client"]


@attrs.frozen(kw_only=True)
class Budget:
    """A limit on the resources used by a turn, or jointly by all turns of a thread or client.

    Exceeding it interrupts the open turns it covers, just as leaving their scopes early would, and raises
    :class:`~trio_codex.errors.BudgetExceeded` from those scopes. Once it is used up, no more turns start.

    The server reports tokens after each request to the model, so the last request may exceed the limit.

    Attributes:
        tokens: Input and output tokens, including those of spawned agents.
        turns: Number of turns started. Not available for a single turn.
        seconds: For a turn, the time from its start to its end. For a thread or a client, the time during which at
            least one of its turns is open.

    Raises:
        ValueError: A limit is not positive.
        TypeError: A limit is not a number.
    """

    tokens: int | None = attrs.field(default=None, validator=positive)
    turns: int | None = attrs.field(default=None, validator=positive)
    seconds: float | None = attrs.field(default=None, validator=positive)


_NO_BUDGET = Budget()


class Meter:
    """Resources used so far, with or without a budget."""

    def __init__(self, carrier: Carrier, budget: Budget | None = None) -> None:
        self._carrier: Carrier = carrier
        self.budget: Budget = budget or _NO_BUDGET
        self.usage: TokenUsage | None = None
        self.turns: int = 0
        self._busy = 0.0
        self._busy_since = 0.0
        self._open: list[Callable[[BudgetExceeded], None]] = []

    def add(self, usage: TokenUsage) -> None:
        """Add tokens. Above the limit, notify every open turn."""
        self.usage = plus(self.usage, usage)
        limit = self.budget.tokens
        if limit is not None and self.tokens > limit:
            for stop in self._open:
                stop(self.exceeded("tokens"))

    def check_something_left(self, *, is_new: bool = True) -> None:
        """Raise ``BudgetExceeded`` if the budget is used up. Its limit of turns applies only to a new turn."""
        if self.budget is _NO_BUDGET:
            return
        used = {"tokens": self.tokens, "turns": self.turns if is_new else 0, "seconds": self.seconds}
        for limit, spent in used.items():
            allowed = getattr(self.budget, limit)
            if allowed is not None and spent >= allowed:
                raise self.exceeded(limit)

    def open(self, stop: Callable[[BudgetExceeded], None], now: float, *, is_new: bool = True) -> None:
        """Record that a turn was started or rejoined. Only a new one counts against the limit of turns.

        The reader calls ``stop``, possibly often, while token use is above the limit.
        """
        if not self._open:
            self._busy_since = now
        self._open.append(stop)
        self.turns += is_new

    def close(self, stop: Callable[[BudgetExceeded], None], now: float) -> None:
        self._open.remove(stop)
        if not self._open:
            self._busy += now - self._busy_since

    @property
    def tokens(self) -> int:
        """Tokens used, as reported by the server."""
        if self.usage is None:
            return 0
        if self.usage.total_tokens is not None:
            return self.usage.total_tokens
        return (self.usage.input_tokens or 0) + (self.usage.output_tokens or 0)

    @property
    def seconds(self) -> float:
        """Time during which at least one turn was open."""
        return self._busy + (trio.current_time() - self._busy_since if self._open else 0.0)

    @property
    def seconds_left(self) -> float:
        """The rest of the time."""
        limit = self.budget.seconds
        return math.inf if limit is None else limit - self.seconds

    def exceeded(self, limit: str) -> BudgetExceeded:
        return BudgetExceeded(
            self._carrier, limit, getattr(self.budget, limit), getattr(self, limit), self.usage
        )


class ThreadMeters:
    """The meters of a thread: one for its usage, and one for the budget of each open handle.

    A budget counts from when its handle was opened, including the rest of a turn that was already open.
    """

    def __init__(self) -> None:
        self._total = Meter("thread")
        self._of_handles: dict[object, Meter] = {}

    def __iter__(self) -> Iterator[Meter]:
        yield self._total
        yield from self._of_handles.values()

    @property
    def usage(self) -> TokenUsage | None:
        """Tokens used since this client opened the thread."""
        return self._total.usage

    def add(self, usage: TokenUsage) -> None:
        for meter in self:
            meter.add(usage)

    def check_something_left(self) -> None:
        """Raise ``BudgetExceeded`` if a budget is used up."""
        for meter in self:
            meter.check_something_left()

    def limit(self, handle: object, budget: Budget, tracker: BudgetTracker | None) -> None:
        """Apply the budget of a handle, also to the open turn with this tracker."""
        meter = self._of_handles[handle] = Meter("thread", budget)
        if tracker is not None:
            tracker.join(meter, is_new=False)

    def release(self, handle: object, tracker: BudgetTracker | None) -> None:
        """Drop the budget of a handle, if it has one."""
        meter = self._of_handles.pop(handle, None)
        if meter is not None and tracker is not None:
            tracker.leave(meter)


class BudgetTracker:
    """Tracks one turn in several meters, from its start to its end. Raises ``BudgetExceeded`` if one is used up.

    Args:
        meters: The meters of the turn, its thread and its client. If several limits are exceeded at once, the first
            one is reported.
        timeouts: Limits the time of the turn. A stall of this program does not count, because the server may have
            reported the end of the turn meanwhile.
        stop: Called once: when time runs out, or, by the reader, when token use exceeds a limit.
        is_new: Whether the turn counts against the limit of turns. A rejoined one does not.
    """

    def __init__(
        self,
        meters: Iterable[Meter],
        timeouts: Timeouts,
        stop: Callable[[BudgetExceeded], None],
        *,
        is_new: bool = True,
    ) -> None:
        meters = tuple(meters)
        for meter in meters:
            meter.check_something_left(is_new=is_new)
        self._timeouts = timeouts
        self._stop: Callable[[BudgetExceeded], None] | None = stop
        # Each meter, with its timeout if it limits seconds.
        self._meters: dict[Meter, Timeout | None] = {}
        for meter in meters:
            self.join(meter, is_new=is_new)

    def join(self, meter: Meter, *, is_new: bool) -> None:
        """Track the turn in another meter from now on."""
        meter.open(self._on_exceeded, trio.current_time(), is_new=is_new)
        timeout = None
        if meter.budget.seconds is not None:
            timeout = self._timeouts.start(meter.seconds_left, partial(self._on_time_up, meter))
        self._meters[meter] = timeout

    def leave(self, meter: Meter) -> None:
        """Stop tracking the turn in a meter."""
        if (timeout := self._meters.pop(meter)) is not None:
            self._timeouts.end(timeout)
        meter.close(self._on_exceeded, trio.current_time())

    def never_started(self) -> None:
        """Record that the server rejected the turn, so that it is not counted."""
        for meter in self._meters:
            meter.turns -= 1

    def close(self) -> None:
        """Record the end of the turn. Its scope may stay open much longer, but that time does not count."""
        for meter in list(self._meters):
            self.leave(meter)

    def _on_time_up(self, meter: Meter) -> None:
        self._on_exceeded(meter.exceeded("seconds"))

    def _on_exceeded(self, error: BudgetExceeded) -> None:
        # Called for every report above the limit; only the first one counts.
        stop, self._stop = self._stop, None
        if stop is not None:
            stop(error)
