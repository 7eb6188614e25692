"""``trio-codex demo``: show and check the guarantees of trio-codex.

The server is real; only the model is a scripted mock. The demo ends at the first check that fails.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from rich.text import Text

from trio_codex import CodexConfig, Sandbox, TurnStatus, open_codex, policies
from trio_codex.cli._render import OutputConsole, duration
from trio_codex.cli._startup import missing_extra
from trio_codex.cli._text import CommandFailed, explain, printable, script_of, sentence
from trio_codex.errors import CodexError
from trio_codex.supervision._system import runs
from trio_codex.testing import MockModel, offline_home

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio_codex import Codex, Turn
    from trio_codex.policies import CommandRequest, Decision
    from trio_codex.testing import ModelRequest, OfflineHome

LIMIT_SECONDS: Final = 30.0
"""Timeout of the whole demo. It takes about 3 s."""

DROP_SECONDS: Final = 2.0
"""Timeout for the mock model to notice that its stream was dropped; this takes milliseconds."""

GRACE_SECONDS: Final = 5.0
"""Timeout for ending the cancelled turn on a busy machine; this usually takes 10 to 50 ms."""

PID_POLL_SECONDS: Final = 0.01

PATIENCE_SECONDS: Final = 0.5
"""How long the cancelled turn streams."""


class StepFailed(Exception):
    """A guarantee does not hold."""


class Stage:
    """Shows and checks the steps of the demo.

    Attributes:
        title: The current step.
    """

    def __init__(self) -> None:
        self.console = OutputConsole(highlight=False, markup=False, emoji=False)
        self.title = "starting the server"
        self._number = 0
        self._is_mid_line = False

    @contextmanager
    def step(self, title: str) -> Generator[None]:
        """Show a step's headline."""
        self.title = title
        self._number += 1
        self.console.print()
        self.console.print(Text.assemble((f"{self._number}  ", "bold blue"), (title, "bold")))
        yield
        self.end_line()

    def tell(self, who: str, what: str) -> None:
        """Show an action and who performs it."""
        self.end_line()
        self.console.print_after(Text(f"   {who:<9} ", "dim"), Text(printable(what)))

    def stream(self, piece: str) -> None:
        """Show a delta of the agent's message."""
        text = Text(printable(piece), "cyan")
        self.console.print(
            text if self._is_mid_line else Text("   agent     ", "dim") + text, end="", soft_wrap=True
        )
        self._is_mid_line = True

    def end_line(self) -> None:
        """Start a new line if the cursor is within one."""
        if self._is_mid_line:
            self._is_mid_line = False
            self.console.print()

    def check(self, holds: bool, promise: str, seconds: float | None = None) -> None:
        """Check a guarantee and show that it holds.

        Raises:
            StepFailed: It does not hold.
        """
        self.end_line()
        if not holds:
            self.console.print_after(Text("   ✗ ", "bold red"), Text(promise))
            raise StepFailed(f"the check failed: {promise}")
        took = "" if seconds is None else f" {duration(seconds)}"
        self.console.print_after(Text("   ✓ ", "green"), Text.assemble(promise, (took, "dim")))


async def show(*, codex_bin: str | None, start_timeout: float) -> int:
    """Run the demo and return the exit status.

    Raises:
        CommandFailed: A guarantee does not hold; the message names the step.
        StartError: The server failed to start.
    """
    if importlib.util.find_spec("hypercorn") is None:
        raise CommandFailed(missing_extra(ModuleNotFoundError(name="hypercorn")))
    stage = Stage()
    try:
        with trio.fail_after(LIMIT_SECONDS + start_timeout):
            await _perform(stage, codex_bin, start_timeout)
    except trio.TooSlowError:
        reason = f"it took longer than {LIMIT_SECONDS:g} s"
    except CodexError as exc:
        reason = sentence(*explain(exc))
    except BrokenPipeError:
        # The reader of the output has exited, which is no failure of the demo.
        raise
    except (StepFailed, AssertionError, OSError, RuntimeError, ValueError) as exc:
        reason = str(exc)
    else:
        return 0
    stage.end_line()
    raise CommandFailed(f"the demo failed at “{stage.title}”: {reason}")


