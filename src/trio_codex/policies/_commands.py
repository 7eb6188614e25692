"""The ready-made policy for commands: patterns over their arguments. What a shell may hide is not known here."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from trio_codex.policies._decisions import Abstain, Accept
from trio_codex.policies._paths import Roots
from trio_codex.policies._policy import Policy
from trio_codex.policies._shell import command_of, words_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from types import EllipsisType

    from trio_codex.policies._requests import CommandRequest

CommandPattern: TypeAlias = "str | Iterable[str | EllipsisType]"
"""One line, as a shell would take it, or a sequence of words. See :func:`allow_commands`."""


def allow_commands(
    *patterns: CommandPattern,
    cwd_below: str | os.PathLike[str] | None = None,
    trust_repositories: bool = False,
    name: str = "allow_commands",
) -> Policy:
    """Create a policy that accepts commands that match one of the patterns, once each, and abstains from all others.

    A pattern matches a list of arguments, never a part of a text. A string is split as a shell would, and every word of it
    stands for itself, but for two that are not quoted:

    - ``*`` is exactly one argument that does not begin with ``-``;
    - ``...``, at the end, is any further arguments, options included, or none.

    In a sequence of words every string stands for itself, and the last may be ``...`` (``Ellipsis``)::

        allow_commands("df -h", "stat *", "ls ...", ["grep", "-e", "*", ...])

    The first word is the program as the agent wrote it: ``df`` matches neither ``/tmp/df`` nor ``/usr/bin/df``.

    The server runs commands through a shell and shows that: ``/bin/bash -lc 'df -h'``. One shell is looked behind, and
    only if what it runs is surely one plain command. A script with an operator, a redirection, an expansion, an assignment,
    a comment or anything else of the kind matches no pattern, and neither does a request to reach a host, to type into a
    running terminal, or for further permissions.

    Limits: a pattern sees arguments, not what a program does. ``find ...`` also allows ``find . -delete``; ``env``, ``sudo``,
    ``xargs``, ``bash`` are as wide as whatever they run. Many programs run what they find in files that the agent can write,
    and an accepted command runs outside the sandbox: ``git status`` runs what ``.git/config`` names, ``make`` the ``Makefile``,
    ``pytest`` the ``conftest.py``. Accept only programs that take nothing from such files. A pattern for git therefore accepts
    nothing, and a warning says so; use :func:`allow_git`.
    Which program the shell finds by a name is up to its start files and ``PATH``.

    Args:
        patterns: What to accept.
        cwd_below: Accept only what would run in this directory or below it. It is resolved when the policy is made, and
            the directory of the command when the server asks, as :func:`allow_paths` says.
        trust_repositories: Accept git as well. Set it only if no agent can write to the repository, its configuration included.
        name: By which the audit calls it.

    Raises:
        ValueError: A pattern is no plain command, or does not begin with a word of its own; or ``cwd_below`` begins with
            ``~``, and the home directory is unknown.
        OSError: ``cwd_below`` leads through a loop of links, or a directory that this process may not search.
    """
    read = tuple(map(_pattern, patterns))
    if not trust_repositories and any(pattern.program == "git" for pattern in read):
        warnings.warn(
            "patterns for git accept nothing: git runs programs that the repository names; use allow_git(), "
            "or trust_repositories=True if no agent can write to the repository",
            stacklevel=2,
        )
        read = tuple(pattern for pattern in read if pattern.program != "git")
    directory = None if cwd_below is None else Roots([cwd_below])

    async def allow_commands(request: CommandRequest) -> Accept | Abstain:
        await trio.lowlevel.checkpoint()
        argv = argv_of(request)
        if argv is None or (directory is not None and not directory.hold(request.cwd)):
            return Abstain()
        for pattern in read:
            if pattern.matches(argv):
                return Accept(rule=f"{name}: {pattern.shown}")
        return Abstain()

    return Policy(name=name, command=allow_commands)


def argv_of(request: CommandRequest) -> tuple[str, ...] | None:
    """Return the arguments of the command, if running it is all that the request is about."""
    asks_for_more = (
        request.network is not None
        or request.input_to_terminal
        or request.additional_permissions is not None
        or bool(request.proposed_network_rules)
    )
    return None if request.command is None or asks_for_more else command_of(request.command)


@attrs.frozen
class _One:
    """Matches one argument that is no option."""


_ONE: Final = _One()


@attrs.frozen
class _Pattern:
    """A pattern.

    Attributes:
        words: What each argument has to be.
        more: Whether others may follow.
        shown: The pattern as it was given, on one line.
    """

    words: tuple[str | _One, ...]
    more: bool
    shown: str

    @property
    def program(self) -> str:
        """The name of the program, without its directory."""
        return str(self.words[0]).rpartition("/")[2]

    def matches(self, argv: tuple[str, ...]) -> bool:
        if len(argv) < len(self.words) or (len(argv) > len(self.words) and not self.more):
            return False
        return all(
            not argument.startswith("-") if isinstance(word, _One) else argument == word
            for word, argument in zip(self.words, argv, strict=False)
        )


def _pattern(given: CommandPattern) -> _Pattern:
    words: list[str | _One | EllipsisType]
    if isinstance(given, str):
        shown = given
        split = words_of(given, also_bare="*")
        if split is None or any("*" in word.bare and word.text != "*" for word in split):
            raise ValueError(f"this pattern is no plain command, or quotes are missing: {given!r}")
        wild: dict[str, _One | EllipsisType] = {"*": _ONE, "...": ...}
        words = [wild.get(word.bare, word.text) if word.bare == word.text else word.text for word in split]
    else:
        import shlex

        words = [*given]
        shown = " ".join(shlex.quote(word) if isinstance(word, str) else "..." for word in words)
    more = bool(words) and words[-1] is ...
    fixed = words[:-1] if more else words
    if not fixed or fixed[0] is _ONE or not fixed[0]:
        raise ValueError(f"a pattern has to begin with the name of a program: {given!r}")
    if any(word is ... for word in fixed):
        raise ValueError(f"only the end of a pattern can be `...`: {given!r}")
    if any(isinstance(word, str) and "\0" in word for word in fixed):
        raise ValueError(f"no argument can hold a NUL: {given!r}")
    return _Pattern(tuple(word for word in fixed if word is not ...), more, shown)
