"""Parse command lines that are a single simple command, and reject all others. Independent of requests and policies.

The parser is conservative: it may reject a simple command, but never accepts anything else. A command counts as simple
only if every shell in :data:`SHELLS` parses it in the same way, whatever options its startup files have set.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

SHELLS: Final = frozenset(
    f"{directory}/{shell}"
    for directory in ("/bin", "/usr/bin", "/usr/local/bin")
    for shell in ("bash", "sh", "zsh", "dash")
)
"""The full paths of the known shells. A file with the same name in another directory may be a different program."""

_OPTIONS: Final = ("-c", "-lc")

_BLANKS: Final = " \t"

_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")
"""Characters that have no special meaning outside quotes. ASCII only: which other characters are blanks depends on the
locale."""

_ESCAPABLE: Final = '$`"\\'
"""Characters that a backslash escapes within double quotes; before any other character the backslash is literal."""

_NEVER_IN_DOUBLE_QUOTES: Final = frozenset(["$", "`", "!", "\\!", "\\\n"])

_RESERVED: Final = frozenset(
    {
        "-", "case", "coproc", "declare", "do", "done", "elif", "else", "end", "esac", "export", "fi", "float",
        "for", "foreach", "function", "if", "in", "integer", "local", "nocorrect", "noglob", "readonly", "repeat",
        "select", "then", "time", "typeset", "until", "while",
    }
)  # fmt: skip
"""Words that a shell may parse as syntax if they come first and are not quoted; the rest is then not a list of arguments."""

_PIECE: Final = re.compile(
    r"""(?P<bare>[^\s'"\\]) | '(?P<single>[^']*)'(?!') | "(?P<double>(?:[^"\\]|\\.)*)" | \\(?P<escaped>[^\n])""",
    re.VERBOSE | re.DOTALL,
)
# The lookahead rejects `''` within single quotes: with rc_quotes, zsh parses it as one literal quote.


@attrs.frozen
class Word:
    """A word of a command line: the text that the command receives, and its part that was neither quoted nor escaped."""

    text: str
    bare: str


def words_of(line: str, *, also_bare: str = "") -> tuple[Word, ...] | None:
    """Split a line into words as a shell would; ``None`` if a shell might do anything beyond splitting.

    Assignments and reserved words are not detected here: see :func:`simple_command`.

    ``also_bare`` lists characters to treat as literal outside quotes, although they are special to a shell.
    """
    words: list[Word] = []
    at = 0
    while at < len(line):
        if line[at] in _BLANKS:
            at += 1
            continue
        text = bare = ""
        while at < len(line) and line[at] not in _BLANKS:
            piece = _PIECE.match(line, at)
            if piece is None:
                return None
            plain = piece[str(piece.lastgroup)]
            if piece.lastgroup == "bare":
                bare += plain
                plain = plain if plain in _BARE or plain in also_bare else None
            elif piece.lastgroup == "double":
                plain = _within_double_quotes(plain)
            if plain is None or "\0" in plain:
                return None
            text += plain
            at = piece.end()
        words.append(Word(text, bare))
    return tuple(words)


def _within_double_quotes(text: str) -> str | None:
    parts: list[str] = re.findall(r"\\.|.", text, re.DOTALL)
    # `!` is literal only without history expansion, which startup files may enable.
    if not _NEVER_IN_DOUBLE_QUOTES.isdisjoint(parts):
        return None
    return "".join(part[1:] if part[1:] and part[1] in _ESCAPABLE else part for part in parts)


def simple_command(line: str) -> tuple[str, ...] | None:
    """Return the arguments of a line that is exactly one simple command; ``None`` if it might be anything else."""
    words = words_of(line)
    if not words:
        return None
    first = words[0]
    # A shell parses a script that begins with `-` or `+` as an option, and `%1` as a job.
    if not first.text or first.text[0] in "-+%" or "=" in first.bare or first.bare in _RESERVED:
        return None
    if any(word.bare.startswith("=") for word in words):  # in zsh, `=git` is the path of git
        return None
    return tuple(word.text for word in words)


def command_of(line: str) -> tuple[str, ...] | None:
    """Return the arguments of a command line, or of the simple command that it passes to a shell.

    ``None`` if the line, in shell syntax, might be anything but one simple command.
    """
    argv = simple_command(line)
    if argv is None or argv[0] not in SHELLS:
        return argv
    return simple_command(argv[2]) if len(argv) == 3 and argv[1] in _OPTIONS else None