async def _perform(stage: Stage, codex_bin: str | None, start_timeout: float) -> None:
    async with MockModel() as model:
        with offline_home(model) as home:
            config = CodexConfig(
                codex_bin=codex_bin,
                cwd=home.workspace,
                env=home.env,
                inherit_env=False,
                start_timeout=start_timeout,
                stop_grace=min(GRACE_SECONDS, start_timeout),
            )
            began = trio.current_time()
            async with open_codex(config) as codex:
                version, started = codex.metadata.server_version, trio.current_time() - began
                stage.console.print(Text.assemble(("trio-codex demo", "bold"), " — every ✓ was checked"))
                stage.tell(
                    "server", f"the real codex {version}, pid {codex.pid}; started in {duration(started)}"
                )
                stage.tell("model", "a scripted mock: no account, no network")
                await _streaming(stage, codex, model)
                await _approvals(stage, codex, model, home)
                await _steering(stage, codex, model)
                await _cancelling(stage, codex, model, home)
                closing = trio.current_time()
            _nothing_left(stage, codex.pid, home, trio.current_time() - closing)
        model.assert_all_used()
    took = duration(trio.current_time() - began)
    stage.console.print()
    stage.console.print(Text.assemble(("All checks passed", "bold green"), f", in {took}."))


async def _streaming(stage: Stage, codex: Codex, model: MockModel) -> None:
    text = ["A turn ", "is a scope: ", "what it ", "starts ", "ends ", "with it."]
    model.say(*text, delay=0.06)
    with stage.step("Text streams as the agent writes it"):
        thread = await codex.thread_start()
        pieces: list[str] = []
        began = first = trio.current_time()
        async with thread.turn("What is a turn?") as turn:
            async for piece in turn.text():
                first = trio.current_time() if not pieces else first
                pieces.append(piece)
                stage.stream(piece)
        ended = trio.current_time()
        stage.check(pieces == text, f"{len(text)} deltas arrived, the first after", first - began)
        stage.check(first < ended - 0.1, "it came before the end of the turn, which took", ended - began)
        stage.check(
            turn.result.status == TurnStatus.completed and turn.result.final_response == "".join(text),
            "the turn completed, and its result is the whole text",
        )


async def _approvals(stage: Stage, codex: Codex, model: MockModel, home: OfflineHome) -> None:
    asked: list[str | None] = []

    async def house_rules(request: CommandRequest) -> Decision:
        await trio.lowlevel.checkpoint()
        asked.append(request.command)
        allowed = "notes.txt" in (request.command or "")
        stage.tell("agent", f"may I run: {script_of(request.command or '')}")
        stage.tell("policy", "yes, once" if allowed else "no")
        return policies.accept() if allowed else policies.decline("not on the list of allowed commands")

    with stage.step("A policy decides what the agent may do"):
        thread = await codex.thread_start(
            policy=policies.Policy(command=house_rules),
            approval_policy="on-request",
            approvals_reviewer="user",
            sandbox=Sandbox.read_only,
        )
        for number, name in enumerate(("secrets.txt", "notes.txt"), 1):
            model.run_command(f"touch {name}", escalate="I want to write a file")
            model.say("All right.")
            result = await thread.run(f"Make {name}.")
            stage.check(
                len(asked) == number and result.status == TurnStatus.completed,
                "the policy was asked, and the turn completed",
            )
            exists = (home.workspace / name).exists()
            if name == "notes.txt":
                stage.check(exists, f"the command ran: {name} exists")
            else:
                stage.check(not exists, f"the command did not run: {name} does not exist")


async def _steering(stage: Stage, codex: Codex, model: MockModel) -> None:
    before = len(model.requests)
    model.hang("The mountains ", "are ")
    model.say("The sea ", "is calm.")
    steer = "Make it about the sea instead."
    with stage.step("A running turn can be steered"):
        thread = await codex.thread_start()
        steered = began = trio.current_time()
        async with thread.turn("Tell me about the mountains.") as turn:
            async for piece in turn.text():
                stage.stream(piece)
                if piece == "are ":
                    stage.tell("you", steer)
                    steered = trio.current_time()
                    await turn.steer(steer)
        ended = trio.current_time()
        dropped, followed = model.requests[before:]
        await _closed(dropped)
        stage.check(not dropped.completed, "the server dropped the model's unfinished message")
        stage.check(followed.last_user_text == steer, "it sent the model another request with your message")
        stage.check(
            turn.result.final_response == "The sea is calm." and steered > began,
            "the same turn completed with the new answer, after",
            ended - steered,
        )


