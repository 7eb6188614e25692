"""Errors of turns, threads, callbacks and consumers."""

from __future__ import annotations

from typing import Any, Literal

from trio_codex.errors._base import CodexError, error_class, shorten

# -- turns and threads ---------------------------------------------------------------------------------------------


class TurnError(CodexError):
    """Base class for errors that concern a turn as a whole."""


@error_class
class TurnFailed(TurnError):
    """The turn ended with status ``failed``.

    Attributes:
        result: The complete :class:`~trio_codex.TurnResult`; ``result.error`` says why the turn failed.
    """

    result: Any

    @property
    def message(self) -> str:
        """The message of ``result.error``, not truncated."""
        error = self.result.error
        return "the turn failed" if error is None else str(error.message)

    def __str__(self) -> str:
        return self.message if self.result.error is None else f"the turn failed: {shorten(self.message)}"


@error_class
class TurnLost(TurnError):
    """The end of the turn was never observed: the connection ended first, or the server ignored an interrupt.

    Attributes:
        reason: Why it was not observed.
        result: What is known about the turn, as a :class:`~trio_codex.TurnResult` with ``status`` ``lost``.
    """

    reason: str
    result: Any = None

    def __str__(self) -> str:
        return f"the turn was lost: {self.reason}"


@error_class
class TurnStalled(TurnError):
    """The turn was silent for longer than its ``idle_limit`` for no known reason, and was interrupted.

    Attributes:
        thread_id: The id of the thread.
        turn_id: The id of the turn.
        waiting_on: What the turn was waiting for: ``"model"`` or ``"unseen approval"``.
        seconds: The limit.
    """

    thread_id: str
    turn_id: str | None
    waiting_on: str
    seconds: float

    def __str__(self) -> str:
        return f"turn {self.turn_id} was silent for {self.seconds:g} s, waiting for: {self.waiting_on}"


@error_class
class TurnActive(TurnError):
    """The thread already has an open turn, which a second one would silently steer; or a turn has no result yet.

    Attributes:
        thread_id: The id of the thread.
        turn_id: The id of the open turn, if known.
        result_of: ``"turn"`` or ``"goal"`` if its result was read before its end; ``None`` if starting a turn failed.
    """

    thread_id: str
    turn_id: str | None = None
    result_of: Literal["turn", "goal"] | None = None

    def __str__(self) -> str:
        if self.result_of is not None:
            return (
                f"the {self.result_of} on thread {self.thread_id} has not ended, so it has no result yet; "
                f"await {self.result_of}.wait() first, or read the result after its scope"
            )
        return (
            f"thread {self.thread_id} has an open turn ({self.turn_id or 'starting'}); "
            "wait for it to end, or send it more input with turn.steer()"
        )


@error_class
class NoTurnRuns(TurnError):
    """There is no turn to rejoin: none runs on the thread, and none has ended since it was opened.

    Attributes:
        thread_id: The id of the thread.
    """

    thread_id: str

    def __str__(self) -> str:
        return (
            f"no turn runs on thread {self.thread_id}; iterate over thread.turns() for those that have ended"
        )


@error_class
class BudgetExceeded(TurnError):
    """A budget was exceeded. The turn has ended on the server, or was never started.

    Attributes:
        carrier: What the budget applies to: a ``"turn"``, ``"thread"`` or ``"client"``.
        limit: Which limit was exceeded: ``"tokens"``, ``"turns"`` or ``"seconds"``.
        allowed: The limit.
        used: The amount used.
        usage: The :class:`~trio_codex.TokenUsage`; ``None`` if the server reported none.
        result: The :class:`~trio_codex.TurnResult` of the turn; ``None`` if it was never started.
    """

    carrier: str
    limit: str
    allowed: float
    used: float
    usage: Any = None
    result: Any = None

    def in_turn(self, result: object) -> BudgetExceeded:
        """Return a copy that has the result of the turn it ended, if there was one."""
        return BudgetExceeded(self.carrier, self.limit, self.allowed, self.used, self.usage, result)

    def __str__(self) -> str:
        return f"the {self.carrier} used {self.used:g} {self.limit}; its budget is {self.allowed:g}"


@error_class
class ThreadClosed(CodexError):
    """The scope of this thread has exited. Use ``thread_resume`` to open the thread again.

    Attributes:
        thread_id: The id of the thread.
    """

    thread_id: str

    def __str__(self) -> str:
        return f"thread {self.thread_id} is closed; thread_resume() opens it again"


# -- callbacks, output, consumers ----------------------------------------------------------------------------------


@error_class
class PolicyError(CodexError):
    """A policy callback raised, or returned something that is not a decision. The request was denied if it was still open.

    Attributes:
        method: The server request it was called for.
        problem: What happened. If the callback raised, its exception is the ``__cause__``.
    """

    method: str
    problem: str

    def __str__(self) -> str:
        return f"the policy for {self.method} failed: {self.problem}"


@error_class
class RequestSettled(CodexError):
    """A request held by an :class:`~trio_codex.policies.Inbox` no longer accepts an answer. Yours was not sent.

    Attributes:
        kind: The kind of request, as the name of the policy callback.
        thread_id: The id of the thread the request came from, if any.
        turn_id: The id of the turn, if known.
    """

    kind: str
    thread_id: str | None = None
    turn_id: str | None = None

    def __str__(self) -> str:
        where = "" if self.thread_id is None else f" of thread {self.thread_id}"
        return f"the {self.kind} request{where} {self._why}"

    _why = "no longer accepts an answer"


class RequestWithdrawn(RequestSettled):
    """No answer is expected: the turn has ended, the server has withdrawn the request, or the connection is closed."""

    _why = "was withdrawn before it was answered"


class RequestAnswered(RequestSettled):
    """The request has already been answered."""

    _why = "has been answered already"


@error_class
class OutputError(CodexError):
    """The final response does not match ``output_type``, or there is none.

    Attributes:
        text: The final response, not truncated; ``str()`` does not include it.
        problem: Where it does not match.
        result: The complete :class:`~trio_codex.TurnResult` of the turn.
    """

    text: str | None
    problem: str
    result: Any = None

    def __str__(self) -> str:
        return f"the final response does not match the output type: {self.problem}"


@error_class
class SubscriptionOverflow(CodexError):
    """This consumer fell so far behind that its bounded buffer overflowed. Nothing else is affected.

    Attributes:
        events: Number of events in the buffer when it overflowed.
        size: Their size in bytes.
    """

    events: int
    size: int

    def __str__(self) -> str:
        return (
            f"the consumer fell {self.events} events ({self.size} bytes) behind; see CodexConfig.event_buffer"
        )
