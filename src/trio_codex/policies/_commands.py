"""The built-in policy for commands, which matches their arguments against patterns. Shell syntax is parsed in ``_shell``."""

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
"""A command line, or a sequence of words. See :func:`allow_commands`."""


def allow_commands(
    *patterns: CommandPattern,
    cwd_below: str | os.PathLike[str] | None = None,
    trust_repositories: bool = False,
    name: str = "allow_commands",
) -> Policy:
    """Create a policy that accepts a command once if it matches one of the patterns, and otherwise abstains.

    A pattern matches whole arguments, never part of one. A string is split into words as a shell would split it. Each
    word matches an equal argument, except for two wildcards, which must not be quoted:

    - ``*`` matches exactly one argument that does not begin with ``-``;
    - ``...``, as the last word, matches any number of further arguments, including options.

    In a sequence of words, each string matches an equal argument, and the last word may be ``...`` (``Ellipsis``)::

        allow_commands("df -h", "stat *", "ls ...", ["grep", "-e", "*", ...])

    The first word is the program as the agent wrote it: ``df`` matches neither ``/tmp/df`` nor ``/usr/bin/df``.

    The server runs commands through a shell and reports them in that form: ``/bin/bash -lc 'df -h'``. The patterns are
    matched against the command inside, which must be a single simple command. A script with an operator, a redirection,
    an expansion, an assignment or a comment matches no pattern. Neither does a request to reach a host, to write to a
    running terminal, or for additional permissions.

    Limits: a pattern constrains only the arguments of a program, not its actions. ``find ...`` also allows
    ``find . -delete``; a pattern for ``env``, ``sudo``, ``xargs`` or ``bash`` allows whatever program they run. An
    accepted command runs outside the sandbox, and many programs run code from files that the agent can write:
    ``git status`` runs programs named in ``.git/config``, ``make`` runs the ``Makefile``, ``pytest`` runs
    ``conftest.py``. Accept only programs that do not read such files. For this reason a pattern for git accepts nothing
    and causes a warning; use :func:`allow_git` instead. The shell's startup files and ``PATH`` determine which program a
    name refers to.

    Args:
        patterns: The patterns, each a string or a sequence of words.
        cwd_below: Accept only commands whose working directory is this directory or below it. This path is resolved when
            the policy is created, and the working directory when the server sends the request; see :func:`allow_paths`.
        trust_repositories: Whether to honor patterns for git. Set this only if no agent can write to the repository or
            its configuration.
        name: The policy's name in audit records.

    Raises:
        ValueError: A pattern is not a simple command, or does not begin with the name of a program; or ``cwd_below``
            begins with ``~`` and the home directory is unknown.
        OSError: ``cwd_below`` contains a loop of symbolic links, or a directory that this process may not search.
    """
    read = tuple(map(_pattern, patterns))
    if not trust_repositories and any(pattern.program == "git" for pattern in read):
        warnings.warn(
            "allow_commands ignores patterns for git, because git runs programs named in the repository's configuration: "
            "use allow_git(), or pass trust_repositories=True if no agent can write to the repository",
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
    """Return the arguments of the command; ``None`` if the request asks for more than running it."""
    asks_for_more = (
        request.network is not None
        or request.input_to_terminal
        or request.additional_permissions is not None
        or bool(request.proposed_network_rules)
    )
    return None if request.command is None or asks_for_more else command_of(request.command)


@attrs.frozen
class _One:
    """Matches one argument that is not an option."""


_ONE: Final = _One()


@attrs.frozen
class _Pattern:
    """A pattern: the words to match, one for each argument, and whether ``more`` arguments may follow."""

    words: tuple[str | _One, ...]
    more: bool
    shown: str
    """The pattern as one line, for the audit."""

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
            raise ValueError(
                f"the pattern {given!r} is not a simple command: quote special characters, or pass a list of words"
            )
        wild: dict[str, _One | EllipsisType] = {"*": _ONE, "...": ...}
        words = [wild.get(word.bare, word.text) if word.bare == word.text else word.text for word in split]
    else:
        import shlex

        words = [*given]
        shown = " ".join(shlex.quote(word) if isinstance(word, str) else "..." for word in words)
    more = bool(words) and words[-1] is ...
    fixed = words[:-1] if more else words
    if not fixed or fixed[0] is _ONE or not fixed[0]:
        raise ValueError(f"the pattern {given!r} must begin with the name of a program")
    if any(word is ... for word in fixed):
        raise ValueError(f"the pattern {given!r} has `...` before its end: only the last word can be `...`")
    if any(isinstance(word, str) and "\0" in word for word in fixed):
        raise ValueError(f"the pattern {given!r} contains a NUL character, which no argument can contain")
    return _Pattern(tuple(word for word in fixed if word is not ...), more, shown)
