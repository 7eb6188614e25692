"""Show a request before the user decides on it.

All text from the agent, the server or an MCP server goes through :func:`printable` with ``strict=True`` and stays in
its row: it must not hide the question, imitate it, or push it off the screen.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from rich.text import Text

from trio_codex import wire
from trio_codex.cli._render import DIFF_STYLES, diff_lines, relative, tally, verb
from trio_codex.cli._text import one_line, printable, script_of
from trio_codex.policies import (
    CommandRequest,
    FileChangeRequest,
    FormElicitation,
    McpToolApproval,
    PermissionsRequest,
    UrlElicitation,
    UserInputRequest,
    VerificationElicitation,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_codex.policies import ElicitationRequest

JSON_LIMIT = 600
"""Maximum number of characters of a tool's arguments that are shown on a line."""

PROSE_LIMIT = 600
"""Maximum number of characters of a justification. It then takes only a few rows, so that the question stays visible."""


def command_question(request: CommandRequest) -> Iterator[Text]:
    """Show a command."""
    if request.network is not None:
        yield headline(f"Allow a command to reach {request.network.host} ({request.network.protocol})?")
    elif request.input_to_terminal:
        kind = getattr(request.params, "kind", "")
        yield headline(f"Allow this input to a running command ({kind})?")
    elif isinstance(request.params, wire.CommandExecutionRequestApprovalParams):
        yield headline("Run this command outside the sandbox?")
    else:
        yield headline("Run this command?")
    if request.additional_permissions is not None:
        yield field("asks for", json.dumps(wire.encode(request.additional_permissions)))
    script = script_of(request.command) if request.command else "(the server did not report the command)"
    for line in script.split("\n"):
        yield _bold(line)
    if request.cwd:
        yield field("in", request.cwd)
    if request.reason:
        yield field("reason:", one_line(request.reason, PROSE_LIMIT))
    if request.proposed_exec_policy:
        yield field("[a] always allow commands starting with", shlex.join(request.proposed_exec_policy))


def file_change_question(request: FileChangeRequest, cwd: str) -> Iterator[Text]:
    """Show file changes."""
    yield headline(
        "Make these changes?" if request.changes else "Change files? (The server did not report which.)"
    )
    for change in request.changes:
        yield Text.assemble("  ", verb(change), " ", (relative(change.path, cwd), "bold"), *tally(change))
        if isinstance(change.kind, wire.UpdatePatchChangeKind) and change.kind.move_path:
            yield field("to", relative(change.kind.move_path, cwd))
        for line in diff_lines(change):
            yield Text(f"    {printable(line, strict=True)}", DIFF_STYLES.get(line[:1], "dim"))
    if request.grant_root:
        yield field("also allows writing, for the session, below", request.grant_root)
    if request.reason:
        yield field("reason:", one_line(request.reason, PROSE_LIMIT))


def permissions_question(request: PermissionsRequest) -> Iterator[Text]:
    """Show the requested permissions."""
    yield headline("Grant these permissions?")
    for line in wanted(request):
        yield _bold(line)
    if request.reason:
        yield field("reason:", one_line(request.reason, PROSE_LIMIT))


def wanted(request: PermissionsRequest) -> Iterator[str]:
    """Return the requested permissions in words, without duplicates."""
    # The server may list a path in both the old and the new form, and the grant covers both.
    yield from dict.fromkeys(_wanted(request))


def _wanted(request: PermissionsRequest) -> Iterator[str]:
    files, network = request.permissions.file_system, request.permissions.network
    if network is not None and network.enabled:
        yield "reach the network"
    if files is None:
        return
    yield from (f"read {path}" for path in files.read or ())
    yield from (f"write {path}" for path in files.write or ())
    for entry in files.entries or ():
        access = "no access to" if entry.access == wire.FileSystemAccessMode.deny else entry.access
        match entry.path:
            case wire.PathFileSystemPath(path=path):
                yield f"{access} {path}"
            case wire.GlobPatternFileSystemPath(pattern=pattern):
                yield f"{access} paths matching {pattern}"
            case other:
                yield f"{access} {json.dumps(wire.encode(other))}"


def user_input_question(request: UserInputRequest) -> Iterator[Text]:
    """Show that the agent has questions; each one is shown when it is asked."""
    count = len(request.questions)
    yield headline("The agent asks:" if count == 1 else f"The agent has {count} questions:")


def elicitation_question(request: ElicitationRequest) -> Iterator[Text]:
    """Show the request of an MCP server."""
    match request:
        case McpToolApproval():
            yield headline(
                f"Allow the agent to call {request.tool_title or 'a tool'} of {request.server_name}?"
            )
            yield _bold(one_line(request.message, PROSE_LIMIT))
            if request.tool_description:
                yield field("described as", one_line(request.tool_description, JSON_LIMIT))
            for name, value in request.arguments.items():
                yield field(f"{_row(name)} =", one_line(json.dumps(value), JSON_LIMIT))
        case UrlElicitation():
            yield headline(f"{request.server_name} asks you to visit a page. Do you agree?")
            yield _bold(request.url)
            yield field("says", one_line(request.message, PROSE_LIMIT))
        case FormElicitation():
            yield headline(f"{request.server_name} asks you to fill in a form. Do you agree?")
            yield field("says", one_line(request.message, PROSE_LIMIT))
        case VerificationElicitation():
            yield headline(f"{request.server_name} asks for proof that you are present: {request.title}")


def headline(text: str) -> Text:
    """Return the first line of a question."""
    return Text.assemble(("? ", "bold magenta"), (_row(text), "bold"))


def field(name: str, value: str) -> Text:
    """Return a line with a labeled fact."""
    return Text.assemble((f"  {name} ", "dim"), _row(value.strip()))


def _bold(text: str) -> Text:
    return Text(f"    {_row(text)}", "bold")


def _row(text: str) -> str:
    return printable(text, strict=True).replace("\n", "\\x0a")
