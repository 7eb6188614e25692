"""A turn that outlives its server, as a scope, with its events from all generations."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import trio

from trio_codex import Event, TurnResult, TurnStatus, TurnText, errors

if TYPE_CHECKING:
    from trio_codex import Turn, TurnInput
    from trio_codex.supervision._prompt import Prompt

GENERATION_LOST: Final = "trio_codex/generationLost"
"""The method of the event that separates the turns of two generations."""

_LOSSES: Final = (errors.TurnLost, errors.ConnectionBroken, errors.ConnectionClosed)


class SupervisedTurn:
    """One prompt, inside ``async with thread.turn(…)``, across generations.

    Iterate over it for its events, or over :meth:`text` for its text. If a generation ends during the turn, unread
    events of its turn are dropped, and an event ``trio_codex/generationLost`` marks the gap. Both iterations consume
    the same buffer, so only one task at a time may iterate.
    """

    def __init__(self, prompt: Prompt, thread_id: str) -> None:
        self._prompt = prompt
        self._thread_id = thread_id
        self._part: Turn[Any] | None = None
        self._result: TurnResult[Any] | None = None
        self._gaps: deque[Event] = deque()
        self._lost_id = ""
        self._is_read = False
        self._is_wanted = True
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<SupervisedTurn {self.key!r}, {'open' if self._result is None else self._result.status}>"

    @property
    def key(self) -> str:
        """The key of the prompt."""
        return self._prompt.key

    @property
    def id(self) -> str | None:
        """The id of its current turn on the server; ``None`` between generations."""
        if self._result is not None:
            return self._result.id
        return None if self._part is None else self._part.id

    @property
    def result(self) -> TurnResult[Any]:
        """The result, as :meth:`SupervisedThread.run` returns it. A failed turn does not raise here.

        Its status is ``"lost"`` if the scope exited between generations.

        Raises:
            TurnActive: The prompt has not ended.
        """
        if self._result is None:
            raise errors.TurnActive(self._thread_id, self.id, "turn")
        return self._result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event. A cancellation point.

        Raises:
            SubscriptionOverflow: This consumer fell behind by more than ``event_buffer`` allows. The turn continues.
            trio.BusyResourceError: Another task is iterating.
        """
        while True:  # noqa: ASYNC913  # every branch waits for something, or has just done so
            if self._gaps:
                await trio.lowlevel.checkpoint()
                return self._gaps.popleft()
            part = self._part
            if part is not None:
                with suppress(*_LOSSES, StopAsyncIteration):
                    event = await part.__anext__()
                    # Events of a generation are dropped once it has ended.
                    if part is self._part:
                        return event
                    continue
                if part is self._part:
                    self._part, self._is_read = None, True
                    self._wake()
            elif self._result is not None:
                raise StopAsyncIteration
            else:
                await self._changed.wait()

    def text(self) -> TurnText:
        """Iterate over the agent's text, as in :meth:`~trio_codex.Turn.text`. A follow-up starts a new message."""
        return TurnText(self)

    async def wait(self) -> TurnResult[Any]:
        """Wait for the end, and return the result. Buffered events are discarded. A failed turn does not raise here."""
        await trio.lowlevel.checkpoint()
        self._is_wanted = False
        self._wake()
        while self._result is None:
            await self._changed.wait()
        return self._result

    async def steer(self, value: TurnInput) -> None:
        """Send more input to the running turn. Between generations, wait for the next one.

        Input that the server has accepted may be lost if the server dies.

        Raises:
            InvalidRequestError: The turn has ended, or cannot be steered.
            CodexError: As in :meth:`~trio_codex.Turn.steer`.
        """
        while self._result is None and self._part is None:
            await self._changed.wait()
        if self._part is None:
            raise errors.InvalidRequestError(-32600, "the turn has ended", method="turn/steer")
        await self._part.steer(value)

    async def interrupt(self) -> None:
        """Interrupt the turn, as in :meth:`~trio_codex.Turn.interrupt`. It does not continue in another generation.

        Raises:
            CodexError: As in :meth:`~trio_codex.Turn.interrupt`, except for a lost connection.
        """
        self._prompt.is_stopped = True
        await trio.lowlevel.checkpoint()
        if self._part is not None:
            with suppress(*_LOSSES):
                await self._part.interrupt()

    # -- for the thread ----------------------------------------------------------------------------------------

    async def begun(self) -> None:
        """Wait until the first turn is running, or the result is known."""
        await trio.lowlevel.checkpoint()
        while self._part is None and self._result is None:
            await self._changed.wait()

    def begin(self, part: Turn[Any]) -> None:
        """Continue with a turn of the current generation."""
        self._part, self._is_read = part, False
        self._wake()

    def lose(self, generation: int) -> None:
        """Drop the turn of a generation that has ended."""
        raw = {"threadId": self._thread_id, "generation": generation}
        json = msgspec.json.encode(raw)
        self._gaps.append(Event(GENERATION_LOST, json, len(json)))
        self._lost_id = self.id or ""
        self._part = None
        self._wake()

    async def wait_read(self, result: TurnResult[Any]) -> None:
        """Set the result, and wait until the events of the current turn are read or no longer needed."""
        self._result = result
        self._wake()
        await trio.lowlevel.checkpoint()
        while self._is_wanted and not self._is_read:
            await self._changed.wait()

    def finish(self, result: TurnResult[Any]) -> None:
        """Set the result of a prompt without an open turn."""
        self._result = result
        self._part = None
        self._wake()

    def give_up(self) -> None:
        """Record that the scope has exited, even if the end of the prompt is unknown."""
        if self._result is None:
            self.finish(TurnResult(id=self._lost_id, thread_id=self._thread_id, status=TurnStatus.lost))

    def leave(self, error: BaseException | None) -> None:
        """Record that the scope exits. After a return the turn is stopped; after an exception it may continue."""
        if error is None:
            self._prompt.is_stopped = True

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
