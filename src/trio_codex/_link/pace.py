"""Choose how many lines the reader processes before it lets consumers run."""

from __future__ import annotations

from typing import Final

LINES_AT_ONCE: Final = 62
"""Target number of lines per batch for the busiest consumer: just below what a consumer reads before it yields. With
more, the reader would outrun it; with fewer, wakeups would cost more than reading."""

MAX_LINES: Final = 4096
"""Maximum batch if the lines belong to hundreds of consumers: as many as a full pipe holds."""


class Pace:
    """Adapts the batch size to the backlog of consumers."""

    def __init__(self) -> None:
        self.lines: int = LINES_AT_ONCE
        """Size of the next batch."""

    def note(self, lines: int, share: int) -> None:
        """Record the size of a batch and the backlog of the busiest consumer."""
        if share == 0:
            return
        # A short final batch says nothing about the right size.
        if lines >= self.lines or share > LINES_AT_ONCE:
            # At most double the size, because the next lines may be for other consumers.
            wanted = min(LINES_AT_ONCE * lines // share, 2 * self.lines, MAX_LINES)
            self.lines = max(LINES_AT_ONCE, wanted)
