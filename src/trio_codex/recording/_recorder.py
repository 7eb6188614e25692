"""Writing a recording: owns the file, and that each line is in it before the next thing happens."""

from __future__ import annotations

import errno
import os
import stat
import time
from io import FileIO
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

DEEPEST_LINE: Final = 128
"""What is nested deeper is recorded by its size alone: parsers of JSON, and our own functions, go only so deep."""


class Recorder(Instrument):
    """Writes what goes over a connection to a file, as it goes; a context manager that closes the file.

    Each line is written at once, so that the file holds all there was, however the process ends. Only its owner may read
    the file. It has no size limit: remove it when it has served. If it cannot be written any more, it is closed, with one
    logged error, and the client goes on.

    A file that holds something is left alone unless ``overwrite`` is set. A symbolic link, a file with several names, and
    what belongs to another user are refused: as root, a recording would go where somebody else chose.

    Making one that redacts takes some 0.3 s, the first time: make it before the client.

    Args:
        path: Where to.
        redaction: How the content is taken out; ``None`` to keep everything, secrets included.
        overwrite: Whether a recording that is there may be replaced.

    Raises:
        FileExistsError: There is a file with content.
        PermissionError: It is somebody else's, or has several names.
        OSError: It cannot be written, or is a symbolic link.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        redaction: Redaction | None = Redaction(),  # noqa: B008  # a frozen value
        overwrite: bool = False,
    ) -> None:
        self._redaction = redaction
        if redaction is not None:
            redaction.message({"method": ""})
        self._encode = msgspec.json.Encoder().encode
        self._numbers: dict[int, int] = {}
        self._latest = 0
        self._asked: dict[tuple[RequestId, str, str | None], int] = {}
        self._clock = _Clock()
        self._file = _open(path, overwrite)
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
            except RecursionError:
                pass
            except UNREADABLE:
                return  # it is told as discarded
            if _is_deep(message):
                message = None
            elif self._redaction is not None:
                message = self._redaction.message(message)
        self._note(connection, kind, size=len(line), message=message)

    def _note(self, connection: int, kind: Kind, **members: Any) -> None:
        if self._file.closed:
            return
        number = self._numbers.setdefault(connection, len(self._numbers) + 1)
        self._put(Entry(round(self._clock.seconds(), 6), number, kind, **members))

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


class _Clock:
    """Seconds since the first reading, over several runs of Trio, each of which has a clock of its own."""

    def __init__(self) -> None:
        self._run: trio.lowlevel.TrioToken | None = None
        self._start = 0.0
        self._read = (0.0, 0.0)

    def seconds(self) -> float:
        """Return how much time has passed: within a run that of its clock, between two runs that of the machine."""
        now, run = trio.current_time(), trio.lowlevel.current_trio_token()
        if run is not self._run:
            at, then = self._read
            between = 0.0 if self._run is None else time.monotonic() - then
            self._run, self._start = run, now - at - between
        self._read = (now - self._start, time.monotonic())
        return self._read[0]


def _open(path: str | os.PathLike[str], overwrite: bool) -> FileIO:
    """Open a file of our own for writing, empty and for nobody else to read."""
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    file = FileIO(os.open(path, flags, 0o600), "wb")
    try:
        # What is there is looked at by its descriptor: by its name, it might be another file by then.
        found = os.fstat(file.fileno())
        is_file = stat.S_ISREG(found.st_mode)
        is_others = hasattr(os, "geteuid") and found.st_uid != os.geteuid()
        if (is_others and not stat.S_ISCHR(found.st_mode)) or (is_file and found.st_nlink > 1):
            raise PermissionError(
                errno.EPERM,
                "belongs to another user or has several names: record to a new file",
                os.fspath(path),
            )
        if is_file and found.st_size and not overwrite:
            raise FileExistsError(
                errno.EEXIST, "has content: record to another file, or pass overwrite=True", os.fspath(path)
            )
        if is_file:
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o600)
            os.ftruncate(file.fileno(), 0)
    except BaseException:
        file.close()
        raise
    return file


def _is_deep(message: Any) -> bool:
    level = [message]
    for _ in range(DEEPEST_LINE):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _decision(record: DecisionRecord) -> str | None:
    if record.decision is None:
        return None
    scope = getattr(record.decision, "scope", None)
    name = decision_name(record)
    return f"{name} ({scope})" if isinstance(scope, str) and scope != "once" else name
