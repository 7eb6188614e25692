"""Exceptions raised by trio-codex.

::

    CodexError                      base class of all of them
    ├─ StartError                   the server could not be started or did not answer ``initialize``
    │   ├─ SpawnError               no process was started (the ``OSError`` is its cause)
    │   └─ StartTimeout             the server did not answer within ``start_timeout``
    ├─ ConnectionClosed             you closed the connection
    ├─ ConnectionBroken             the connection was lost
    │   └─ ServerExited             … because the server process exited
    ├─ RequestTimeout               no response within ``request_timeout``
    ├─ ProtocolError
    │   ├─ LocalProtocolError       the client was asked to send something invalid
    │   └─ RemoteProtocolError      the server sent something invalid
    │       ├─ FrameTooLong         a line longer than ``max_line_bytes``
    │       ├─ InvalidMessage       a line that is JSON but not a JSON-RPC response
    │       └─ DecodeError          a response that does not match the schema
    ├─ ServerTooOld                 this server version would ignore part of the request
    ├─ RpcError                     the server rejected a request
    │   ├─ ParseError               -32700
    │   ├─ InvalidRequestError      -32600
    │   │   ├─ UnsupportedMethod    … because this server lacks the method
    │   │   └─ ThreadInUse          … because another server has the thread open
    │   ├─ MethodNotFoundError      -32601
    │   ├─ InvalidParamsError       -32602
    │   ├─ InternalRpcError         -32603
    │   └─ ServerBusyError          -32001: rejected without any effect; try again later
    │       └─ RetryLimitExceededError
    ├─ TurnError
    │   ├─ TurnFailed               the turn ended with status ``failed``
    │   ├─ TurnLost                 the end of the turn was never observed
    │   ├─ TurnStalled              the turn was silent for longer than its ``idle_limit``
    │   ├─ BudgetExceeded           a turn, thread or client exceeded its budget
    │   └─ TurnActive               the thread has an open turn, or the turn has no result yet
    ├─ ThreadClosed                 the thread's scope has exited
    ├─ PolicyError                  a policy callback raised or returned an invalid decision
    ├─ RequestSettled               a parked server request no longer accepts an answer
    │   ├─ RequestWithdrawn         … because the server no longer expects one
    │   └─ RequestAnswered          … because it was already answered
    ├─ OutputError                  the final response does not match ``output_type``
    ├─ SubscriptionOverflow         this consumer fell behind and its buffer overflowed
    └─ InternalError                a bug in trio-codex; please report it

All of these exceptions can be pickled and keep their type and fields. Neither ``str()`` nor ``repr()`` ever shows a prompt
or the value of an environment variable. A ``result`` field, however, holds the complete result, including the prompt, and
so does its pickle.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeVar, dataclass_transform

import attrs

if TYPE_CHECKING:
    from trio_codex._values.turn_result import TurnResult
    from trio_codex._values.usage import TokenUsage

_ErrorT = TypeVar("_ErrorT", bound=type[BaseException])


@dataclass_transform(eq_default=False, field_specifiers=(attrs.field,))
def _error(cls: _ErrorT) -> _ErrorT:
    """Define an attrs exception. Its fields become ``args``, so it can be copied and pickled without extra code."""
    return attrs.define(auto_exc=True, slots=False, eq=False, repr=False)(cls)


MESSAGE_LIMIT = 500
"""Maximum length of a server message in ``str()``. One error message lists every known method in 5 kB."""


STDERR_LINES = 5
"""Lines of the server's stderr shown by ``str()``; ``stderr_tail`` has more."""


