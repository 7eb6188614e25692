"""Who decides in ``run``: the policy that asks on the terminal, and the one that declines where there is none.

A question is a task like any other: it waits for the terminal without a thread, and when the server withdraws the
request, or the turn ends, the question is gone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final

import trio
from rich.text import Text

from trio_codex import policies, wire
from trio_codex.cli._render import DIFF_STYLES, Screen, diff_lines, relative, tally, verb
from trio_codex.cli._text import one_line, printable, script_of
from trio_codex.policies import CommandRequest, Decision, FileChangeRequest, Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWERS: Final[dict[str, tuple[Decision, str]]] = {
    "y": (policies.accept(), "accepted"),
    "s": (policies.accept("session"), "accepted for the session"),
    "n": (policies.decline("declined on the terminal"), "declined"),
    "q": (policies.cancel(), "declined; stopping the turn"),
}
WORDS: Final = {"yes": "y", "once": "y", "session": "s", "no": "n", "stop": "q", "quit": "q"}


class Asker:
    """Asks somebody at the terminal, one question at a time.

    Args:
        screen: Where to ask.
        terminal: The descriptor to read answers from.
        cwd: What paths are shown relative to.
    """

    def __init__(self, screen: Screen, terminal: int, cwd: str) -> None:
        self._screen = screen
        self._terminal = terminal
        self._cwd = cwd

    @property
    def policy(self) -> Policy:
        """The policy that asks."""
        return Policy(command=self._command, file_change=self._file_change)

    async def _command(self, request: CommandRequest) -> Decision:
        return await self._ask(list(_command_question(request)))

    async def _file_change(self, request: FileChangeRequest) -> Decision:
        return await self._ask(list(_file_change_question(request, self._cwd)))

    # A Ctrl-C is for the main task, whose turn it interrupts; here it would only be the error of a callback.
    @trio.lowlevel.enable_ki_protection
    async def _ask(self, question: list[Text]) -> Decision:
        # What led to the question is on its way to the screen: let it come first.
        await trio.lowlevel.checkpoint()
        async with self._screen.lock:
            for line in question:
                self._screen.note(line)
            try:
                return await self._answer()
            except trio.Cancelled:
                self._screen.note("")
                self._screen.note("  no longer asked", "yellow")
                raise

    async def _answer(self) -> Decision:
        _drop_typed_ahead(self._terminal)
        while True:
            self._screen.prompt(_CHOICES)
            line = await read_line(self._terminal)
            if line is None:
                self._screen.note("")
                self._screen.note("  declined: there is nobody to answer", "yellow")
                return policies.decline("nobody answered")
            word = line.strip().lower()
            chosen = ANSWERS.get(WORDS.get(word, word))
            if chosen is not None:
                decision, said = chosen
                self._screen.note(f"  {said}", "dim")
                return decision


def declining(screen: Screen) -> Policy:
    """Make the policy for where nobody can be asked."""

    def decline(what: str) -> Decision:
        screen.note(f"declined, as there is no terminal to ask on: {what}", "yellow")
        return policies.decline("there is no terminal to ask on")

    async def command(request: CommandRequest) -> Decision:
        await trio.lowlevel.checkpoint()
        return decline(one_line(script_of(request.command or "an unnamed command"), 200))

    async def file_change(request: FileChangeRequest) -> Decision:
        await trio.lowlevel.checkpoint()
        return decline(one_line("changes of " + ", ".join(change.path for change in request.changes), 200))

    return Policy(command=command, file_change=file_change)


def find_terminal() -> int | None:
    """Find where answers can be read: stdin, or the terminal behind it if the prompt came through a pipe.

    There is none if the questions would not be seen.
    """
    if not sys.stderr.isatty():
        return None
    if sys.stdin.isatty():
        return sys.stdin.fileno()
    try:
        return os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return None


async def read_line(terminal: int) -> str | None:
    """Read a line that somebody types, without a thread; ``None`` at the end of input. Cancel-safe between lines."""
    line = bytearray()
    while True:
        await trio.lowlevel.wait_readable(terminal)
        try:
            chunk = os.read(terminal, 4096)
        except OSError:
            return None
        line += chunk
        if not chunk:
            return None
        if chunk.endswith(b"\n"):
            return line.decode("utf-8", "replace")


def _drop_typed_ahead(terminal: int) -> None:
    """Forget what was typed before the question could be read: it is no answer to it."""
    try:
        import termios
    except ImportError:  # not on Windows
        return
    with contextlib.suppress(OSError, termios.error):
        termios.tcflush(terminal, termios.TCIFLUSH)


_CHOICES: Final = Text.assemble(
    *(("  ", ""), ("[y]", "bold"), ("es, once  ", ""), ("[s]", "bold"), (" yes, for the session  ", "")),
    *(("[n]", "bold"), ("o  ", ""), ("[q]", "bold"), (" no, stop the turn > ", "")),
)


def _command_question(request: CommandRequest) -> Iterator[Text]:
    params = request.params
    command = request.command
    if isinstance(params, wire.CommandExecutionRequestApprovalParams):
        network = params.network_approval_context
        if network is not None:
            yield _headline(f"Let a command reach {network.host} ({network.protocol})?")
        elif params.kind == wire.CommandExecutionApprovalKind.command:
            yield _headline("Run this command outside the sandbox?")
        else:
            yield _headline(f"Let this happen in a running command ({params.kind})?")
        if params.additional_permissions is not None:
            yield _field("asks for", str(wire.encode(params.additional_permissions)))
    else:
        yield _headline("Run this command?")
    for line in script_of(command).split("\n") if command else ["(the server does not say what)"]:
        yield Text(f"    {printable(line, strict=True)}", "bold")
    if request.cwd:
        yield _field("in", request.cwd)
    if request.reason:
        yield _field("because", request.reason)


def _file_change_question(request: FileChangeRequest, cwd: str) -> Iterator[Text]:
    yield _headline(
        "Make these changes?" if request.changes else "Change files? (The server does not say which.)"
    )
    for change in request.changes:
        yield Text.assemble("  ", verb(change), " ", (relative(change.path, cwd), "bold"), *tally(change))
        if isinstance(change.kind, wire.UpdatePatchChangeKind) and change.kind.move_path:
            yield _field("to", relative(change.kind.move_path, cwd))
        for line in diff_lines(change):
            yield Text(f"    {printable(line, strict=True)}", DIFF_STYLES.get(line[:1], "dim"))
    if request.grant_root:
        yield _field("and lets it write, for the session, below", request.grant_root)
    if request.reason:
        yield _field("because", request.reason)


def _headline(text: str) -> Text:
    return Text.assemble(("? ", "bold magenta"), (printable(text, strict=True), "bold"))


def _field(name: str, value: str) -> Text:
    return Text.assemble((f"  {name} ", "dim"), printable(value.strip(), strict=True))
