"""One message in one generation: send it, wait for the end of its turn, and record the outcome."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from trio_codex import TurnResult, TurnStatus, errors, policies, tools
from trio_codex.supervision._history import combined
from trio_codex.supervision._prompt import message_of
from trio_codex.supervision._spending import Spent, ToolCalls, tokens_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_codex import Turn, TurnInput
    from trio_codex.supervision._prompt import Prompt
    from trio_codex.supervision._rule import OpenThread, Send
    from trio_codex.supervision._turn import SupervisedTurn


class Retired(Exception):
    """The supervisor interrupted the turn to end the generation."""


def is_loss(error: BaseException) -> bool:
    """Return whether an exception means that the generation has ended."""
    if isinstance(error, errors.TurnLost):
        error = error.__cause__ or error
    return isinstance(error, Retired | errors.ConnectionBroken | errors.ConnectionClosed)


class Attempt:
    """One message of a prompt, sent in one generation, or rejoined there.

    Args:
        opened: The thread.
        prompt: The prompt.
        send: The message.
    """

    def __init__(self, opened: OpenThread, prompt: Prompt, send: Send) -> None:
        self._generations = opened.generations
        self._journal = opened.generations.journal
        self._name = opened.name
        self._opened = opened
        self._prompt = prompt
        self._send = send
        self._turn: Turn[Any] | None = None
        self._is_running = False

    async def run(self, view: SupervisedTurn | None) -> TurnResult[Any]:
        """Send the message, and return the result of the prompt.

        Args:
            view: The turn that :meth:`SupervisedThread.turn` yielded; ``None`` for :meth:`SupervisedThread.run`.
        """
        prompt, opened, thread, journal = self._prompt, self._opened, self._opened.thread, self._journal
        if self._send.value is not None:
            self._check_budgets()
            journal.sending(self._name, prompt.key, prompt.digest, self._send.attempt, opened.newest)
        started, tokens = trio.current_time(), tokens_of(thread.usage)
        items = (item for part in self._send.parts for item in part.items)
        keys = policies.tool_call_keys.set(ToolCalls(f"{thread.id} {prompt.key}", items).key)
        try:
            # The turn's callbacks may start turns of other threads.
            with self._generations.nesting():
                async with self._scope() as self._turn:
                    if view is not None:
                        view.begin(self._turn)
                    if prompt.is_stopped:
                        # The program interrupted it between two generations.
                        await self._turn.interrupt()
                    if self._send.value is not None and await self._turn.wait_stored():
                        self._is_running = True
                        journal.running(self._name, prompt.key, self._turn.id)
                    if view is None:
                        return self._settle(await self._turn.wait())
                    await self._turn.wait_ended()
                    result = self._settle(self._turn.result)
                    await view.wait_read(result)
                    return result
        except BaseException as exc:
            if not is_loss(exc):
                self._note_left(view)
            elif self._turn is not None and view is not None:
                view.lose(opened.life.number)
            raise
        finally:
            policies.tool_call_keys.reset(keys)
            # The cached history does not show the end of the turn.
            opened.forget_history()
            self._charge(Spent(tokens_of(thread.usage) - tokens, 1, trio.current_time() - started))

    def _scope(self) -> AbstractAsyncContextManager[Turn[Any]]:
        """Start the turn of the message, or rejoin it. Leaving the scope ends it, unless the connection was lost."""
        prompt, value = self._prompt, self._send.value
        if value is None:
            return self._opened.thread.rejoin(end=True, policy=prompt.options.get("policy"))
        options: Any = {
            **prompt.options,
            "budget": prompt.spent.rest_of(prompt.options.get("budget"), "turn"),
            "client_user_message_id": message_of(prompt.key, self._send.attempt),
        }
        if not self._opened.life.codex.owned:
            return self._shared_scope(value, options)
        return self._opened.thread.turn(value, output_type=prompt.output_type, **options)

    @asynccontextmanager
    async def _shared_scope(self, value: TurnInput, options: Any) -> AsyncGenerator[Turn[Any]]:
        """Start the turn on an attached server, where a turn outlives a lost connection."""
        thread = self._opened.thread
        output_type = self._prompt.output_type
        async with thread.turn(value, output_type=output_type, leave_running=True, **options) as turn:
            try:
                yield turn
            except BaseException as exc:
                if not is_loss(exc):
                    with trio.CancelScope(shield=True):  # bounded inside
                        async with thread.rejoin(end=True):
                            await trio.lowlevel.checkpoint()
                raise

    def _settle(self, result: TurnResult[Any]) -> TurnResult[Any]:
        """Record the end of the turn, and return the result of the prompt.

        Raises:
            Retired: The supervisor interrupted it to end the generation.
        """
        by_us = result.status == TurnStatus.interrupted
        if by_us and self._opened.life.over.is_set() and not self._prompt.is_stopped:
            raise Retired
        self._record_end(result, by_us=by_us)
        self._generations.healthy(self._name)
        if self._send.value is None and self._prompt.output_type is not None:
            result = tools.with_output(result, self._prompt.output_type)
        return combined([*self._send.parts, result])

    def _note_left(self, view: SupervisedTurn | None) -> None:
        """Record the end of a turn whose scope exited early."""
        result = self._result()
        if result is None or result.status == TurnStatus.lost:
            self._opened.is_settled = False
            return
        if view is not None:
            view.finish(combined([*self._send.parts, result]))
        by_us = result.status == TurnStatus.interrupted
        if by_us and not self._prompt.is_stopped:
            self._opened.newest = result.id
            self._generations.left[self._name, self._prompt.key] = result.id
        else:
            self._record_end(result, by_us=by_us)

    def _record_end(self, result: TurnResult[Any], *, by_us: bool) -> None:
        self._opened.newest = result.id
        # If the journal says that the turn is running, its end may be committed late: the history also shows how it
        # ended, but not who interrupted it.
        late = self._is_running and not by_us
        self._journal.ended(
            self._name, self._prompt.key, result.id, str(result.status), by_us=by_us, late=late
        )

    def _result(self) -> TurnResult[Any] | None:
        try:
            return None if self._turn is None else self._turn.result
        except errors.TurnActive:
            return None

    # -- budgets -------------------------------------------------------------------------------------------

    def _check_budgets(self) -> None:
        """Check that a turn may start.

        Raises:
            BudgetExceeded: A budget is exhausted, counting all generations and programs.
        """
        self._generations.rest_of_budget()
        if self._opened.budget is not None:
            self._journal.spent(self._name).rest_of(self._opened.budget, "thread")
        self._prompt.spent.rest_of(self._prompt.options.get("budget"), "turn")

    def _charge(self, used: Spent) -> None:
        self._prompt.spent += used
        result = self._result()
        total = 0 if result is None or result.usage is None else result.usage.total.total_tokens
        self._journal.used(self._name, used.tokens, used.seconds, total)
