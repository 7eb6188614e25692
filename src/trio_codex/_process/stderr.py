"""A bounded buffer of the latest output on stderr.

It stores raw bytes; only :meth:`StderrRing.tail` decodes them, for display.
"""

from __future__ import annotations

import re
import time
from collections import deque

RING_BYTES = 64 * 1024
"""Default size of the buffer: several hundred log lines. The server itself uses 85 MiB."""

TAIL_BYTES = 4 * 1024
"""Default length of a tail. It is short, because error messages show it."""

RECENT_SECONDS = 2.0
"""Maximum age of output that may explain an end. Anything older would be mistaken for the cause."""

MARK_SECONDS = 0.1
"""Resolution of the arrival times."""

MARKS = 256
"""Number of arrival times kept. Output older than the oldest of them counts as old."""

# Matches complete escape sequences and ones truncated at the end. One truncated at its beginning is not recognizable.
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*(?:[@-~]|$)|[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\|$)|[ -/]*(?:[0-~]|$))"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LOG_RECORD = re.compile(r"^\d{4}-\d\d-\d\dT\S+ +(?:TRACE|DEBUG|INFO|WARN|ERROR) .*\n?", re.MULTILINE)


class StderrRing:
    """A ring buffer that keeps the last ``limit`` bytes."""

    __slots__ = ("_data", "_marks", "limit", "total")

    def __init__(self, limit: int = RING_BYTES) -> None:
        self.limit = limit
        self.total = 0
        self._data = bytearray()
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)

    def feed(self, data: bytes) -> None:
        """Append ``data``, and drop the oldest bytes above the limit."""
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] >= MARK_SECONDS:
            self._marks.append((now, self.total))
        self.total += len(data)
        self._data += data
        # Trim at twice the limit instead of after every chunk, so that the total cost stays linear.
        if len(self._data) > 2 * self.limit:
            del self._data[: -self.limit]

    def getvalue(self) -> bytes:
        return bytes(self._data[-self.limit :])

    def tail(self, limit: int = TAIL_BYTES, *, seconds: float | None = None, log_records: bool = True) -> str:
        """Return the last ``limit`` bytes as readable text.

        With ``seconds``, leave out output that is older. Without ``log_records``, leave out the records of the server's
        log. Invalid UTF-8 is replaced. Terminal escapes and control characters other than tab and newline are removed.
        """
        if seconds is not None:
            since = time.monotonic() - seconds
            limit = min(
                limit, self.total - next((start for at, start in self._marks if at >= since), self.total)
            )
        data = self.getvalue()
        cut = data[max(0, len(data) - limit) :]
        if len(cut) < self.total:
            cut = cut.lstrip(bytes(range(0x80, 0xC0)))  # the rest of a truncated character
        text = _CONTROL.sub("", _ESCAPE.sub("", cut.decode("utf-8", "replace")))
        return text if log_records else _LOG_RECORD.sub("", text)

    def recent(self, *, log_records: bool = True) -> str:
        """Return the tail of what arrived shortly before now, which may explain why the server has ended."""
        return self.tail(seconds=RECENT_SECONDS, log_records=log_records)

    def __len__(self) -> int:
        return min(len(self._data), self.limit)

    def __repr__(self) -> str:
        return f"<StderrRing: {len(self)} of {self.total} bytes>"
