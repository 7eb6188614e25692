"""The ready-made policy for git: owns which invocations run no program that the repository names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import trio

from trio_codex.policies._commands import argv_of
from trio_codex.policies._decisions import Abstain, Accept
from trio_codex.policies._paths import Roots
from trio_codex.policies._policy import Policy

if TYPE_CHECKING:
    import os

    from trio_codex.policies._requests import CommandRequest

PREFIX: Final = (
    "env",
    # Git fetches missing objects of a partial clone, by a program or a URL of the repository's choice. This variable
    # outranks `protocol.*.allow`, which the repository can set for protocols that nobody here has heard of.
    "GIT_ALLOW_PROTOCOL=none",
    "git",
    "--no-pager",  # core.pager, pager.*
    "-c",
    "core.fsmonitor=false",  # runs whenever the index is read, even by `git log -p`
    "-c",
    "core.hooksPath=/dev/null",  # reading history runs no hooks in git 2.39, nor an external diff that nobody asked for
    "-c",
    "log.showSignature=false",  # gpg.program
    "-c",
    "format.pretty=medium",  # a format with %G runs gpg.program, too
)
"""What is on the command line outranks the configuration of the repository."""

_SUFFIX: Final = ("--no-ext-diff", "--no-textconv", "--submodule=short")
"""Diff drivers have names of the repository's choice, so no setting reaches them. Within a submodule, git reads the
configuration of the submodule without what is on the command line."""

_DIFF: Final = r"--|-p|--patch|-r|-U\d+|--stat|--name-only|--name-status"
_LOG: Final = (
    rf"{_DIFF}|-s|--no-patch|-n|-\d+|--max-count=\d+|--oneline|--graph|--all|--reverse|--first-parent|--no-merges|--follow"
    r"|--format=(?:oneline|short|medium|full|fuller|reference|raw)|--(?:since|until|author|grep)=.*"
)

_SUBCOMMANDS: Final[dict[str, tuple[tuple[str, ...], re.Pattern[str]]]] = {
    "log": (_SUFFIX, re.compile(_LOG, re.DOTALL)),
    "show": (_SUFFIX, re.compile(_LOG, re.DOTALL)),
    "diff-tree": (_SUFFIX, re.compile(_DIFF)),
    "ls-tree": ((), re.compile("--|-r|-t|-l|--name-only")),
    "rev-parse": ((), re.compile("--|--verify|--short|--abbrev-ref|--show-toplevel")),
}
"""What is written behind each, and the options that it may have. All of them read objects and never the files of the working
tree: to compare those, git runs the ``filter`` programs of the repository, and nothing switches them off."""


def git_command(subcommand: str, *arguments: str) -> str:
    """Return the command line of a git command as :func:`allow_git` accepts it, to show an agent how to write it.

    Args:
        subcommand: One of those that :func:`allow_git` knows.
        arguments: Its arguments.

    Raises:
        ValueError: It is none of them.
    """
    import shlex

    suffix, _ = _known(subcommand)
    return shlex.join([*PREFIX, subcommand, *suffix, *arguments])


def allow_git(
    *subcommands: str, cwd_below: str | os.PathLike[str] | None = None, name: str = "allow_git"
) -> Policy:
    """Create a policy that accepts git commands that read history, and abstains from everything else.

    A repository that an agent can write to names programs in its configuration, and plain ``git status`` or ``git log`` runs
    them, outside the sandbox once it is accepted. So a command is accepted only in the form of :func:`git_command`, which
    switches them off, followed by options that are known to read only, and by revisions and paths. Show the agent the form::

        line = git_command("log")
        thread = await codex.thread_start(developer_instructions=f"Outside the sandbox, run `{line} …`, in place of `git log`.")

    ``status``, ``diff``, ``blame`` and whatever else reads the working tree are refused: they run the filters that the
    repository names, and git cannot be told not to. In its sandbox the agent runs them without asking.

    Limits: it finds ``env`` and ``git`` on the ``PATH`` of the shell, and trusts the configuration of the user and the system.
    Objects may come from other repositories on the machine, by ``objects/info/alternates``. Verified with git 2.39.

    Args:
        subcommands: Some of ``log``, ``show``, ``diff-tree``, ``ls-tree`` and ``rev-parse``.
        cwd_below: As in :func:`allow_commands`.
        name: By which the audit calls it.

    Raises:
        ValueError: A subcommand is none of them, or none is given; or as in :func:`allow_commands`.
        OSError: As in :func:`allow_commands`.
    """
    if not subcommands:
        raise ValueError(f"name the git commands to accept: {', '.join(_SUBCOMMANDS)}")
    known = {subcommand: _known(subcommand) for subcommand in subcommands}
    directory = None if cwd_below is None else Roots([cwd_below])

    async def allow_git(request: CommandRequest) -> Accept | Abstain:
        await trio.lowlevel.checkpoint()
        argv = argv_of(request) or ()
        subcommand = argv[len(PREFIX)] if len(argv) > len(PREFIX) else ""
        if subcommand not in known or (directory is not None and not directory.hold(request.cwd)):
            return Abstain()
        suffix, options = known[subcommand]
        start = (*PREFIX, subcommand, *suffix)
        if argv[: len(start)] != start or any(
            argument.startswith("-") and not options.fullmatch(argument) for argument in argv[len(start) :]
        ):
            return Abstain()
        return Accept(rule=f"{name}: {subcommand}")

    return Policy(name=name, command=allow_git)


def _known(subcommand: str) -> tuple[tuple[str, ...], re.Pattern[str]]:
    try:
        return _SUBCOMMANDS[subcommand]
    except KeyError:
        raise ValueError(
            f"git {subcommand} may run programs that the repository names; allow_git knows {', '.join(_SUBCOMMANDS)}. "
            "What else reads, the agent can run in its sandbox, without asking."
        ) from None
