"""The built-in policy for git. It defines which invocations run no program named in the repository's configuration."""

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
    # In a partial clone, git fetches missing objects with a program or from a URL that the repository chooses. This
    # variable takes precedence over `protocol.*.allow`, which the repository can set for any protocol.
    "GIT_ALLOW_PROTOCOL=none",
    "git",
    "--no-pager",  # core.pager, pager.*
    "-c",
    "core.fsmonitor=false",  # runs each time the index is read, even in `git log -p`
    "-c",
    "core.hooksPath=/dev/null",  # a precaution: in git 2.39, reading history runs no hooks
    "-c",
    "log.showSignature=false",  # gpg.program
    "-c",
    "format.pretty=medium",  # a format with %G also runs gpg.program
)
"""Options on the command line take precedence over the configuration of the repository."""

_SUFFIX: Final = ("--no-ext-diff", "--no-textconv", "--submodule=short")
"""The repository chooses the names of diff drivers, so no setting can disable them all. Within a submodule, git applies
the submodule's configuration without the options on the command line."""

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
"""The required suffix and the allowed options of each subcommand. All of them read objects, never files in the working
tree: to compare those, git runs the ``filter`` programs of the repository, and no option disables them."""


def git_command(subcommand: str, *arguments: str) -> str:
    """Return the command line of a git command in the form that :func:`allow_git` accepts, for the agent's instructions.

    Args:
        subcommand: A subcommand that :func:`allow_git` supports.
        arguments: Arguments of the subcommand.

    Raises:
        ValueError: The subcommand is not supported.
    """
    import shlex

    suffix, _ = _known(subcommand)
    return shlex.join([*PREFIX, subcommand, *suffix, *arguments])


def allow_git(
    *subcommands: str, cwd_below: str | os.PathLike[str] | None = None, name: str = "allow_git"
) -> Policy:
    """Create a policy that accepts git commands that read history, and abstains from everything else.

    An agent that can write to a repository can name programs in its configuration. An ordinary ``git status`` or
    ``git log`` runs those programs, outside the sandbox once the command is accepted. This policy therefore accepts only
    the form that :func:`git_command` returns, which disables them, followed by options that only read, revisions and
    paths. Tell the agent to use this form::

        line = git_command("log")
        thread = await codex.thread_start(developer_instructions=f"Outside the sandbox, run `{line} …` instead of `git log`.")

    The policy abstains from ``status``, ``diff``, ``blame`` and other subcommands that read the working tree: they run
    the filters named in the repository's configuration, and git has no option that disables filters. The agent can run
    these subcommands in its sandbox without approval.

    Limits: the shell looks up ``env`` and ``git`` on its ``PATH``, and git trusts the user's and the system's
    configuration. The repository can read objects of other repositories on the machine through
    ``objects/info/alternates``. Verified with git 2.39.

    Args:
        subcommands: One or more of ``log``, ``show``, ``diff-tree``, ``ls-tree`` and ``rev-parse``.
        cwd_below: As in :func:`allow_commands`.
        name: The policy's name in audit records.

    Raises:
        ValueError: A subcommand is not supported, none is given, or ``cwd_below`` begins with ``~`` and the home
            directory is unknown.
        OSError: As in :func:`allow_commands`.
    """
    if not subcommands:
        raise ValueError(f"allow_git needs at least one subcommand of: {', '.join(_SUBCOMMANDS)}")
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
            f"git {subcommand} is not supported, because it may run programs named in the repository's configuration; "
            f"supported are {', '.join(_SUBCOMMANDS)}. The agent can run other subcommands in its sandbox without approval."
        ) from None
