"""One request on its way, and what ends all of them: values that outlive whoever waits.

A call knows who sends it only to be undone or given up there. It knows nothing of streams or lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import trio

from trio_codex.errors import CodexError, ConnectionBroken, RpcError

if TYPE_CHECKING:
    import msgspec

    from trio_codex._core.rpc import RequestId
    from trio_codex._link.hooks import RequestOutcome, RequestRecord, RequestWatch
    from trio_codex._link.timeouts import Timeout, Timeouts
    from trio_codex._link.write_queue import QueuedLine
    from trio_codex.errors import ServerBusyError


RequestClass: TypeAlias = Literal["window", "deferred", "control"]
"""How a request travels. ``window``: the server answers it at once, so it counts as work in progress. ``deferred``: answered
when something finishes. ``control``: ends or steers something, and gets through when the others have to wait."""


class Caller(Protocol):
    """What a call is one of: sends it, and is told of its outcome.

    Attributes:
        watch: Tells the instruments of requests.
        timeouts: Everything that judges the server by its time.
    """

    watch: RequestWatch
    timeouts: Timeouts

    def take_back(self, call: Call) -> bool:
        """See :meth:`Call.take_back`."""
        ...

    def give_up(self, call: Call) -> None:
        """See :meth:`Call.give_up`."""

    def settled(self, call: Call) -> None:
        """Let others have what a call has occupied: its outcome is known."""

    def overdue(self, call: Call, seconds: float) -> CodexError:
        """Return the error of a call that was not answered in time."""
        ...


class CloseReason:
    """Why a connection ended. Written once, shared by everything that fails of it."""

    def __init__(self, error: CodexError) -> None:
        self._error = error

    def exception(self) -> CodexError:
        """Give a fresh exception that tells this cause."""
        fresh = type(self._error)(*self._error.args)
        fresh.__cause__ = self._error.__cause__
        return fresh

    def __str__(self) -> str:
        return str(self._error)

    @property
    def reason(self) -> str:
        """Why, in one sentence."""
        return self._error.reason if isinstance(self._error, ConnectionBroken) else str(self._error)


class Call:
    """One request on its way. It lives until it is answered or given up, whatever happens to who waits for it.

    Attributes:
        method: Its method.
        request_class: How it travels.
        request_id: Its id.
        queued_line: Its line.
        has_place: Whether it counts in the request window.
        refusal: What the server last refused it with for its load; it did not take it then.
        refusals: How often it did.
        refused_at: Trio time of the first time.
        timer: What sends it again, or expires it while it waits to be sent.
    """

    __slots__ = (
        "_answered",
        "_caller",
        "_error",
        "_record",
        "_result",
        "has_place",
        "method",
        "queued_line",
        "refusal",
        "refusals",
        "refused_at",
        "request_class",
        "request_id",
        "timer",
    )

    def __init__(
        self, caller: Caller, method: str, request_class: RequestClass, record: RequestRecord | None = None
    ) -> None:
        self.method: str = method
        self.request_class: RequestClass = request_class
        self._caller = caller
        self._record = record
        self._answered = trio.Event()
        self._result: msgspec.Raw | None = None
        self._error: CodexError | None = None
        self.request_id: RequestId = 0
        self.queued_line: QueuedLine | None = None
        self.has_place: bool = False
        self.refusal: ServerBusyError | None = None
        self.refusals: int = 0
        self.refused_at: float = 0.0
        self.timer: Timeout | None = None

    @property
    def answered(self) -> bool:
        """Whether the outcome is known."""
        return self._answered.is_set()

    @property
    def waits(self) -> bool:
        """Whether its line is still here, so that the server knows nothing of it."""
        return self.queued_line is not None and not self.queued_line.taken

    @property
    def sent(self) -> bool:
        """Whether the writer has its line: from then on the server may act on it."""
        return self.queued_line is not None and self.queued_line.taken

    async def answer(self) -> msgspec.Raw:
        """Wait for the answer. Being cancelled here does not give the call up.

        Raises:
            RpcError: The server refused.
            RemoteProtocolError: Its answer cannot be read.
            ConnectionBroken: The connection ended first.
            ConnectionClosed: You closed it.
        """
        await self._answered.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    async def answer_within(self, seconds: float) -> msgspec.Raw:
        """Wait for the answer for so many seconds. The call goes on when they have passed.

        Raises:
            RequestTimeout: They have passed.
            ServerBusyError: Likewise, and the server has not even taken the request.
            CodexError: As :meth:`answer`.
        """
        with self._caller.timeouts.move_on_after(seconds):
            return await self.answer()
        raise self._caller.overdue(self, seconds)

    async def settled(self) -> None:
        """Wait until the outcome is known, whatever it is."""
        await self._answered.wait()

    def take_back(self) -> bool:
        """Undo the call if its line was not handed to the writer yet; say whether it was undone."""
        return self._caller.take_back(self)

    def give_up(self) -> None:
        """Stop waiting for good. An answer that comes later is discarded."""
        self._caller.give_up(self)

    def settle(
        self, result: msgspec.Raw | None, error: CodexError | None, outcome: RequestOutcome | None = None
    ) -> None:
        """Set the outcome; ``outcome`` is what instruments are told, if the error does not tell. For the connection."""
        if not self._answered.is_set():
            self._result, self._error = result, error
            self._answered.set()
            self._caller.settled(self)
            if self._record is not None:
                if outcome is None:
                    outcome = _outcome_of(error)
                self._caller.watch.ended(self._record, outcome, error)


def _outcome_of(error: CodexError | None) -> RequestOutcome:
    return "answered" if error is None else "refused" if isinstance(error, RpcError) else "failed"
