"""Reads command lines that are one plain command, and refuses all others. Knows no requests and no policies.

What is refused might be plain; what is read surely is. Only what every shell of :data:`SHELLS` takes in the same way, with
whatever options its start files may have set, counts as plain.
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
"""Whatever lies elsewhere under such a name may be anything."""

_OPTIONS: Final = ("-c", "-lc")

_BLANKS: Final = " \t"

_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")
"""What stands for itself outside quotes. Beyond ASCII it depends on the locale what is a blank."""

_ESCAPABLE: Final = '$`"\\'
"""What a backslash takes the meaning of within double quotes; before anything else it stays."""

_NEVER_IN_DOUBLE_QUOTES: Final = frozenset(["$", "`", "!", "\\!", "\\\n"])

_RESERVED: Final = frozenset(
    [
        "-",
        "case",
        "coproc",
        "declare",
        "do",
        "done",
        "elif",
        "else",
        "end",
        "esac",
        "export",
        "fi",
        "float",
        "for",
        "foreach",
        "function",
        "if",
        "in",
        "integer",
        "local",
        "nocorrect",
        "noglob",
        "readonly",
        "repeat",
        "select",
        "then",
        "time",
        "typeset",
        "until",
        "while",
    ]
)
"""First words that a shell may take for syntax if they are not quoted: then what follows is no list of arguments."""

_PIECE: Final = re.compile(
    r"""(?P<bare>[^\s'"\\]) | '(?P<single>[^']*)'(?!') | "(?P<double>(?:[^"\\]|\\.)*)" | \\(?P<escaped>[^\n])""",
    re.VERBOSE | re.DOTALL,
)
# No `''` after a closing quote: with rc_quotes, zsh reads a quote in quotes there.


@attrs.frozen
class Word:
    """A word of a command line.

    Attributes:
        text: What the command is given.
        bare: What of it was neither in quotes nor behind a backslash.
    """

    text: str
    bare: str


def words_of(line: str, *, also_bare: str = "") -> tuple[Word, ...] | None:
    """Split a line into words as a shell would; ``None`` if a shell might do more with it than that.

    Assignments and reserved words are not looked for: see :func:`plain_command`.

    Args:
        line: The line.
        also_bare: Characters that are to stand for themselves outside quotes, although a shell gives them a meaning.
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
    # `!` is literal only where history is not expanded, and that start files may ask for.
    if not _NEVER_IN_DOUBLE_QUOTES.isdisjoint(parts):
        return None
    return "".join(part[1:] if part[1:] and part[1] in _ESCAPABLE else part for part in parts)


def plain_command(line: str) -> tuple[str, ...] | None:
    """Give the arguments of a line that is exactly one plain command; ``None`` if it might be anything else."""
    words = words_of(line)
    if not words:
        return None
    first = words[0]
    # A shell takes a script that begins with `-` or `+` for an option of its own, and `%1` for a job.
    if not first.text or first.text[0] in "-+%" or "=" in first.bare or first.bare in _RESERVED:
        return None
    if any(word.bare.startswith("=") for word in words):  # in zsh, `=git` is the path of git
        return None
    return tuple(word.text for word in words)


def command_of(line: str) -> tuple[str, ...] | None:
    """Give the arguments of a command line, and of the plain command that it has a shell run, if it does.

    Args:
        line: Arguments, joined so that a shell would split them again.

    Returns:
        ``None`` if it might be anything but one plain command.
    """
    argv = plain_command(line)
    if argv is None or argv[0] not in SHELLS:
        return argv
    return plain_command(argv[2]) if len(argv) == 3 and argv[1] in _OPTIONS else None
