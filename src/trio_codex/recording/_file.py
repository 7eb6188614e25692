"""The file format of recordings, and how to read them, including truncated files.

The first line is the header. Each further line is an :class:`Entry`, as an object with the names of its fields. Fields
that have their default value are omitted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs
import msgspec

from trio_codex._core.json import UNREADABLE
from trio_codex._values.paths import expand
from trio_codex.errors import CodexError

from ._redaction import Redaction

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

FORMAT: Final = 1
"""Incremented when older readers can no longer read the file."""

Kind: TypeAlias = Literal["opened", "sent", "received", "discarded", "decision", "ended"]
"""The kind of an entry: a connection opened or ended, a line in either direction, a discarded line, or the decision on
a server request."""


class RecordingError(CodexError):
    """A file is not a recording, or was written in a later format."""


class Kept(msgspec.Struct):
    """The options of a :class:`Redaction`."""

    paths: bool
    keep: list[str]


class Header(msgspec.Struct):
    """The first line of a recording."""

    recording: int
    version: str
    redaction: Kept | None
    started_at: float


def header_of(version: str, redaction: Redaction | None, started_at: float) -> Header:
    """Create the header of a recording that starts now."""
    kept = None if redaction is None else Kept(redaction.paths, sorted(redaction.keep))
    return Header(FORMAT, version, kept, started_at)


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of a recording.

    Attributes:
        at: Seconds since the recording began.
        connection: The number of the connection within the recording, starting at 1.
        kind: The kind of entry.
        size: The size of the original line in bytes, before redaction.
        message: The line as plain JSON; ``None`` if it was too long to be recorded.
        reason: Why a line was discarded, or the error that ended the connection.
        decision: The decision, who made it, and the request.
    """

    at: float
    connection: int
    kind: Kind
    size: int = 0
    message: Any = None
    reason: str | None = None
    decision: dict[str, Any] | None = None

    @property
    def method(self) -> str | None:
        """The method of a request or notification; ``None`` for a response."""
        message = self.message
        return message.get("method") if isinstance(message, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


@attrs.frozen
class Recording:
    """A recording.

    Attributes:
        version: The version of this package that wrote it.
        redaction: How it was redacted; ``None`` if it was not.
        started_at: When it began, in seconds since the epoch.
        entries: The entries, in order.
        truncated: Whether an incomplete last line was ignored, because the process was killed while writing or the disk
            was full.
    """

    version: str
    redaction: Redaction | None
    started_at: float
    entries: tuple[Entry, ...] = attrs.field(repr=lambda entries: f"<{len(entries)}>")
    truncated: bool = False

    @property
    def connections(self) -> tuple[int, ...]:
        """The numbers of the recorded connections."""
        return tuple(dict.fromkeys(entry.connection for entry in self.entries))

    def of(self, connection: int) -> tuple[Entry, ...]:
        """Return the entries of one connection."""
        return tuple(entry for entry in self.entries if entry.connection == connection)


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Read a recording. An incomplete last line is ignored; see ``Recording.truncated``.

    Raises:
        RecordingError: The file is not a recording, or was written in a later format.
        OSError: The file cannot be read.
    """
    first, *lines = Path(expand(path)).read_bytes().split(b"\n")
    try:
        header = msgspec.json.decode(first, type=Header)
    except UNREADABLE:
        raise RecordingError(f"{path} is not a recording") from None
    if header.recording != FORMAT:
        raise RecordingError(f"{path} was recorded by a later version of trio-codex ({header.version})")
    kept = header.redaction
    redaction = None if kept is None else Redaction(kept.paths, kept.keep)
    truncated = bool(lines and lines[-1])
    return Recording(header.version, redaction, header.started_at, tuple(_entries(path, lines)), truncated)


def _entries(path: str | os.PathLike[str], lines: list[bytes]) -> Iterator[Entry]:
    decode = msgspec.json.Decoder(Entry).decode
    for number, line in enumerate(lines[:-1], start=2):
        try:
            yield decode(line)
        except UNREADABLE as exc:
            raise RecordingError(f"{path}, line {number}: {exc}") from None
