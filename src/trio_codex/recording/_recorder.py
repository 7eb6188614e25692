"""Writing a recording: owns the file, and that each line is in it before the next thing happens."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import trio

from trio_codex._core._json import UNREADABLE
from trio_codex._launch._config import VERSION
from trio_codex._turns._event import route
from trio_codex.errors import describe_exit
from trio_codex.instruments import Instrument
from trio_codex.instruments._base import decision_name

from ._file import Entry, Header, Kind, header_of
from ._redaction import Redaction

if TYPE_CHECKING:
    from types import TracebackType

    from trio_codex._core._rpc import RequestId
    from trio_codex._requests._audit import DecisionRecord
    from trio_codex.errors import CodexError
    from trio_codex.instruments import ServerRequestRecord

LONGEST_LINE: Final = 16 * 1024 * 1024
"""A longer line is recorded by its size alone: to parse it would hold the reader up."""


class Recorder(Instrument):
    """Writes what goes over a connection to a file, as it goes; a context manager that closes the file.

    Each line is written at once, so that the file holds all there was, however the process ends. The file is written
    anew, and only its owner may read it. It is bounded by nothing: remove it when it has served. If it cannot be written
    any more, it is closed, with one logged error, and the client goes on.

    Making one that redacts takes some 0.3 s, the first time: make it before the client.

    Args:
        path: Where to.
        redaction: How the content is taken out; ``None`` to keep everything, secrets included.

    Raises:
        OSError: The file cannot be written, or is somebody else's.
    """

    def __init__(self, path: str | os.PathLike[str], *, redaction: Redaction | None = Redaction()) -> None:  # noqa: B008  # a frozen value
        self._redaction = redaction
        if redaction is not None:
            redaction.message({"method": ""})
        self._encode = msgspec.json.Encoder().encode
        self._numbers: dict[int, int] = {}
        self._latest = 0
        self._asked: dict[tuple[RequestId, str, str | None], int] = {}
        self._start: float | None = None
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        try:
            # The mode above is for a file that is made. One that was there, and that others may read, has another.
            if hasattr(os, "fchmod") and stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.fchmod(descriptor, 0o600)
        except OSError:
            self._file.close()
            raise
        self._put(header_of(VERSION, redaction, time.time()))

    def close(self) -> None:
        """Close the file. What happens later is not recorded."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- hooks -------------------------------------------------------------------------------------------------

    def connection_opened(self, connection: int) -> None:
        """See :class:`~trio_codex.instruments.Instrument`."""
        self._latest = connection
        self._note(connection, "opened")

    def connection_ended(self, connection: int, error: CodexError) -> None:
        """See :class:`~trio_codex.instruments.Instrument`."""
        returncode: int | None = getattr(error, "returncode", None)
        how = "" if returncode is None else f" ({describe_exit(returncode)})"
        self._note(connection, "ended", reason=f"{type(error).__name__}{how}")

    def frame_sent(self, connection: int, line: bytes) -> None:
        """See :class:`~trio_codex.instruments.Instrument`."""
        self._note_line(connection, "sent", line)

    def frame_received(self, connection: int, line: bytes) -> None:
        """See :class:`~trio_codex.instruments.Instrument`."""
        self._note_line(connection, "received", line)

    def line_discarded(self, connection: int, reason: str, size: int) -> None:
        """See :class:`~trio_codex.instruments.Instrument`."""
        self._note(connection, "discarded", size=size, reason=reason)

    def server_request_received(self, request: ServerRequestRecord) -> None:
        """See :class:`~trio_codex.instruments.Instrument`."""
        # The record of the decision does not say on which connection it was asked for, and every server counts from 0.
        where = route(request.params or b"null")
        thread_id = where.thread_id or where.conversationId
        self._asked[request.id, request.method, thread_id] = request.connection

    def decision_made(self, record: DecisionRecord) -> None:
        """See :class:`~trio_codex.instruments.Instrument`."""
        decision = {
            "id": record.id,
            "method": record.method,
            "decided_by": str(record.decided_by),
            "policy": record.policy,
            "decision": _decision(record),
            "outcome": record.outcome,
            "rule": self._text(record.rule),
            "reason": self._text(record.reason),
            "seconds": round(record.seconds, 6),
        }
        connection = self._asked.pop((record.id, record.method, record.thread_id), self._latest)
        self._note(connection, "decision", decision=decision)

    # -- lines of the file -------------------------------------------------------------------------------------

    def _note_line(self, connection: int, kind: Kind, line: bytes) -> None:
        if self._file.closed:
            return
        message: Any = None
        if len(line) <= LONGEST_LINE:
            try:
                message = msgspec.json.decode(line)
            except UNREADABLE:
                return  # it is told as discarded
            if self._redaction is not None:
                message = self._redaction.message(message)
        self._note(connection, kind, size=len(line), message=message)

    def _note(self, connection: int, kind: Kind, **members: Any) -> None:
        if self._file.closed:
            return
        now = trio.current_time()
        self._start = now if self._start is None else self._start
        number = self._numbers.setdefault(connection, len(self._numbers) + 1)
        self._put(Entry(round(now - self._start, 6), number, kind, **members))

    def _put(self, line: Header | Entry) -> None:
        rest = memoryview(self._encode(line) + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            # A part of the line may be in the file: another client, or the end of the scope, must not add to it.
            self._file.close()
            raise

    def _text(self, text: str | None) -> str | None:
        return text if text is None or self._redaction is None else self._redaction.text(text)


def _decision(record: DecisionRecord) -> str | None:
    if record.decision is None:
        return None
    scope = getattr(record.decision, "scope", None)
    name = decision_name(record)
    return f"{name} ({scope})" if isinstance(scope, str) and scope != "once" else name
