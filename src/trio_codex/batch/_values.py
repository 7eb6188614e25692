"""Settings of a batch, its outcomes, and its status."""

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
    """Limits of each task and of the whole batch, across attempts and programs. Every limit is optional.

    Token limits are checked when the server reports usage, so each running turn may exceed one by one request to the
    model. If a program is killed during a turn and the turn is repeated in a new thread, the usage of the killed turn
    is not counted.

    Attributes:
        task_tokens: Input and output tokens of a task. Beyond them, its outcome is ``over_budget``.
        task_seconds: Seconds during which attempts of a task run, without those in which this program was blocked.
            Beyond them, its outcome is ``timed_out``.
        task_turns: Turns of one attempt. Beyond them, its outcome is ``over_budget``.
        tokens: Tokens of all tasks. Beyond them, the batch stops with ``BatchStopped``.
        seconds: Seconds during which turns are open, summed over all turns. Beyond them, the batch stops.
        turns: Turns of all tasks. Beyond them, the batch stops.

    Raises:
        ValueError: A limit is not positive.
    """

    task_tokens: int | None = attrs.field(default=None, validator=_limit)
    task_seconds: float | None = attrs.field(default=None, validator=_limit)
    task_turns: int | None = attrs.field(default=None, validator=_limit)
    tokens: int | None = attrs.field(default=None, validator=_limit)
    seconds: float | None = attrs.field(default=None, validator=_limit)
    turns: int | None = attrs.field(default=None, validator=_limit)


def is_joint(budget: BatchBudget) -> bool:
    """Return whether a budget limits the whole batch."""
    return (budget.tokens, budget.seconds, budget.turns) != (None, None, None)


@attrs.frozen(kw_only=True)
class Retry:
    """Which attempts are repeated, and after which delays. Each repetition has a new thread and a new workspace.

    An attempt is repeated if the model's provider limited the rate, was overloaded, could not be reached or failed
    internally, and also if a stream was cut off. Delays are drawn at random from 0 to a maximum, which doubles. All
    tasks of the batch share the maximum, separately for each kind of failure, so new attempts wait, too.

    Attributes:
        attempts: How many attempts of a task may fail for such a reason, including the first one.
        first: The maximum of the first delay, in seconds.
        maximum: The value at which the maximum stops doubling, in seconds.
        deaths: After this many server deaths during a turn of the task, the task runs alone. If the server
            dies once more, the task's outcome is ``quarantined``. Such attempts do not count as failed.

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
        error: The class and the message of the exception that failed the task; ``None`` if there was none.
        usage: Tokens used by all attempts; ``None`` if the server reported none. Turns whose results were read from the
            history have no usage.
        attempts: The number of attempts.
        seconds: Seconds during which attempts ran.
        thread_id: The id of the thread of the last attempt; ``None`` if it had none.
        resumed: Whether it comes from an earlier run.
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
    """The progress of a batch.

    Attributes:
        total: The number of tasks.
        running: The ids of the tasks with an open attempt.
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
