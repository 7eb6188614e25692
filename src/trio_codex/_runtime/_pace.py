"""How many lines the reader hands on before it lets consumers run: owns that number, and what it is judged by."""

from __future__ import annotations

from typing import Final

LINES_AT_ONCE: Final = 62
"""How many lines for the busiest consumer the reader means to hand on at once: nearly as many as one takes before it lets
other tasks run. With more, the reader would outrun it; with fewer, waking up would cost more than reading."""

MAX_LINES: Final = 4096
"""What that may come to if the lines are of hundreds of consumers: as many as the fullest pipe holds."""


class Pace:
    """Follows what consumers have to take.

    Attributes:
        lines: How many lines to hand on next.
    """

    def __init__(self) -> None:
        self.lines: int = LINES_AT_ONCE

    def note(self, lines: int, share: int) -> None:
        """Take note that so many lines were handed on, and that the busiest consumer has so much to take."""
        if share == 0:
            return
        # The few lines at the end of a chunk do not tell that more would do, or fewer.
        if lines >= self.lines or share > LINES_AT_ONCE:
            # At most twice as many as last time: the next lines may be others.
            wanted = min(LINES_AT_ONCE * lines // share, 2 * self.lines, MAX_LINES)
            self.lines = max(LINES_AT_ONCE, wanted)
