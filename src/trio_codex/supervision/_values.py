"""The settings of a supervisor, and its status."""

from __future__ import annotations

from typing import Any, Literal

import attrs

_positive: Any = attrs.validators.gt(0)
_not_negative: Any = attrs.validators.ge(0)


@attrs.frozen(kw_only=True)
class Backoff:
    """The delays before restarts. All times are in seconds.

    The delay depends on the number of restarts within the period of :class:`Restart`, so it starts over once the server
    has been healthy for that long.

    Attributes:
        first: The delay before the first restart.
        then: The delay before the second restart.
        factor: The ratio of each later delay to the one before it.
        maximum: The longest delay.

    Raises:
        ValueError: A value is out of range.
    """

    first: float = attrs.field(default=0.0, validator=_not_negative)
    then: float = attrs.field(default=0.5, validator=_not_negative)
    factor: float = attrs.field(default=2.0, validator=attrs.validators.ge(1))
    maximum: float = attrs.field(default=30.0, validator=_not_negative)

    def delay(self, number: int) -> float:
        """Return the delay before a restart, by its number, starting at 1."""
        if number <= 1:
            return min(self.first, self.maximum)
        delay = float(self.then)
        # A product that is too large is infinite, but such a power raises OverflowError.
        for _ in range(min(number - 2, 64)):
            delay *= self.factor
        return min(self.maximum, delay)


@attrs.frozen(kw_only=True)
class Restart:
    """How often a server may be restarted, as in OTP: more than ``max_restarts`` within ``period`` are too many.

    Failed starts count, planned restarts do not. With the defaults, a supervisor survives an outage of two minutes.

    Attributes:
        max_restarts: The maximum number of restarts in any ``period``.
        period: The length of the period in seconds.
        backoff: The delays.
        strikes: The number of consecutive server deaths, each within ``period`` of its start, at which the
            same thread had an open turn. After that the thread runs alone; if the server dies once more, the thread
            is quarantined.
        reconnect_for: For an attachment, seconds after which the supervisor gives up on an unreachable server. The
            number of reconnects is not limited.

    Raises:
        ValueError: A value is out of range.
    """

    max_restarts: int = attrs.field(default=10, validator=_not_negative)
    period: float = attrs.field(default=300.0, validator=_positive)
    backoff: Backoff = attrs.field(factory=Backoff, validator=attrs.validators.instance_of(Backoff))
    strikes: int = attrs.field(default=3, validator=_positive)
    reconnect_for: float = attrs.field(default=600.0, validator=_positive)


@attrs.frozen(kw_only=True)
class Probe:
    """How to detect that a silent server is stuck. All times are in seconds.

    Time during which this program was blocked does not count.

    Attributes:
        every: The silence after which the server is probed.
        timeout: How long the server may take to answer a probe.
        failures: The number of unanswered probes after which the server is replaced.

    Raises:
        ValueError: A value is out of range.
    """

    every: float = attrs.field(default=30.0, validator=_positive)
    timeout: float = attrs.field(default=10.0, validator=_positive)
    failures: int = attrs.field(default=3, validator=_positive)


@attrs.frozen(kw_only=True)
class Generation:
    """One server of a supervisor, or one of its connections to a server.

    Attributes:
        number: Its number, starting at 1.
        started: Trio time at which it was ready.
        ended: Trio time at which it ended; ``None`` if it is the current one.
        cause: Why it ended: an exception, or the reason of a planned restart.
        pid: The process id of the server; ``None`` if the supervisor did not start it.
    """

    number: int
    started: float
    ended: float | None = None
    cause: Exception | str | None = None
    pid: int | None = None


@attrs.frozen(kw_only=True)
class SupervisorStatus:
    """What a supervisor is doing.

    Attributes:
        state: ``"ready"``; ``"restarting"``, also before the first start; ``"draining"`` before a planned restart;
            ``"closed"``.
        generation: The number of the current generation, or of the latest one.
        restarts: The number of restarts so far, planned ones included.
        threads: The names of the open threads.
        turns: The names of the threads that have an open turn.
        quarantined: The names of the threads that are quarantined.
        tokens: Tokens used by the turns of all threads in the journal, including those of earlier programs.
    """

    state: Literal["ready", "restarting", "draining", "closed"] | str  # noqa: PYI051  # the values are documentation
    generation: int
    restarts: int
    threads: tuple[str, ...]
    turns: tuple[str, ...]
    quarantined: tuple[str, ...]
    tokens: int