def shorten(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Truncate ``text`` to ``limit`` characters and mark the cut."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _last_words(stderr_tail: str) -> str:
    lines = stderr_tail.strip().splitlines()[-STDERR_LINES:]
    return "".join(f"\nstderr: {line}" for line in lines)


class CodexError(Exception):
    """Base class of every exception raised by trio-codex."""


# -- start, connection, process ------------------------------------------------------------------------------------


@_error
class StartError(CodexError):
    """The server did not answer ``initialize``. Nothing of it is left running.

    Attributes:
        problem: What went wrong, in one sentence.
        phase: ``"find"``, ``"spawn"``, ``"handshake"`` or ``"connect"``.
        hint: How to fix it.
        binary: The path that was run or searched for.
        version: The version of the binary, if known.
        returncode: The exit status, negative for a signal; ``None`` if the process was still running.
        stderr_tail: The last lines it wrote to stderr.
    """

    problem: str
    phase: str = "spawn"
    hint: str | None = None
    binary: str | None = None
    version: str | None = None
    returncode: int | None = None
    stderr_tail: str = ""

    @property
    def mend(self) -> str | None:
        """The former name of :attr:`hint`."""
        warnings.warn("StartError.mend is now called hint", DeprecationWarning, stacklevel=2)
        return self.hint

    def __str__(self) -> str:
        parts = [f"{self.problem} (phase: {self.phase}"]
        if self.binary is not None:
            parts.append(f"; binary: {self.binary}")
        if self.version is not None:
            parts.append(f" {self.version}")
        if self.returncode is not None:
            parts.append(f"; {describe_exit(self.returncode)}")
        parts.append(")")
        parts.append(_last_words(self.stderr_tail))
        if self.hint is not None:
            parts.append(f"\n{self.hint}")
        return "".join(parts)


class SpawnError(StartError):
    """No process was started. If an ``OSError`` was the reason, it is the ``__cause__``."""


class StartTimeout(StartError):
    """The server was started but did not answer within ``start_timeout``. It has been terminated."""


class ConnectionClosed(CodexError):
    """You closed the connection: its scope has exited or is exiting."""

    def __str__(self) -> str:
        return super().__str__() or "the client is closed"


@_error
class ConnectionBroken(CodexError):
    """The connection ended, and you did not close it. Every pending operation on it raises this.

    Attributes:
        reason: Why it ended, in one sentence.
        phase: What the client was doing: ``"start"``, ``"running"`` or ``"close"``.
        pid: The process id of the server, if this client started it.
        returncode: Its exit status, negative for a signal; ``None`` if it was still running or this client did not
            start it.
        stderr_tail: The last lines it wrote to stderr.
    """

    reason: str
    phase: str = "running"
    pid: int | None = None
    returncode: int | None = None
    stderr_tail: str = ""

    def __str__(self) -> str:
        who = "" if self.pid is None else f", pid {self.pid}"
        return f"{self.reason} (phase: {self.phase}{who}){_last_words(self.stderr_tail)}"


class ServerExited(ConnectionBroken):
    """The connection ended because the server process exited."""


@_error
class RequestTimeout(CodexError):
    """The server did not answer a request within its timeout. It may still act on the request.

    Attributes:
        method: The method of the request.
        seconds: The timeout. Time during which the event loop was blocked is not counted.
        problem: What is known about the cause, in one sentence; ``None`` if nothing is.
    """

    method: str
    seconds: float
    problem: str | None = None

    def __str__(self) -> str:
        problem = "" if self.problem is None else f": {self.problem}"
        return f"no answer to {self.method} within {self.seconds:g} s{problem}"


# -- protocol ------------------------------------------------------------------------------------------------------


class ProtocolError(CodexError):
    """Base class for violations of the protocol, by either side."""


class LocalProtocolError(ProtocolError):
    """The client was asked to send something that cannot be sent. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The server sent something that cannot be read. The connection stays open."""


@_error
class FrameTooLong(RemoteProtocolError):
    """A line from the server exceeded ``max_line_bytes`` and was discarded.

    Attributes:
        method: The method of the request it answered.
        size: Its length in bytes.
        limit: The limit in bytes.
    """

    method: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"the answer to {self.method} has {self.size} bytes; max_line_bytes is {self.limit}"


@_error
class InvalidMessage(RemoteProtocolError):
    """A line from the server has the id of a request but is not a JSON-RPC response.

    Attributes:
        method: The method of that request.
        problem: What is wrong with the line.
    """

    method: str
    problem: str

    def __str__(self) -> str:
        return f"the answer to {self.method} is no JSON-RPC answer: {self.problem}"


@_error
class DecodeError(RemoteProtocolError):
    """A value from the server does not match the schema, in a way that cannot be tolerated.

    Attributes:
        what: The method or type that was decoded.
        path: The location in the value, such as ``$.turn.items[2].id``.
        problem: What is wrong at that location.
    """

    what: str
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.what} does not fit the schema at {self.path}: {shorten(self.problem)}"


@_error
class ServerTooOld(CodexError):
    """This server version would silently ignore part of the request. Nothing was sent.

    Attributes:
        what: The option or input that is not supported.
        needed: The first server version that supports it.
        found: The version of this server.
    """

    what: str
    needed: str
    found: str

    def __str__(self) -> str:
        return f"{self.what} needs codex {self.needed} or later; this server is {self.found}"


# -- refusals of the server ----------------------------------------------------------------------------------------


@_error
class RpcError(CodexError):
    """The server rejected a request.

    Attributes:
        code: The JSON-RPC error code.
        message: The server's message, not truncated, with the values of ``CodexConfig.env`` removed.
        data: The JSON attached to the error, with the same values removed; ``None`` if there is none.
        method: The method that was rejected.
    """

    code: int
    message: str
    data: Any = None
    method: str | None = None

    def __str__(self) -> str:
        where = "" if self.method is None else f"{self.method}: "
        return f"{where}{shorten(self.message)} ({self.code})"


class ParseError(RpcError):
    """-32700: the server could not parse the request."""


class InvalidRequestError(RpcError):
    """-32600: the server rejected the request. It uses this code for almost every rejection."""


class UnsupportedMethod(InvalidRequestError):
    """This server does not have the method. Another version may."""


