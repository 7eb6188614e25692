r"""Split a byte stream into lines, and encode messages that fit into one.

A frame ends with the byte ``\n`` and nothing else; U+2028, ``\r`` and NUL inside a line are data. Splitting takes
linear time, however the bytes are chunked. A line beyond the limit does not end the stream. Its head is kept, because it
contains the ``id`` and the ``method``, and a request may be waiting for that response.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Final, TypeAlias, cast

import msgspec

from trio_codex.errors import LocalProtocolError

MAX_LINE_BYTES: Final = 256 * 1024 * 1024
"""Default size limit of a line. Lines of 27 MB are normal (a 20 MB file in base64); 128 MB have been reported."""

OVERSIZE_HEAD_BYTES: Final = 4096
"""How much of an oversize line is kept: enough for its ``id``, ``method`` and first parameters."""


class OversizeLine(msgspec.Struct, frozen=True):
    """A line that was dropped because it was too long: its first 4 KiB, and its length without the newline."""

    head: bytes
    size: int


class TruncatedLine(msgspec.Struct, frozen=True):
    """The rest of a stream that ended in the middle of a line: its first 4 KiB, and its length."""

    head: bytes
    size: int


Line: TypeAlias = bytes | bytearray
"""One line, without its newline. A long line is a ``bytearray``, which must not be modified."""

Frame: TypeAlias = Line | OversizeLine | TruncatedLine
"""The elements of a byte stream."""

LONG_LINE_BYTES: Final = 64 * 1024
"""A line at least this long that arrived in several chunks is returned as its buffer, which saves a copy."""


class LineBuffer:
    """Splits a stream of chunks into lines.

    An unfinished line grows in place. Concatenating ``bytes`` would take quadratic time (6 s for a line of 32 MiB,
    against 4 ms), and joining chunks at the end would need twice the memory. For long lines, allocating memory costs
    most.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.max_line_bytes = max_line_bytes
        self._unfinished = bytearray()
        self._size = 0

    def feed(self, chunk: bytes | bytearray) -> list[Line | OversizeLine]:
        """Add a chunk; return the lines that it completes, without their newlines."""
        pieces = bytes(chunk).split(b"\n")
        rest = pieces.pop()
        lines = cast("list[Line | OversizeLine]", pieces)
        if lines and self._size:
            lines[0] = self._end_line(pieces[0])
        if len(chunk) > self.max_line_bytes:
            lines = [self._bounded(line) for line in lines]
        if rest:
            self._keep(rest)
        return lines

    def feed_eof(self) -> TruncatedLine | None:
        """Mark the end of the stream; return the rest, if any."""
        unfinished, size = self._take()
        return TruncatedLine(_head(unfinished), size) if size else None

    @property
    def unfinished_bytes(self) -> int:
        """Length of the unfinished line so far, whether it is held in memory or not."""
        return self._size

    @property
    def held_bytes(self) -> int:
        """Bytes of the unfinished line that are held in memory."""
        return len(self._unfinished)

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self.max_line_bytes:
            self._unfinished = bytearray(_head(self._unfinished[:OVERSIZE_HEAD_BYTES] + piece))
        else:
            self._unfinished += piece

    def _take(self) -> tuple[bytearray, int]:
        unfinished, size = self._unfinished, self._size
        self._unfinished, self._size = bytearray(), 0
        return unfinished, size

    def _end_line(self, last: bytes) -> Line | OversizeLine:
        self._keep(last)
        line, size = self._take()
        if size > self.max_line_bytes:
            return OversizeLine(_head(line), size)
        return line if size >= LONG_LINE_BYTES else bytes(line)

    def _bounded(self, line: Line | OversizeLine) -> Line | OversizeLine:
        if isinstance(line, OversizeLine) or len(line) <= self.max_line_bytes:
            return line
        return OversizeLine(_head(line), len(line))


def _head(line: Line) -> bytes:
    return bytes(line[:OVERSIZE_HEAD_BYTES])


_encode: Final = msgspec.json.Encoder().encode


def encode_message(message: object) -> bytes:
    """Encode one JSON-RPC message as a single line, without its newline.

    Raises:
        LocalProtocolError: The message contains a value that JSON cannot represent. A lone surrogate (as from
            ``os.fsdecode``) is also rejected, because the server drops such a line without a response (PROTOCOL Q10).
    """
    try:
        text = _encode(message)
        # The encoder writes NaN and infinities as null, so the server would receive a different value.
        if b"null" in text and _holds_non_finite(msgspec.to_builtins(message, enc_hook=_opaque)):
            raise LocalProtocolError("not JSON: a number is infinite or NaN")
    except UnicodeEncodeError as exc:
        problem = f"a string contains a lone surrogate at index {exc.start}, which UTF-8 cannot encode"
        raise LocalProtocolError(problem) from None
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise LocalProtocolError(f"not JSON: {exc}") from None
    if b"\n" in text:
        raise LocalProtocolError("the raw JSON contains a newline, which would end the line")
    return text


def _opaque(_: object) -> None:
    """Substitute a placeholder for a value that is already JSON."""


def _holds_non_finite(value: object) -> bool:
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_holds_non_finite, cast("Mapping[object, object]", value).values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_non_finite, cast("list[object]", value)))
    return False
