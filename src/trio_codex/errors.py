"""Every exception that trio-codex raises, and what each one promises.

::

    CodexError                      base of all of them
    ├─ StartError                   the server could not be brought to its first answer
    │   ├─ SpawnError               no process was started (its cause is the OSError)
    │   └─ StartTimeout             it did not answer within ``start_timeout``
    ├─ ConnectionClosed             you closed it
    ├─ ConnectionBroken             it broke
    │   └─ ServerExited             … because the server process ended
    ├─ RequestTimeout               no answer within ``request_timeout``
    ├─ ProtocolError
    │   ├─ LocalProtocolError       what we were asked to send cannot be sent
    │   └─ RemoteProtocolError      what the server sent cannot be read
    │       ├─ FrameTooLong         its line was longer than ``max_line_bytes``
    │       ├─ InvalidMessage       its line is JSON, but no JSON-RPC answer
    │       └─ DecodeError          its answer does not fit the schema
    ├─ ServerTooOld                 this server would ignore what was asked for
    ├─ RpcError                     the server refused a request
    │   ├─ ParseError               -32700
    │   ├─ InvalidRequestError      -32600
    │   │   ├─ UnsupportedMethod    … because this server lacks the method
    │   │   └─ ThreadInUse          … because another server has the thread open
    │   ├─ MethodNotFoundError      -32601
    │   ├─ InvalidParamsError       -32602
    │   ├─ InternalRpcError         -32603
    │   └─ ServerBusyError          -32001: rejected, nothing was done, try again later
    │       └─ RetryLimitExceededError
    ├─ TurnError
    │   ├─ TurnFailed               the turn ended as failed
    │   ├─ TurnLost                 its end was never seen
    │   ├─ TurnStalled              nothing happened for longer than its ``idle_limit``
    │   ├─ BudgetExceeded           a turn, thread or client used more than its budget
    │   └─ TurnActive               the thread has an open turn; or: this one has no result yet
    ├─ ThreadClosed                 the thread's scope has ended
    ├─ PolicyError                  a policy callback raised, or returned nonsense
    ├─ RequestSettled               a parked request of the server takes no answer any more
    │   ├─ RequestWithdrawn         … because nobody waits for it
    │   └─ RequestAnswered          … because it has one
    ├─ OutputError                  the answer does not fit ``output_type``
    ├─ SubscriptionOverflow         this consumer lagged beyond its buffer's bounds
    └─ InternalError                a bug in trio-codex: please report it

All of them survive a pickle round trip with their type and fields. No text and no ``repr`` of theirs shows a prompt or an
environment value. A ``result`` among the fields is the whole of it, prompt included, also when it is pickled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, dataclass_transform

import attrs

if TYPE_CHECKING:
    from trio_codex._turns._turn_result import TurnResult
    from trio_codex._turns._usage import TokenUsage

_ErrorT = TypeVar("_ErrorT", bound=type[BaseException])


@dataclass_transform(eq_default=False, field_specifiers=(attrs.field,))
def _error(cls: _ErrorT) -> _ErrorT:
    """Make an attrs exception: its fields are its ``args``, so copying and pickling need no help."""
    return attrs.define(auto_exc=True, slots=False, eq=False, repr=False)(cls)


MESSAGE_LIMIT = 500
"""Characters of a server's message that ``str()`` shows: one refusal lists every method it knows in 5 kB."""


STDERR_LINES = 5
"""Lines of the server's stderr that ``str()`` shows; ``stderr_tail`` has more."""


