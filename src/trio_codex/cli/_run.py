"""``trio-codex run``: run one turn with the user's own Codex."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trio_codex import Codex, TurnStatus, policies, wire
from trio_codex.cli._ask import Asker, declining
from trio_codex.cli._attach import directory_for, open_client, require_login, without_waiting
from trio_codex.cli._render import Progress, Screen, duration
from trio_codex.cli._startup import INTERRUPTED, TIMED_OUT
from trio_codex.cli._terminal import find_terminal
from trio_codex.cli._text import CommandFailed, camel_case, explain, one_line, sentence
from trio_codex.errors import TurnFailed, TurnLost

if TYPE_CHECKING:
    from trio_codex import Event, Thread, Turn, TurnResult
    from trio_codex.cli._attach import AnySource
    from trio_codex.policies import Policy


async def run_turn(
    prompt: str,
    *,
    source: AnySource,
    model: str | None,
    cwd: str | None,
    sandbox: str | None,
    approve: str | None,
    resume: str | None,
    seconds: float | None,
    only_final: bool,
    as_json: bool,
) -> int:
    """Run one turn, show it, and return the exit status.

    Raises:
        CommandFailed: The turn failed, was interrupted or ran out of time, or the server is not logged in.
        CodexError: The server failed to start or crashed.
    """
    screen = Screen()
    logging.getLogger("trio_codex").addHandler(Notes(screen))
    directory = directory_for(source, cwd)
    terminal = find_terminal() if approve in (None, "ask") else None
    asker = None if terminal is None else Asker(screen, terminal, directory)
    approval_policy, policy = choose_policy(screen, approve, asker)
    async with open_client(without_waiting(source), policy=policy) as codex:
        options: dict[str, Any] = {
            "approval_policy": approval_policy,
            # Ask the user, whatever reviewer is configured.
            "approvals_reviewer": "user",
            "model": model,
            "sandbox": sandbox,
        }
        if resume is None:
            thread = await codex.thread_start(cwd=directory or None, **options)
        else:
            thread = await codex.thread_resume(resume, cwd=cwd, **options)
        await require_login(codex, source)
        shown_cwd = thread.info.cwd if resume is not None and cwd is None else directory or thread.info.cwd
        output = _JsonLines() if as_json else _Shown(screen, codex, thread, shown_cwd, only_final=only_final)
        return await _turn(screen, thread, prompt, output, math.inf if seconds is None else seconds)


async def _turn(
    screen: Screen, thread: Thread, prompt: str, output: _JsonLines | _Shown, seconds: float
) -> int:
    turn: Turn | None = None
    began = trio.current_time()
    try:
        with trio.move_on_after(seconds) as limit:
            async with thread.turn(prompt) as turn:
                async for event in turn:
                    await screen.free()
                    output.event(event)
    except KeyboardInterrupt:
        # The scope has exited, so the turn and everything it started have ended on the server.
        if turn is not None:
            output.result(turn.result)
        raise CommandFailed(
            f"interrupted after {duration(trio.current_time() - began)}", INTERRUPTED
        ) from None
    except TurnLost as exc:
        if exc.result is not None:
            output.result(exc.result)
        raise
    if turn is not None:
        output.result(turn.result)
    if limit.cancelled_caught or turn is None:
        is_lost = turn is not None and turn.result.status == TurnStatus.lost
        end = "could not be interrupted, and may still be running" if is_lost else "was interrupted"
        raise CommandFailed(f"timed out after {seconds:g} s: the turn {end}", TIMED_OUT)
    if turn.result.status == TurnStatus.completed:
        return 0
    if turn.result.status == TurnStatus.interrupted:
        raise CommandFailed("interrupted: the turn was stopped", INTERRUPTED)
    raise CommandFailed(sentence(*explain(TurnFailed(turn.result))))


def choose_policy(screen: Screen, approve: str | None, asker: Asker | None) -> tuple[str, Policy | None]:
    """Return the approval policy for the server, and the policy that answers requests."""
    if approve == "always":
        screen.note(
            "WARNING: --approve always accepts every request from the agent, including those to run outside the sandbox",
            "bold red",
        )
        return "on-request", policies.accept_all
    if approve == "never" or (approve is None and asker is None):
        return "never", None
    return "on-request", declining(screen) if asker is None else asker.policy


class _Shown:
    """Human-readable output."""

    def __init__(self, screen: Screen, codex: Codex, thread: Thread, cwd: str, *, only_final: bool) -> None:
        self._progress = Progress(screen, cwd, only_final=only_final)
        facts = [f"codex {codex.metadata.server_version or '?'}", thread.info.model, f"thread {thread.id}"]
        screen.note(" · ".join(one_line(fact) for fact in facts if fact), "dim")

    def event(self, event: Event) -> None:
        self._progress.show(event)

    def result(self, result: TurnResult) -> None:
        self._progress.finish(result)


class _JsonLines:
    """Machine-readable output: the server's messages unchanged, then the result."""

    def event(self, event: Event) -> None:
        self._write({"method": event.method, "params": event.raw, "emittedAtMs": event.emitted_at})

    def result(self, result: TurnResult) -> None:
        members: dict[str, Any] = {
            "id": result.id,
            "thread_id": result.thread_id,
            "status": str(result.status),
            "final_response": result.final_response,
            "error": None if result.error is None else wire.encode(result.error),
            "usage": None if result.usage is None else wire.encode(result.usage),
            "turn_usage": None if result.turn_usage is None else camel_case(attrs.asdict(result.turn_usage)),
            "diff": result.diff,
            "started_at": result.started_at,
            "completed_at": result.completed_at,
            "duration_ms": result.duration_ms,
        }
        self._write({"result": camel_case(members)})

    def _write(self, value: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()


class Notes(logging.Handler):
    """Shows the library's warnings, such as a request that was denied because no policy decides on it."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        # An unwritable stderr must not fail a task of the library; the next write of the command raises the error.
        with contextlib.suppress(OSError):
            self._screen.note(one_line(record.getMessage()), "yellow", mark="! ")
