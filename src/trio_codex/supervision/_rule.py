"""The at-most-once rule: decide from journal and history what to do with a prompt.

It applies to a fenced thread whose doubtful tail has been rolled back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import trio

from trio_codex import TurnResult, TurnStatus, errors, is_transient_error, tools
from trio_codex._core.user_code import call_user
from trio_codex.supervision._history import IN_PROGRESS, History, combined, result_of
from trio_codex.supervision._prompt import message_of

if TYPE_CHECKING:
    from trio_codex import Budget, Thread, TurnInput
    from trio_codex.supervision._generations import Generations, Life
    from trio_codex.supervision._history import Found
    from trio_codex.supervision._journal import KeyRow
    from trio_codex.supervision._prompt import Prompt


class CallbackFailed(Exception):
    """Carries an exception from ``on_interrupted``, so that it is not mistaken for one from the generation.

    Attributes:
        error: The exception.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception = error


@attrs.frozen
class Send:
    """A message to send.

    Attributes:
        attempt: Its number: 1 for the prompt itself, more for follow-ups.
        value: The input; ``None`` if its turn is already running on an attached server.
        parts: The results of the turns so far.
    """

    attempt: int
    value: TurnInput | None
    parts: tuple[TurnResult[Any], ...] = ()


@attrs.define(eq=False)
class OpenThread:
    """A thread that is open in one generation, and the rule for its prompts.

    Attributes:
        generations: The generations of the supervisor.
        name: The name of the thread.
        budget: Its budget, across all generations and programs.
        life: The generation.
        thread: Its handle.
        newest: The id of its newest turn; ``None`` if there is none.
        is_settled: Whether the ends of all turns that were started with this handle are known. Otherwise the thread is
            opened again before anything else is sent.
    """

    generations: Generations
    name: str
    budget: Budget | None
    life: Life
    thread: Thread
    newest: str | None
    is_settled: bool = True
    _history: History | None = None

    def forget_history(self) -> None:
        """Discard the cached history, because a turn was started."""
        self._history = None

    @property
    def _turns(self) -> History:
        if self._history is None:
            self._history = History(self.thread)
        return self._history

    async def decide(self, prompt: Prompt, row: KeyRow) -> Send | TurnResult[Any]:
        """Return the message to send for a recorded prompt, or its result if nothing has to be sent.

        Raises:
            KeyConflict: The key belongs to another prompt.
            HistoryLost: The model received a message that is missing from the history.
            TurnInterrupted: A death interrupted the turn, and ``on_interrupted`` is ``"raise"``.
        """
        await trio.lowlevel.checkpoint()
        if row.digest != prompt.digest:
            raise errors.KeyConflict(self.name, prompt.key)
        parts = [await self._part(row, message_of(prompt.key, number)) for number in range(1, row.attempt)]
        found = await self._find(row, message_of(prompt.key, row.attempt))
        if found is None:
            return await self._without_turn(prompt, row, parts)
        if found.turn.status == IN_PROGRESS:
            return Send(row.attempt, None, tuple(parts))
        parts.append(await self._read(found))
        if found.turn.status == TurnStatus.interrupted and not (row.by_us or prompt.is_stopped):
            return Send(row.attempt + 1, await self._follow_up(prompt, parts), tuple(parts))
        if message_of(prompt.key, row.attempt) not in found.messages and not row.by_us:
            raise self._lost(row, f"its turn is {found.turn.status} without the prompt")
        result = combined(parts)
        may_continue = prompt.on_failed == "continue" and not prompt.is_stopped
        if may_continue and is_transient_error(errors.TurnFailed(result)):
            return Send(row.attempt + 1, prompt.continue_with, tuple(parts))
        return result if prompt.output_type is None else tools.with_output(result, prompt.output_type)

    async def fate(self, row: KeyRow, message: str) -> str:
        """Return what became of a prompt; see :meth:`SupervisedThread.fate`."""
        if row.state == "ended" and row.status is not None:
            await trio.lowlevel.checkpoint()
            return row.status
        found = await self._find(row, message)
        if found is None:
            if row.state != "sending":
                return "lost"
            # If the model never received a follow-up, it has still received the prompt, and run() would continue it.
            return "unknown" if row.attempt == 1 else "running"
        return "running" if found.turn.status in (IN_PROGRESS, TurnStatus.interrupted) else found.turn.status

    async def _without_turn(
        self, prompt: Prompt, row: KeyRow, parts: list[TurnResult[Any]]
    ) -> Send | TurnResult[Any]:
        """Decide on a message that is missing from the history."""
        await trio.lowlevel.checkpoint()
        if row.state == "sending":
            if not prompt.is_stopped:
                await self._check_nothing_hidden(row)
                again = prompt.value if row.attempt == 1 else await self._follow_up(prompt, parts)
                return Send(row.attempt, again, tuple(parts))
        elif not row.by_us:
            raise self._lost(row, "its turn is missing")
        # The program interrupted the turn before the server had stored anything.
        interrupted = TurnStatus.interrupted
        return combined([*parts, TurnResult(id=row.turn or "", thread_id=self.thread.id, status=interrupted)])

    async def _find(self, row: KeyRow, message: str) -> Found | None:
        return await self._turns.find(message, row.turn, row.anchor if row.state == "sending" else None)

    async def _part(self, row: KeyRow, message: str) -> TurnResult[Any]:
        found = await self._turns.find(message, None)
        if found is None:
            raise self._lost(row, "one of its turns is missing")
        return await self._read(found)

    async def _read(self, found: Found) -> TurnResult[Any]:
        items = [entry.item async for entry in self.thread.items(turn_id=found.turn.id)]
        return result_of(self.thread.id, found.turn, items)

    async def _check_nothing_hidden(self, row: KeyRow) -> None:
        """Check that none of the turns since the message was sent can contain it.

        Raises:
            HistoryLost: There is a turn without items that belongs to no other key.
        """
        others = {each.turn for each in self.generations.journal.keys(self.name)}
        for found in await self._turns.newer_than(row.anchor):
            if found.is_empty and found.turn.id not in others:
                problem = f"turn {found.turn.id} is {found.turn.status}, and its items are missing"
                raise self._lost(row, problem)

    def _lost(self, row: KeyRow, problem: str) -> errors.HistoryLost:
        return errors.HistoryLost(self.name, self.thread.id, row.key, problem)

    async def _follow_up(self, prompt: Prompt, parts: list[TurnResult[Any]]) -> TurnInput:
        """Return the input of the follow-up after a death."""
        await trio.lowlevel.checkpoint()
        if prompt.on_interrupted == "raise":
            raise errors.TurnInterrupted(prompt.key, combined(parts))
        value: TurnInput | None = None
        if callable(prompt.on_interrupted):
            try:
                with self.generations.nesting():
                    value = await call_user(prompt.on_interrupted, combined(parts))
            except Exception as exc:
                raise CallbackFailed(exc) from exc
        return prompt.continue_with if value is None else value