def shorten(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Cut ``text`` to ``limit`` characters, saying that it was cut."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _last_words(stderr_tail: str) -> str:
    lines = stderr_tail.strip().splitlines()[-STDERR_LINES:]
    return "".join(f"\nstderr: {line}" for line in lines)


class CodexError(Exception):
    """Base of every exception of trio-codex."""


# -- start, connection, process ------------------------------------------------------------------------------------


@_error
class StartError(CodexError):
    """The server did not get as far as answering ``initialize``; nothing of it is left.

    Attributes:
        problem: What went wrong, in one sentence.
        phase: ``"find"``, ``"spawn"``, ``"handshake"`` or ``"connect"``.
        mend: What to do about it.
        binary: The path that was run, or looked for.
        version: The binary's version, where it is known.
        returncode: The exit status, negative for a signal; ``None`` while it ran.
        stderr_tail: The last of what it wrote on stderr.
    """

    problem: str
    phase: str = "spawn"
    mend: str | None = None
    binary: str | None = None
    version: str | None = None
    returncode: int | None = None
    stderr_tail: str = ""

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
        if self.mend is not None:
            parts.append(f"\n{self.mend}")
        return "".join(parts)


class SpawnError(StartError):
    """No process was started. An ``OSError``, if there was one, is its cause."""


class StartTimeout(StartError):
    """The server was started but did not answer within ``start_timeout``; it has been ended."""


class ConnectionClosed(CodexError):
    """You closed the connection: its scope has ended, or is ending."""

    def __str__(self) -> str:
        return super().__str__() or "the client is closed"


@_error
class ConnectionBroken(CodexError):
    """The connection ended without being closed by you. Everything that waits on it fails with this.

    Attributes:
        reason: Why, in one sentence.
        phase: What the client was doing: ``"start"``, ``"running"`` or ``"close"``.
        pid: The server's process id, if it is ours.
        returncode: Its exit status, negative for a signal; ``None`` if it still ran or is not ours.
        stderr_tail: The last of what it wrote on stderr.
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
    """The connection ended because the server process did."""


@_error
class RequestTimeout(CodexError):
    """The server did not answer a request within its timeout. It may still act on it.

    Attributes:
        method: The method of the request.
        seconds: The timeout. Time in which the program was blocked does not count.
        problem: What is known of the cause, in one sentence; ``None`` if nothing is.
    """

    method: str
    seconds: float
    problem: str | None = None

    def __str__(self) -> str:
        problem = "" if self.problem is None else f": {self.problem}"
        return f"no answer to {self.method} within {self.seconds:g} s{problem}"


# -- protocol ------------------------------------------------------------------------------------------------------


class ProtocolError(CodexError):
    """Something that was, or was to be, on the wire breaks the protocol."""


class LocalProtocolError(ProtocolError):
    """What we were asked to send cannot be sent. Nothing was."""


class RemoteProtocolError(ProtocolError):
    """What the server sent cannot be read. The connection lives on."""


@_error
class FrameTooLong(RemoteProtocolError):
    """A line of the server was longer than ``max_line_bytes`` and was dropped.

    Attributes:
        method: The method of the request that it answered.
        size: Its length in bytes.
        limit: The bound.
    """

    method: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"the answer to {self.method} has {self.size} bytes; max_line_bytes is {self.limit}"


@_error
class InvalidMessage(RemoteProtocolError):
    """A line of the server carries the id of a request, but is no JSON-RPC answer.

    Attributes:
        method: The method of that request.
        problem: What is wrong with it.
    """

    method: str
    problem: str

    def __str__(self) -> str:
        return f"the answer to {self.method} is no JSON-RPC answer: {self.problem}"


@_error
class DecodeError(RemoteProtocolError):
    """A value of the server does not fit the schema in a way that cannot be tolerated.

    Attributes:
        what: The method or type that was decoded.
        path: Where in the value, as ``$.turn.items[2].id``.
        problem: What is wrong there.
    """

    what: str
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.what} does not fit the schema at {self.path}: {shorten(self.problem)}"


@_error
class ServerTooOld(CodexError):
    """This server would ignore something that was asked for; nothing was sent.

    Attributes:
        what: The option or input.
        needed: The first version of the server that has it.
        found: The version of this one.
    """

    what: str
    needed: str
    found: str

    def __str__(self) -> str:
        return f"{self.what} needs codex {self.needed} or later; this server is {self.found}"


# -- refusals of the server ----------------------------------------------------------------------------------------


@_error
class RpcError(CodexError):
    """The server refused a request.

    Attributes:
        code: The JSON-RPC error code.
        message: The server's text, uncut, without the values of ``CodexConfig.env``.
        data: Whatever JSON it attached, likewise; ``None`` if there is none.
        method: The method that was refused.
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
    """-32600: the server refuses the request as it stands. It uses this code for almost every refusal."""


class UnsupportedMethod(InvalidRequestError):
    """This server does not have the method; another version may."""


class ThreadInUse(InvalidRequestError):
    """Another server has the thread open, and one thread has one server that writes to it.

    It is free once that server has ended or has unloaded it. Leaving the thread's scope there does not unload it at once.
    """


class MethodNotFoundError(RpcError):
    """-32601: the method exists but cannot serve this thread or this server."""


class InvalidParamsError(RpcError):
    """-32602: the parameters are out of bounds."""


class InternalRpcError(RpcError):
    """-32603: the server failed internally."""


class ServerBusyError(RpcError):
    """-32001: the server is overloaded and did nothing. It is safe to send the request again, later."""


class RetryLimitExceededError(ServerBusyError):
    """The server gave up after its own retries."""


# -- turns and threads ---------------------------------------------------------------------------------------------


class TurnError(CodexError):
    """Base of what can go wrong with a turn as a whole."""


@_error
class TurnFailed(TurnError):
    """The turn ended as failed.

    Attributes:
        result: Everything that is known of it; ``result.error`` says why it failed.
    """

    result: TurnResult

    def __str__(self) -> str:
        error = self.result.error
        return "the turn failed" if error is None else f"the turn failed: {shorten(error.message)}"


@_error
class TurnLost(TurnError):
    """The end of the turn was never seen: the connection ended first, or the server did not obey an interrupt.

    Attributes:
        reason: Why it is lost.
        result: What is known of it, with ``status`` ``lost``.
    """

    reason: str
    result: TurnResult | None = None

    def __str__(self) -> str:
        return f"the turn was lost: {self.reason}"


@_error
class TurnStalled(TurnError):
    """Nothing came of the turn for longer than its ``idle_limit``, and nothing explained that; it was interrupted.

    Attributes:
        thread_id: The thread.
        turn_id: The turn.
        waiting_on: What it waited for: ``"model"`` or ``"unseen approval"``.
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
    """The thread already has an open turn, and a second one would silently steer it; or a turn has no result yet.

    Attributes:
        thread_id: The thread.
        turn_id: The open turn, where it is known.
        result_of: ``"turn"`` or ``"goal"`` if its result was asked for before its end; ``None`` if a turn was started.
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
    """More was used than a budget allows. The turn has ended on the server, or was not started.

    Attributes:
        carrier: Whose budget: of a ``"turn"``, ``"thread"`` or ``"client"``.
        limit: Of what: ``"tokens"``, ``"turns"`` or ``"seconds"``.
        allowed: How much of it.
        used: How much was used of it.
        usage: The tokens that were used; ``None`` if the server reported none.
        result: How the turn ended; ``None`` if it was not started.
    """

    carrier: str
    limit: str
    allowed: float
    used: float
    usage: TokenUsage | None = None
    result: TurnResult | None = None

    def in_turn(self, result: TurnResult | None) -> BudgetExceeded:
        """Give the same with the result of the turn that it ended, if there was one."""
        return BudgetExceeded(self.carrier, self.limit, self.allowed, self.used, self.usage, result)

    def __str__(self) -> str:
        return f"the {self.carrier} used {self.used:g} {self.limit}; its budget is {self.allowed:g}"


@_error
class ThreadClosed(CodexError):
    """The scope of this thread has ended; ``thread_resume`` gives a new one.

    Attributes:
        thread_id: The thread.
    """

    thread_id: str

    def __str__(self) -> str:
        return f"thread {self.thread_id} is closed; thread_resume() opens it again"


# -- callbacks, output, consumers ----------------------------------------------------------------------------------


@_error
class PolicyError(CodexError):
    """A policy callback raised, or returned something that is no decision. The request was denied.

    Attributes:
        method: The server request it was to decide on.
        problem: What happened. An exception of the callback is the cause of this one.
    """

    method: str
    problem: str

    def __str__(self) -> str:
        return f"the policy for {self.method} failed, so the request was denied: {self.problem}"


@_error
class RequestSettled(CodexError):
    """A request that an :class:`~trio_codex.policies.Inbox` keeps takes no answer any more; this one was not sent.

    Attributes:
        kind: The kind of request, by the name of the policy's callback.
        thread_id: The thread that asked, if one did.
        turn_id: Its turn, where it is known.
    """

    kind: str
    thread_id: str | None = None
    turn_id: str | None = None

    def __str__(self) -> str:
        where = "" if self.thread_id is None else f" of thread {self.thread_id}"
        return f"the {self.kind} request{where} {self._why}"

    _why = "takes no answer any more"


class RequestWithdrawn(RequestSettled):
    """Nobody waits for the answer: the turn has ended, the server has withdrawn the request, or the connection is gone."""

    _why = "was withdrawn before it was answered"


class RequestAnswered(RequestSettled):
    """It has been answered already."""

    _why = "has been answered already"


@_error
class OutputError(CodexError):
    """The final response does not fit ``output_type``, or there is none.

    Attributes:
        text: The final response, uncut; not part of ``str()``.
        problem: Where it does not fit.
        result: Everything else that the turn left.
    """

    text: str | None
    problem: str
    result: TurnResult | None = None

    def __str__(self) -> str:
        return f"the final response does not fit the output type: {self.problem}"


@_error
class SubscriptionOverflow(CodexError):
    """This consumer lagged so far behind that its bounded buffer is full. Nothing else is affected.

    Attributes:
        events: Events in the buffer when it overflowed.
        size: Their size in bytes.
    """

    events: int
    size: int

    def __str__(self) -> str:
        return f"the consumer lagged {self.events} events ({self.size} bytes) behind; see CodexConfig.event_buffer"


class InternalError(CodexError):
    """A bug in trio-codex. Its cause is what happened; please report it."""


def describe_exit(returncode: int) -> str:
    """Say in words how a process ended: ``"exit status 1"``, ``"killed by SIGKILL"``."""
    if returncode >= 0:
        return f"exit status {returncode}"
    import signal

    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
