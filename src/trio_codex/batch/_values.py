"""Settings of a batch, its outcomes, and what it reports about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from trio_codex import TokenUsage
    from trio_codex.batch._tasks import Task

Status: TypeAlias = Literal["ok", "failed", "timed_out", "over_budget", "quarantined"]
"""How a task has ended."""

_limit: Any = attrs.validators.optional(attrs.validators.gt(0))
_positive: Any = attrs.validators.gt(0)


@attrs.frozen(kw_only=True)
class BatchBudget:
    """Limits of each task and of the whole batch. Every limit is optional. They hold over attempts and over programs.

    A limit of tokens is checked when the server reports usage, so it may be exceeded by one request to the model for each
    running turn. What a turn had used when its program was killed is not counted if it is repeated in a new thread.

    Attributes:
        task_tokens: Input and output tokens of a task. Beyond them, its outcome is ``over_budget``.
        task_seconds: Seconds during which attempts of a task run. Beyond them, its outcome is ``timed_out``.
        task_turns: Turns of one attempt. Beyond them, its outcome is ``over_budget``.
        tokens: Tokens of all tasks. Beyond them, the batch stops with ``BatchStopped``.
        seconds: Seconds during which turns are open, summed over all turns; likewise.
        turns: Turns of all tasks; likewise.

    Raises:
        ValueError: A limit is not positive.
    """

    task_tokens: int | None = attrs.field(default=None, validator=_limit)
    task_seconds: float | None = attrs.field(default=None, validator=_limit)
    task_turns: int | None = attrs.field(default=None, validator=_limit)
    tokens: int | None = attrs.field(default=None, validator=_limit)
    seconds: float | None = attrs.field(default=None, validator=_limit)
    turns: int | None = attrs.field(default=None, validator=_limit)


@attrs.frozen(kw_only=True)
class Retry:
    """Which attempts are repeated, and after which delays. A repetition has a new thread and a new workspace.

    An attempt is repeated if the model's provider limited the rate, was overloaded, could not be reached or failed
    internally, and also if a stream was cut off. Delays are drawn at random from 0 to a maximum, which doubles. All tasks
    of the batch share it, separately for each kind of failure: new attempts wait, too.

    Attributes:
        attempts: How many attempts of a task may fail for such a reason, the first one included.
        first: The maximum of the first delay, in seconds.
        maximum: The largest maximum, in seconds.
        deaths: Deaths of the server at which a task had a turn open, after which it runs alone. If the server dies once
            more, its outcome is ``quarantined``. Such attempts do not count as failed.

    Raises:
        ValueError: A value is out of range.
    """

    attempts: int = attrs.field(default=5, validator=_positive)
    first: float = attrs.field(default=1.0, validator=_positive)
    maximum: float = attrs.field(default=60.0, validator=_positive)
    deaths: int = attrs.field(default=3, validator=_positive)


@attrs.frozen(kw_only=True)
class Outcome:
    """How a task has ended.

    Attributes:
        task: The task.
        status: ``"ok"``, ``"failed"``, ``"timed_out"``, ``"over_budget"`` or ``"quarantined"``.
        value: What the solver returned, as plain JSON; ``None`` unless the status is ``"ok"``.
        error: What went wrong, as the class and the message of an exception; ``None`` if nothing did.
        usage: Tokens used by all attempts; ``None`` if the server reported none. Turns whose results were read from the
            history have no usage.
        attempts: The number of attempts.
        seconds: Seconds during which attempts ran.
        thread_id: The id of the thread of the last attempt; ``None`` if it had none.
        resumed: Whether an earlier program has produced it.
    """

    task: Task
    status: Literal["ok", "failed", "timed_out", "over_budget", "quarantined"]
    value: Any = attrs.field(default=None, repr=False)
    error: str | None = None
    usage: TokenUsage | None = None
    attempts: int = 1
    seconds: float = 0.0
    thread_id: str | None = None
    resumed: bool = False

    @property
    def is_ok(self) -> bool:
        """Whether the status is ``"ok"``."""
        return self.status == "ok"


@attrs.frozen(kw_only=True)
class BatchStatus:
    """What a batch has done.

    Attributes:
        total: The number of tasks.
        running: The ids of the tasks that have an attempt open.
        outcomes: The number of outcomes, by status. Statuses without any are absent.
        tokens: Tokens used by tasks that have an outcome.
    """

    total: int
    running: tuple[str, ...]
    outcomes: dict[str, int]
    tokens: int

    @property
    def done(self) -> int:
        """The number of outcomes."""
        return sum(self.outcomes.values())
