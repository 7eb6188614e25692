"""A line editor without I/O: the effect of each key on the line.

The terminal's own line editing does not suffice, because other output appears while the user types.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.text import Text

from trio_codex.cli._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KEY: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|\x1b(?=\x1b)|\x1b[^\x1b\[O]|[^\x1b]", re.DOTALL)
_PASTE_BEGINS: Final = "\x1b[200~"
_PASTE_ENDS: Final = "\x1b[201~"

END_OF_INPUT: Final = "\x04"
"""Yielded in place of a line for Ctrl-D on an empty one."""


class LineEditor:
    """A line with a cursor, and the history of earlier lines.

    Attributes:
        before: The text before the cursor.
        after: The text after the cursor.
    """

    def __init__(self) -> None:
        self.before = ""
        self.after = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unread = ""
        self._is_pasting = False
        self._history: list[str] = []
        self._at = 0
        self._keys: dict[str, Callable[[], None]] = {
            "\x7f": self._backspace, "\x08": self._backspace, "\x1b[3~": self._delete,
            "\x15": self._drop_before, "\x0b": self._drop_after, "\x17": self._drop_word,
            "\x01": self._to_start, "\x1b[H": self._to_start, "\x1bOH": self._to_start, "\x1b[1~": self._to_start,
            "\x05": self._to_end, "\x1b[F": self._to_end, "\x1bOF": self._to_end, "\x1b[4~": self._to_end,
            "\x02": self._left, "\x1b[D": self._left, "\x1bOD": self._left,
            "\x06": self._right, "\x1b[C": self._right, "\x1bOC": self._right,
            "\x10": self._earlier, "\x1b[A": self._earlier, "\x1bOA": self._earlier,
            "\x0e": self._later, "\x1b[B": self._later, "\x1bOB": self._later,
        }  # fmt: skip

    @property
    def text(self) -> str:
        """The text typed so far."""
        return self.before + self.after

    def clear(self) -> None:
        """Clear the line."""
        self.before = self.after = self._unread = ""
        self._is_pasting = False
        self._at = len(self._history)

    def feed(self, data: bytes) -> Iterator[str]:
        """Process input from the terminal; yield each completed line, and ``END_OF_INPUT``."""
        typed = self._unread + self._decoder.decode(data)
        self._unread, at = "", 0
        # Not finditer(), which would skip the beginning of an incomplete sequence.
        while key := _KEY.match(typed, at):
            at = key.end()
            if (line := self._press(key[0])) is not None:
                yield line
        self._unread = typed[at:]

    def _press(self, key: str) -> str | None:
        if key in (_PASTE_BEGINS, _PASTE_ENDS):
            self._is_pasting = key == _PASTE_BEGINS
        elif self._is_pasting:
            # Pasted text, in which control characters are not key presses.
            self.before += "\n" if key in "\r\n" else key if key.isprintable() or key == "\t" else ""
        elif key in "\r\n":
            return self._enter()
        elif key == "\x04":
            if not self.text:
                return END_OF_INPUT
            self._delete()
        elif key in self._keys:
            self._keys[key]()
        elif key.isprintable() or key == "\t":
            self.before += key
        return None

    def _enter(self) -> str:
        line = self.text
        if line.strip() and line not in self._history[-1:]:
            self._history.append(line)
        self.clear()
        return line

    def _backspace(self) -> None:
        self.before = self.before[:-1]

    def _delete(self) -> None:
        self.after = self.after[1:]

    def _drop_before(self) -> None:
        self.before = ""

    def _drop_after(self) -> None:
        self.after = ""

    def _drop_word(self) -> None:
        self.before = re.sub(r"\S*\s*\Z", "", self.before)

    def _to_start(self) -> None:
        self.before, self.after = "", self.text

    def _to_end(self) -> None:
        self.before, self.after = self.text, ""

    def _left(self) -> None:
        self.before, self.after = self.before[:-1], self.before[-1:] + self.after

    def _right(self) -> None:
        self.before, self.after = self.before + self.after[:1], self.after[1:]

    def _earlier(self) -> None:
        self._go_to(self._at - 1)

    def _later(self) -> None:
        self._go_to(self._at + 1)

    def _go_to(self, at: int) -> None:
        if 0 <= at <= len(self._history):
            self._at = at
            self.before, self.after = (self._history[at] if at < len(self._history) else ""), ""

    def shown(self, width: int) -> Text:
        """Render the line and its cursor in one row. If the line is too long, render the part around the cursor."""
        before = _in_a_row(self.before)
        cursor, after = _in_a_row(self.after[:1]) or " ", _in_a_row(self.after[1:])
        cut = ""
        while before and cell_len(cut + before + cursor) > width:
            before, cut = before[1:], "…"
        room = width - cell_len(cut + before + cursor)
        while after and cell_len(after) > room:
            after = after[:-1]
        return Text.assemble((cut, "dim"), before, (cursor, "reverse"), after)


def _in_a_row(text: str) -> str:
    return printable(text.replace("\n", "⏎").replace("\t", " "))
