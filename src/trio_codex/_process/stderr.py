"""The last of what a process wrote on stderr.

Owns a bounded ring of bytes. Bytes go in as they come; only :meth:`StderrRing.tail` ever decodes them, for display.
"""

from __future__ import annotations

import re
import time
from collections import deque

RING_BYTES = 64 * 1024
"""Kept per server: some hundred log lines, and nothing next to the server's own 85 MiB."""

TAIL_BYTES = 4 * 1024
"""Shown by default: an error message that a person reads holds no more."""

MARK_SECONDS = 0.1
"""How exactly it is known when something came."""

MARKS = 256
"""How many times are kept: what is older than the last of them counts as old."""

# A cut can leave an escape sequence without its beginning; only whole ones and those open at the end are known.
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*(?:[@-~]|$)|[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\|$)|[ -/]*(?:[0-~]|$))"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class StderrRing:
    """Bytes go in without bound; the last ``limit`` of them stay.

    Attributes:
        limit: How many bytes are kept.
        total: How many bytes ever came.
    """

    __slots__ = ("_data", "_marks", "limit", "total")

    def __init__(self, limit: int = RING_BYTES) -> None:
        self.limit = limit
        self.total = 0
        self._data = bytearray()
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)

    def feed(self, data: bytes) -> None:
        """Take in ``data``, whatever it holds; the oldest bytes make room."""
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] >= MARK_SECONDS:
            self._marks.append((now, self.total))
        self.total += len(data)
        self._data += data
        # Trimming at twice the limit, not at each chunk, keeps a flood linear.
        if len(self._data) > 2 * self.limit:
            del self._data[: -self.limit]

    def getvalue(self) -> bytes:
        """Return the bytes that are kept, as they came."""
        return bytes(self._data[-self.limit :])

    def tail(self, limit: int = TAIL_BYTES, *, seconds: float | None = None) -> str:
        """Return the last ``limit`` bytes as text for a person to read.

        What is no UTF-8 is replaced; terminal escapes and control characters, tab and newline excepted, are dropped.

        Args:
            limit: How many bytes.
            seconds: Only what came in the last so many seconds.
        """
        if seconds is not None:
            since = time.monotonic() - seconds
            limit = min(
                limit, self.total - next((start for at, start in self._marks if at >= since), self.total)
            )
        data = self.getvalue()
        cut = data[max(0, len(data) - limit) :]
        if len(cut) < self.total:
            cut = cut.lstrip(bytes(range(0x80, 0xC0)))  # the rest of a character that the cut went through
        return _CONTROL.sub("", _ESCAPE.sub("", cut.decode("utf-8", "replace")))

    def __len__(self) -> int:
        return min(len(self._data), self.limit)

    def __repr__(self) -> str:
        return f"<StderrRing: {len(self)} of {self.total} bytes>"