async def _cancelling(stage: Stage, codex: Codex, model: MockModel, home: OfflineHome) -> None:
    before = len(model.requests)
    pid_file = home.workspace / "command.pid"
    model.run_command(f"echo $$ > {pid_file.name}; exec sleep 300", yield_time_ms=250)
    model.hang("One… ", "two… ", "three… ")
    with stage.step("Cancelling a Trio scope ends the turn, on the server too"):
        # Without a sandbox: inside one, the command would see a different process id.
        thread = await codex.thread_start(sandbox=Sandbox.full_access, approval_policy="never")
        stage.tell("you", f"with trio.move_on_after({PATIENCE_SECONDS}): … (from its first word on)")
        stage.tell("agent", "runs in the background: sleep 300")
        pid = 0
        turn: Turn | None = None
        with trio.move_on_after(LIMIT_SECONDS) as scope:
            async with thread.turn("Count slowly.") as turn:
                async for piece in turn.text():
                    stage.stream(piece)
                    if not pid:
                        pid = await _started(pid_file)
                        stage.check(runs(pid), f"its command runs (pid {pid})")
                        scope.deadline = trio.current_time() + PATIENCE_SECONDS
        left = trio.current_time() - scope.deadline
        stage.check(scope.cancelled_caught, "the deadline passed while the model was still writing")
        status = None if turn is None else turn.result.status
        stage.check(status == TurnStatus.interrupted, "the server reported that the turn was interrupted")
        streaming = model.requests[before + 1]
        await _closed(streaming)
        stage.check(not streaming.completed, "it dropped the stream from the model")
        await _gone(pid)
        stage.check(not runs(pid), f"its command (pid {pid}) is gone")
        stage.check(
            left < GRACE_SECONDS, "all this happened before the scope exited; time since the deadline", left
        )


def _nothing_left(stage: Stage, pid: int | None, home: OfflineHome, seconds: float) -> None:
    with stage.step("Nothing is left"):
        stage.check(pid is not None and not runs(pid), "the server has exited; closing took", seconds)
        left = _processes_of(home)
        if left is not None:
            stage.check(not left, "no process of this session is left" + "".join(f" {each}" for each in left))


async def _closed(request: ModelRequest) -> None:
    with trio.move_on_after(DROP_SECONDS):
        await request.closed.wait()
    if not request.closed.is_set():
        raise StepFailed("the server still reads the stream of the model")


async def _started(pid_file: Path) -> int:
    """Wait for a command to write its process id; on a busy machine the model may continue before that."""
    while not (pid := _pid_in(pid_file)):  # noqa: ASYNC110  # there is no event for writing a file
        await trio.sleep(PID_POLL_SECONDS)
    await trio.lowlevel.checkpoint()
    return pid


async def _gone(pid: int) -> None:
    """Wait until a process that the server has killed is gone, which takes the system a moment if it is busy."""
    with trio.move_on_after(DROP_SECONDS):
        await trio.lowlevel.checkpoint()
        while runs(pid):  # noqa: ASYNC110  # the process is not a child of this one
            await trio.sleep(PID_POLL_SECONDS)


def _pid_in(path: Path) -> int:
    """Return the process id in a file; 0 while it is incomplete."""
    text = path.read_text("ascii") if path.exists() else ""
    return int(text) if text.endswith("\n") else 0


def _processes_of(home: OfflineHome) -> list[int] | None:
    """Return the processes with this ``CODEX_HOME``; ``None`` if the system does not list them."""
    if not Path("/proc/self/environ").exists():
        return None
    mark = f"CODEX_HOME={home.codex_home}".encode()
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if mark in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
            except OSError:
                continue
    return found
