"""``trio-codex chat``: an interactive session in which the user can steer and interrupt turns, and switch threads.

Ctrl-C cancels the current step: a turn, a request, or reading a line. Each step is a cancel scope. Leaving the scope of
a turn interrupts it on the server, so nothing else is needed.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack

import trio
from rich.text import Text

from trio_codex import TurnStatus, WaitingOn
from trio_codex.cli._ask import Asker
from trio_codex.cli._attach import (
    Attachment,
    Offline,
    directory_for,
    open_client,
    require_login,
    without_waiting,
)
from trio_codex.cli._chat_commands import HELP, command_of, show_help, show_models, show_status
from trio_codex.cli._chat_progress import ChatProgress
from trio_codex.cli._chat_screen import ChatScreen, can_be_typed_on
from trio_codex.cli._render import Screen, duration
from trio_codex.cli._run import Notes, choose_policy
from trio_codex.cli._startup import INTERRUPTED
from trio_codex.cli._terminal import InputEndedError, StdinLines, find_terminal
from trio_codex.cli._text import CommandFailed, explain, one_line, printable, sentence
from trio_codex.cli._threads import first, show_items, table
from trio_codex.errors import CodexError, ConnectionBroken, ConnectionClosed, RpcError, TurnFailed, TurnLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container

    from trio_codex import Codex, Thread, Turn
    from trio_codex.cli._attach import AnySource

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CHOICES: Final = 15
"""How many threads to offer in a list."""

WAITING: Final = {
    WaitingOn.model: "waiting for the model",
    WaitingOn.tool: "a tool is running",
    WaitingOn.approval: "waiting for an answer",
    WaitingOn.unseen_approval: "waiting for an approval that was requested elsewhere",
}


async def converse(
    *,
    source: AnySource,
    model: str | None,
    cwd: str | None,
    sandbox: str | None,
    approve: str | None,
    resume: str | None,
) -> int:
    """Chat until the user leaves or stdin ends; return the exit status.

    Raises:
        CommandFailed: The connection was lost, Ctrl-C was pressed without a terminal, or the server is not logged in.
        CodexError: The server failed to start, or there is no such thread.
    """
    with contextlib.ExitStack() as stack:
        screen = ChatScreen() if can_be_typed_on() else Screen()
        notes = Notes(screen)
        logging.getLogger("trio_codex").addHandler(notes)
        stack.callback(logging.getLogger("trio_codex").removeHandler, notes)
        directory = directory_for(source, cwd)
        asker = None
        if approve in (None, "ask"):
            terminal = sys.stdin.fileno() if isinstance(screen, ChatScreen) else find_terminal()
            asker = None if terminal is None else Asker(screen, terminal, directory)
        approval_policy, policy = choose_policy(screen, approve, asker)
        options: dict[str, Any] = {
            "approval_policy": approval_policy,
            "approvals_reviewer": "user",
            "sandbox": sandbox,
        }
        if not isinstance(screen, ChatScreen):
            source = without_waiting(source)
        async with open_client(source, policy=policy) as codex:
            if isinstance(screen, ChatScreen):
                stack.enter_context(screen.opened())
            chat = Chat(codex, screen, options, directory, () if asker is None else asker.diffs_seen, source)
            try:
                return await chat.run(resume, model=model, cwd=cwd)
            finally:
                # The server may take a while to exit; the terminal is not needed for that.
                stack.close()


class Chat:
    """One chat.

    Args:
        codex: The client.
        screen: The screen; if it accepts input, typing on it can steer a turn.
        options: Options for every thread that is opened.
        cwd: The working directory of new threads; empty for the server's own.
        diffs_seen: The items whose changes were shown with a question.
        source: Where the client comes from.
    """

    def __init__(
        self,
        codex: Codex,
        screen: Screen,
        options: dict[str, Any],
        cwd: str,
        diffs_seen: Container[str],
        source: AnySource,
    ) -> None:
        self._codex = codex
        self._screen = screen
        self._typed = screen if isinstance(screen, ChatScreen) else None
        self._input = self._typed or StdinLines(screen)
        self._options = options
        self._cwd = cwd
        self._diffs_seen = diffs_seen
        self._source = source
        self._step_scope = trio.CancelScope()
        self._lost: CodexError | None = None
        self._unsent: deque[str] = deque()
        self._is_leaving = False
        self._was_ctrl_c = False
        self._failures = 0
        self._thread: Thread | None = None
        self._turn: Turn | None = None
        self._began = 0.0
        self._is_stored = False
        self._model: str | None = None
        self._chosen_model: str | None = None

    async def run(self, resume: str | None, *, model: str | None, cwd: str | None) -> int:
        """Run the chat; return the exit status.

        Args:
            resume: A thread to resume, instead of starting a new one.
            model: The initial model.
            cwd: The working directory, if one was chosen.

        Raises:
            CommandFailed: The connection was lost, or Ctrl-C was pressed without a terminal.
            CodexError: There is no such thread.
        """
        failure: Exception | None = None
        heeded = [signal.SIGINT]
        if self._typed is not None and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            heeded.append(signal.SIGTSTP)
        with trio.open_signal_receiver(*heeded) as signals:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._heed_keys, signals)
                self._nursery.start_soon(self._heed_the_end)
                if self._typed is not None:
                    self._typed.status = self._waiting
                    self._nursery.start_soon(self._typed.redraw)
                try:
                    await self._converse(resume, model, cwd)
                except (CodexError, CommandFailed) as exc:
                    # Raised below, outside the nursery, which would wrap it in a group.
                    failure = exc
                self._nursery.cancel_scope.cancel()
        if failure is not None:
            raise self._ended_by(failure)
        return 1 if self._failures and self._typed is None else 0

    # -- background tasks --------------------------------------------------------------------------------------

    async def _heed_keys(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGINT:
                self._step_scope.cancel()
            elif self._typed is not None:
                self._typed.suspend()

    async def _heed_the_end(self) -> None:
        self._lost = await self._codex.wait_closed()
        self._step_scope.cancel()

    async def _step(self, async_fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T | None:
        """Run a step that Ctrl-C and the end of the connection cancel; return ``None`` if it was cancelled."""
        if self._lost is not None:  # the connection was lost between steps, when there was nothing to cancel
            raise self._lost
        result = None
        with trio.CancelScope() as self._step_scope:
            result = await async_fn(*args)
        if self._lost is not None:
            raise self._lost
        return result

    def _ended_by(self, error: Exception) -> Exception:
        """Return the error to raise when the chat ends, with a hint for resuming the thread."""
        if not isinstance(error, CodexError):
            return error
        command = self._command_to_continue()
        if command is None:
            return error
        return CommandFailed(sentence(explain(self._lost or error)[0], f"To continue: {command}"))

    def _command_to_continue(self) -> str | None:
        """Return the command that continues the current thread; ``None`` if it ends with the chat."""
        if self._thread is None or not self._is_stored or isinstance(self._source, Offline):
            return None
        attached = self._source.options if isinstance(self._source, Attachment) else ""
        return f"trio-codex chat{attached} --resume {self._thread.id}"

    def _waiting(self) -> str | None:
        if self._turn is None:
            return None
        seconds = int(trio.current_time() - self._began)
        since = f"{seconds} s" if seconds < 60 else duration(seconds)
        if self._step_scope.cancel_called:
            return f"interrupting · {since}"
        waiting_on = self._turn.waiting_on
        what = "ending" if waiting_on is None else WAITING[waiting_on]
        return f"{what} · {since} · type to steer, Ctrl-C interrupts"

    # -- the conversation --------------------------------------------------------------------------------------

    async def _converse(self, resume: str | None, model: str | None, cwd: str | None) -> None:
        where = {} if cwd is None else {"cwd": cwd}
        if resume is None:
            opened = await self._step(self._start, model)
        else:
            opened = await self._step(self._resume, resume, {"model": model, **where})
        if opened is None:
            raise CommandFailed("interrupted", INTERRUPTED)
        await require_login(self._codex, self._source)
        self._is_stored = resume is not None
        left: str | None = None
        while opened is not None:
            # After a fork, the last message is already on the screen.
            is_resumed = self._is_stored and (left is None or opened.info.forked_from_id != left)
            left = opened.id
            self._thread = opened
            self._model, self._chosen_model = opened.info.model, None
            async with opened as thread:
                await self._greet(thread, is_resumed=is_resumed)
                opened = await self._talk(thread)
        command = self._command_to_continue()
        if command is not None and self._typed is not None:
            self._screen.note(f"To continue later: {command}", "dim")

    async def _start(self, model: str | None) -> Thread:
        return await self._codex.thread_start(cwd=self._cwd or None, model=model, **self._options)

    async def _resume(self, thread_id: str, more: dict[str, Any] | None = None) -> Thread:
        options: dict[str, Any] = {**self._options, **(more or {})}
        return await self._codex.thread_resume(thread_id, **options)

    async def _greet(self, thread: Thread, *, is_resumed: bool) -> None:
        await trio.lowlevel.checkpoint()
        facts = [f"codex {self._codex.metadata.server_version or '?'}", self._model, f"thread {thread.id}"]
        self._screen.note(" · ".join(one_line(fact) for fact in facts if fact), "dim")
        if is_resumed:
            with contextlib.suppress(
                RpcError
            ):  # the server refuses to list the turns of a thread without any
                async for turn in thread.turns(page_size=1, items_view="full"):
                    self._screen.note("last turn:", "dim")
                    show_items(self._screen, turn.items, self._cwd or thread.info.cwd)
                    break
        elif self._typed is not None and not self._is_stored:
            self._screen.note("/help lists the commands; Ctrl-D quits", "dim")

    async def _talk(self, thread: Thread) -> Thread | None:
        """Handle lines until the user leaves or opens another thread; return that thread."""
        while (line := await self._next_line()) is not None:
            if (command := command_of(line)) is None:
                await self._say(thread, line)
                if self._is_leaving:
                    return None
                continue
            name, argument = command
            if name in ("quit", "exit"):
                return None
            try:
                opened = await self._step(self._obey, thread, name, argument)
            except RpcError as exc:
                self._complain(exc)
            else:
                if opened is not None:
                    return opened
        return None

    async def _next_line(self) -> str | None:
        await trio.lowlevel.checkpoint()
        while not self._unsent:
            try:
                line = await self._step(self._input.line)
            except InputEndedError:
                return None
            if line is None:
                if self._leaves_by_ctrl_c():
                    return None
            elif line.strip():
                self._was_ctrl_c = False
                self._unsent.append(line)
        line = self._unsent.popleft()
        if self._typed is not None:
            self._typed.say(line)
        return line

    def _leaves_by_ctrl_c(self) -> bool:
        """Handle Ctrl-C at the prompt: it clears the line; a second one leaves."""
        if self._typed is None:
            raise CommandFailed("interrupted", INTERRUPTED)
        if self._typed.editor.text:
            self._typed.editor.clear()
            self._was_ctrl_c = False
        elif self._was_ctrl_c:
            return True
        else:
            self._was_ctrl_c = True
            self._screen.note("press Ctrl-C again or Ctrl-D to quit", "dim")
        return False

    def _complain(self, error: CodexError) -> None:
        self._failures += 1
        self._screen.note(sentence(*explain(error)), "red", mark="✗ ")

    # -- a turn ------------------------------------------------------------------------------------------------

    async def _say(self, thread: Thread, text: str) -> None:
        await trio.lowlevel.checkpoint()
        progress = ChatProgress(self._screen, self._cwd or thread.info.cwd, thread, self._diffs_seen)
        steers = _Steers()
        self._began = trio.current_time()
        turn: Turn | None = None
        if self._typed is not None:
            self._typed.underway = progress.underway
        try:
            with trio.CancelScope() as self._step_scope:
                async with thread.turn(text, model=self._chosen_model) as turn:
                    self._turn = turn
                    self._is_stored = True
                    if self._typed is not None:
                        self._nursery.start_soon(self._steer, self._typed, turn, steers)
                    async for event in turn:
                        await self._screen.free()
                        progress.show(event)
        except CodexError as exc:
            if isinstance(exc, TurnLost) and exc.result is not None:
                progress.finish(exc.result)
            if isinstance(exc, TurnLost | ConnectionBroken | ConnectionClosed):
                raise
            self._complain(exc)
            return
        finally:
            self._turn = None
            steers.scope.cancel()
        if self._lost is not None:
            raise self._lost
        self._after(turn, progress, steers)

    def _after(self, turn: Turn | None, progress: ChatProgress, steers: _Steers) -> None:
        interrupted = self._step_scope.cancelled_caught
        if turn is not None:
            progress.finish(turn.result)
            if turn.result.status == TurnStatus.failed:
                self._complain(TurnFailed(turn.result))
            interrupted = interrupted or turn.result.status == TurnStatus.interrupted
        missed = [text for text in steers.texts if text not in progress.messages]
        if interrupted:
            self._was_ctrl_c = self._step_scope.cancelled_caught
            took = duration(trio.current_time() - self._began)
            self._screen.note(f"interrupted after {took}", "yellow")
            for text in missed:
                self._screen.note(f"not delivered before the turn ended: {one_line(text, 200)}", "yellow")
            if self._typed is None and not self._is_leaving:
                raise CommandFailed("interrupted", INTERRUPTED)
        else:
            # The turn ended before these lines reached it.
            self._unsent.extend(missed)

    async def _steer(self, screen: ChatScreen, turn: Turn, steers: _Steers) -> None:
        """Steer a turn with typed lines until the turn ends."""
        with steers.scope:
            while True:
                await trio.lowlevel.checkpoint()
                try:
                    line = await screen.line()
                except InputEndedError:
                    line = "/quit"
                if not line.strip():
                    continue
                screen.say(line)
                command = command_of(line)
                if command is None:
                    steers.texts.append(line)
                    try:
                        await turn.steer(line)
                        screen.note("sent to the running turn", "dim", mark="↪ ")
                    except RpcError as exc:
                        # If the turn has ended in the meantime, the line goes to the next turn.
                        if turn.waiting_on is not None:
                            steers.texts.remove(line)
                            self._complain(exc)
                    except CodexError:
                        return  # the task that iterates over the turn gets this error, too
                elif command[0] in ("quit", "exit"):
                    self._is_leaving = True
                    self._step_scope.cancel()
                elif command[0] == "help":
                    show_help(self._screen)
                elif command[0] == "status":
                    assert self._thread is not None
                    # No checkpoint here: at one, the end of the turn would cancel this task and drop the command.
                    self._show_status(self._thread)
                else:
                    screen.note(
                        "not available while a turn is running: wait for it to end, or press Ctrl-C", "yellow"
                    )

    # -- commands ----------------------------------------------------------------------------------------------

    def _show_status(self, thread: Thread) -> None:
        show_status(self._screen, self._codex, thread, self._turn, self._chosen_model or self._model)

    async def _obey(self, thread: Thread, name: str, argument: str) -> Thread | None:
        """Run a command; return the thread that it opened, if any."""
        await trio.lowlevel.checkpoint()
        match name:
            case "help":
                show_help(self._screen)
            case "status":
                self._show_status(thread)
            case "model" if argument:
                self._chosen_model = argument
                self._screen.note(f"later turns will use {printable(argument)}", "dim")
            case "model":
                await show_models(self._screen, self._codex, self._chosen_model or self._model)
            case "fork":
                forked = await thread.fork(model=self._chosen_model, **self._options)
                self._screen.note(f"forked from {thread.id}", "dim")
                return forked
            case "resume":
                return await self._resume_another(thread, argument)
            case _:
                known = ", ".join(HELP)
                self._screen.note(f"unknown command /{name}; available: {known}", "yellow")
        return None

    async def _resume_another(self, thread: Thread, thread_id: str) -> Thread | None:
        if not thread_id:
            thread_id = await self._choose()
        if thread_id == thread.id:
            self._screen.note("this thread is already open", "dim")
        elif thread_id:
            resumed = await self._resume(thread_id)
            self._is_stored = True
            return resumed
        await trio.lowlevel.checkpoint()
        return None

    async def _choose(self) -> str:
        """Let the user choose a thread; return its id, or an empty string."""
        threads = await first(self._codex.threads(page_size=CHOICES), CHOICES)
        if not threads:
            self._screen.note("there are no threads yet", "dim")
            return ""
        self._screen.display(table(threads, self._screen.width, numbered=self._typed is not None))
        if self._typed is None:
            self._screen.note("there is no terminal to choose on: use /resume ID", "yellow")
            return ""
        while True:
            line = await self._typed.line(Text("number, or Enter to stay » ", "bold"))
            if not line.strip() or line == "q":
                return ""
            if line.strip().isdecimal() and 1 <= int(line) <= len(threads):
                return threads[int(line) - 1].id
            self._screen.note(f"enter a number from 1 to {len(threads)}", "yellow")


class _Steers:
    """Lines typed during one turn.

    Attributes:
        scope: The scope of the steering task, cancelled when the turn ends.
        texts: The texts that the turn was steered with.
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.texts: list[str] = []