class ThreadInUse(InvalidRequestError):
    """Another server has the thread open. Only one server at a time can write to a thread.

    The thread becomes available once that server exits or unloads it. Leaving the thread's scope there does not
    unload it immediately.
    """


class MethodNotFoundError(RpcError):
    """-32601: the method exists but is not available for this thread or this server."""


class InvalidParamsError(RpcError):
    """-32602: a parameter is out of range."""


class InternalRpcError(RpcError):
    """-32603: the server failed internally."""


class ServerBusyError(RpcError):
    """-32001: the server is overloaded and did nothing. It is safe to send the request again later."""


class RetryLimitExceededError(ServerBusyError):
    """The server gave up after its own retries."""


# -- turns and threads ---------------------------------------------------------------------------------------------


class TurnError(CodexError):
    """Base class for errors that concern a turn as a whole."""


@_error
class TurnFailed(TurnError):
    """The turn ended with status ``failed``.

    Attributes:
        result: The complete result; ``result.error`` says why the turn failed.
    """

    result: TurnResult

    def __str__(self) -> str:
        error = self.result.error
        return "the turn failed" if error is None else f"the turn failed: {shorten(error.message)}"


@_error
class TurnLost(TurnError):
    """The end of the turn was never observed: the connection ended first, or the server ignored an interrupt.

    Attributes:
        reason: Why it was not observed.
        result: What is known about the turn, with ``status`` ``lost``.
    """

    reason: str
    result: TurnResult | None = None

    def __str__(self) -> str:
        return f"the turn was lost: {self.reason}"


@_error
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


@_error
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
            "wait for its end, or say more to it with turn.steer()"
        )


@_error
class BudgetExceeded(TurnError):
    """A budget was exceeded. The turn has ended on the server, or was never started.

    Attributes:
        carrier: What the budget applies to: a ``"turn"``, ``"thread"`` or ``"client"``.
        limit: Which limit was exceeded: ``"tokens"``, ``"turns"`` or ``"seconds"``.
        allowed: The limit.
        used: The amount used.
        usage: The tokens used; ``None`` if the server reported none.
        result: The result of the turn; ``None`` if it was never started.
    """

    carrier: str
    limit: str
    allowed: float
    used: float
    usage: TokenUsage | None = None
    result: TurnResult | None = None

    def in_turn(self, result: TurnResult | None) -> BudgetExceeded:
        """Return a copy that has the result of the turn it ended, if there was one."""
        return BudgetExceeded(self.carrier, self.limit, self.allowed, self.used, self.usage, result)

    def __str__(self) -> str:
        return f"the {self.carrier} used {self.used:g} {self.limit}; its budget is {self.allowed:g}"


@_error
class ThreadClosed(CodexError):
    """The scope of this thread has exited. Use ``thread_resume`` to open the thread again.

    Attributes:
        thread_id: The id of the thread.
    """

    thread_id: str

    def __str__(self) -> str:
        return f"thread {self.thread_id} is closed; thread_resume() opens it again"


# -- callbacks, output, consumers ----------------------------------------------------------------------------------


@_error
class PolicyError(CodexError):
    """A policy callback raised, or returned something that is not a decision. The request was denied.

    Attributes:
        method: The server request it was called for.
        problem: What happened. If the callback raised, its exception is the ``__cause__``.
    """

    method: str
    problem: str

    def __str__(self) -> str:
        return f"the policy for {self.method} failed, so the request was denied: {self.problem}"


@_error
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

    _why = "takes no answer any more"


class RequestWithdrawn(RequestSettled):
    """No answer is expected: the turn has ended, the server has withdrawn the request, or the connection is closed."""

    _why = "was withdrawn before it was answered"


class RequestAnswered(RequestSettled):
    """The request has already been answered."""

    _why = "has been answered already"


@_error
class OutputError(CodexError):
    """The final response does not match ``output_type``, or there is none.

    Attributes:
        text: The final response, not truncated; ``str()`` does not include it.
        problem: Where it does not match.
        result: The complete result of the turn.
    """

    text: str | None
    problem: str
    result: TurnResult | None = None

    def __str__(self) -> str:
        return f"the final response does not fit the output type: {self.problem}"


@_error
class SubscriptionOverflow(CodexError):
    """This consumer fell so far behind that its bounded buffer overflowed. Nothing else is affected.

    Attributes:
        events: Number of events in the buffer when it overflowed.
        size: Their size in bytes.
    """

    events: int
    size: int

    def __str__(self) -> str:
        return f"the consumer lagged {self.events} events ({self.size} bytes) behind; see CodexConfig.event_buffer"


class InternalError(CodexError):
    """A bug in trio-codex; please report it. The ``__cause__`` shows what happened."""


def describe_exit(returncode: int) -> str:
    """Describe how a process ended, such as ``"exit status 1"`` or ``"killed by SIGKILL"``."""
    if returncode >= 0:
        return f"exit status {returncode}"
    import signal

    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
