"""Write a recording: each line is in the file before anything else happens."""

from __future__ import annotations

import errno
import os
import stat
import time
from io import FileIO
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import trio

from trio_codex._core.json import UNREADABLE
from trio_codex._values.config import VERSION
from trio_codex._values.event import route
from trio_codex._values.paths import expand
from trio_codex.errors import describe_exit
from trio_codex.instruments import Instrument
from trio_codex.instruments._base import decision_name

from ._file import Entry, Header, Kind, header_of
from ._redaction import Redaction

if TYPE_CHECKING:
    from trio_codex._core.rpc import RequestId
    from trio_codex.errors import CodexError
    from trio_codex.instruments import ServerRequestRecord
    from trio_codex.instruments._base import DecisionRecord

LONGEST_LINE: Final = 16 * 1024 * 1024
"""Only the size of a longer line is recorded: parsing it would block the reader."""

DEEPEST_LINE: Final = 128
"""Only the size of a more deeply nested line is recorded: JSON parsers and our own functions limit recursion."""


class Recorder(Instrument):
    """An instrument that records the traffic on a connection to a file; a context manager that closes the file.

    Each line is written immediately, so that the file is complete however the process ends. Only its owner can read the
    file. It has no size limit: delete it when you no longer need it. If a write fails, the file is closed, one error is
    logged, and the client continues.

    A file that is not empty is refused unless ``overwrite`` is set. Symbolic links, files with several hard links and
    files of another user are always refused, because another user could otherwise choose where a recording made as root
    goes.

    Creating the first recorder that redacts takes about 0.3 s: create it before the client.

    Args:
        path: The file to write. A leading ``~`` is the home directory.
        redaction: How to redact content; ``None`` keeps everything, including secrets.
        overwrite: Whether to replace an existing recording.

    Raises:
        FileExistsError: The file exists and is not empty.
        PermissionError: The file belongs to another user, or has several hard links.
        OSError: The file cannot be written, or is a symbolic link.
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
        self._file = _open(expand(path), overwrite)
        self._put(header_of(VERSION, redaction, time.time()))

    def close(self) -> None:
        """Close the file. Later events are not recorded."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- hooks -------------------------------------------------------------------------------------------------

    def connection_opened(self, connection: int) -> None:
        self._latest = connection
        self._note(connection, "opened")

    def connection_ended(self, connection: int, error: CodexError) -> None:
        returncode: int | None = getattr(error, "returncode", None)
        how = "" if returncode is None else f" ({describe_exit(returncode)})"
        self._note(connection, "ended", reason=f"{type(error).__name__}{how}")

    def frame_sent(self, connection: int, line: bytes) -> None:
        self._note_line(connection, "sent", line)

    def frame_received(self, connection: int, line: bytes) -> None:
        self._note_line(connection, "received", line)

    def line_discarded(self, connection: int, reason: str, size: int) -> None:
        self._note(connection, "discarded", size=size, reason=reason)

    def server_request_received(self, request: ServerRequestRecord) -> None:
        # A decision's record does not name its connection, and request ids are not unique: every server counts from 0.
        where = route(request.params or b"null")
        thread_id = where.thread_id or where.conversationId
        self._asked[request.id, request.method, thread_id] = request.connection

    def decision_made(self, record: DecisionRecord) -> None:
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
                return  # line_discarded records it
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
            # The file may end in a partial line: another client, or the end of the scope, must not append to it.
            self._file.close()
            raise

    def _text(self, text: str | None) -> str | None:
        return text if text is None or self._redaction is None else self._redaction.text(text)


class _Clock:
    """Seconds since the first reading, across several Trio runs, each with its own clock."""

    def __init__(self) -> None:
        self._run: trio.lowlevel.TrioToken | None = None
        self._start = 0.0
        self._read = (0.0, 0.0)

    def seconds(self) -> float:
        """Return the elapsed time: by Trio's clock within a run, and by the system clock between runs."""
        now, run = trio.current_time(), trio.lowlevel.current_trio_token()
        if run is not self._run:
            at, then = self._read
            between = 0.0 if self._run is None else time.monotonic() - then
            self._run, self._start = run, now - at - between
        self._read = (now - self._start, time.monotonic())
        return self._read[0]


def _open(path: str | os.PathLike[str], overwrite: bool) -> FileIO:
    """Open a file for writing that is empty, ours, and readable only by its owner."""
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    file = FileIO(os.open(path, flags, 0o600), "wb")
    try:
        # Check the file through its descriptor: its name might refer to another file by then.
        found = os.fstat(file.fileno())
        is_file = stat.S_ISREG(found.st_mode)
        is_others = hasattr(os, "geteuid") and found.st_uid != os.geteuid()
        if (is_others and not stat.S_ISCHR(found.st_mode)) or (is_file and found.st_nlink > 1):
            raise PermissionError(
                errno.EPERM,
                "belongs to another user or has several hard links: record to a new file",
                os.fspath(path),
            )
        if is_file and found.st_size and not overwrite:
            raise FileExistsError(
                errno.EEXIST, "is not empty: record to another file, or pass overwrite=True", os.fspath(path)
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
