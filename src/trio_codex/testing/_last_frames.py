"""Keep the last frames on the wire, to show them when a test fails."""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from trio_codex.instruments import Instrument

FRAMES: Final = 50
"""Enough for a turn of a few steps, and few enough to fit on a screen."""

WIDTH: Final = 400
"""How many bytes of each frame to show: the ids and the method come first, and instructions to the model are long."""


class LastFrames(Instrument):
    """An instrument that keeps the last frames of a client; ``str()`` shows them, one per line.

    Frames are not redacted and may contain secrets, so use this only in tests. It is falsy while it holds no frames.

    Args:
        frames: How many frames to keep.
        width: How many bytes of each frame to keep.
    """

    def __init__(self, *, frames: int = FRAMES, width: int = WIDTH) -> None:
        self._width = width
        self._lines: deque[str] = deque(maxlen=frames)
        self._seen = 0
        self._started_at = 0.0

    def frame_sent(self, connection: int, line: bytes) -> None:
        """Store the frame."""
        self._keep("→", line)

    def frame_received(self, connection: int, line: bytes) -> None:
        """Store the frame."""
        self._keep("←", line)

    def line_discarded(self, connection: int, reason: str, size: int) -> None:
        """Record that the previous line, or one that was too long to receive, was discarded."""
        self._keep("✗", f"discarded, {size} bytes: {reason}".encode())

    def _keep(self, arrow: str, line: bytes) -> None:
        now = trio.current_time()
        if not self._seen:
            self._started_at = now
        self._seen += 1
        line = line.rstrip(b"\n")
        rest = f" … {len(line) - self._width} more bytes" if len(line) > self._width else ""
        text = line[: self._width].decode(errors="backslashreplace")
        self._lines.append(f"{now - self._started_at:7.3f} s {arrow} {text}{rest}")

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __str__(self) -> str:
        left_out = self._seen - len(self._lines)
        first = [f"({left_out} earlier frames)"] if left_out else []
        return "\n".join([*first, *self._lines])
