"""A thread that outlives its server: the at-most-once rule, and the loop over generations."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack, overload

import trio

from trio_codex import TurnResult, TurnStatus, errors
from trio_codex.supervision._attempt import Attempt, is_loss
from trio_codex.supervision._fence import RETRY_SECONDS, open_thread
from trio_codex.supervision._history import checked
from trio_codex.supervision._prompt import CONTINUE, Prompt, check_storable, digest_of, key_of, message_of
from trio_codex.supervision._rule import CallbackFailed, OpenThread, Send
from trio_codex.supervision._scope import with_task
from trio_codex.supervision._spending import total_of
from trio_codex.supervision._turn import SupervisedTurn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from types import TracebackType, UnionType

    from trio_codex import ThreadStartOptions, TokenUsage, TurnInput, TurnOptions
    from trio_codex.supervision._generations import Generations, Life
    from trio_codex.supervision._prompt import OnFailed, OnInterrupted

T = TypeVar("T")

MOST_MISSED: Final = 20
"""How often to open the thread again because its running turn and its history do not agree."""


class SupervisedThread:
    """A thread that outlives its server, as a scope. Created by :meth:`Supervisor.thread`.

    One prompt at a time runs on it. Only :meth:`run`, :meth:`turn` and :meth:`compact` are durable.

    Attributes:
        name: Its name in the journal.
    """

    def __init__(self, generations: Generations, name: str, options: ThreadStartOptions) -> None:
        if not name:
            raise ValueError("a thread needs a name that is not empty")
        check_storable("the name of a thread", name)
        if options.get("ephemeral"):
            raise ValueError("an ephemeral thread ends with its server: leave out ephemeral=True")
        if options.get("history_mode") not in (None, "paginated"):
            raise ValueError("a durable thread needs a paginated history: leave out history_mode")
        self.name: str = name
        self._generations = generations
        self._journal = generations.journal
        self._options = options
        self._opened: OpenThread | None = None
        self._used: TokenUsage | None = None
        self._opening = trio.Lock()
        self._is_busy = False
        self._running: str | None = None
        self._is_open = False

    def __repr__(self) -> str:
        return f"<SupervisedThread {self.name!r}>"

    @property
    def id(self) -> str:
        """The id of the thread on the server.

        It changes if the server dies before it has stored the first turn, because the thread is then started again.

        Raises:
            ThreadClosed: The scope was not entered.
        """
        if self._opened is not None:
            return self._opened.thread.id
        row = self._journal.thread(self.name) if self._is_open else None
        if row is None:
            raise errors.ThreadClosed(self.name)
        return row.id

    @property
    def usage(self) -> TokenUsage | None:
        """Tokens used by its turns in this program, including turns that a death interrupted.

        They include those of spawned agents. ``None`` if the server reported none.
        """
        return total_of(self._used, None if self._opened is None else self._opened.thread.usage)

    async def __aenter__(self) -> Self:
        """Start the thread, or resume it.

        Raises:
            ThreadInUse: The supervisor has a thread of this name open, or another server has the thread open.
            ThreadGone: The server no longer has the thread.
            ServerTooOld: The server cannot roll back a turn.
            CodexError: As for any request.
        """
        await self._generations.wait_ready()
        if self.name in self._generations.open_threads:
            raise errors.ThreadInUse(
                -32600, f"thread {self.name!r} is open in this supervisor", method="thread"
            )
        self._generations.open_threads.add(self.name)
        self._is_open = True
        try:
            row = self._journal.thread(self.name)
            if row is not None and row.deaths:
                self._generations.strikes.setdefault(self.name, row.deaths)
            await self._over_generations(_checkpoint)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        opened = self._opened
        self._close()
        if opened is not None and not opened.life.over.is_set():
            await opened.thread.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102  # shielded and bounded inside
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _close(self) -> None:
        self._is_open = False
        self._used, self._opened = self.usage, None
        self._generations.open_threads.discard(self.name)
        self._journal.close_thread(self.name)

    # -- prompts -----------------------------------------------------------------------------------------------

    @overload
    async def run(
        self,
        value: TurnInput,
        *,
        key: str | None = None,
        on_interrupted: OnInterrupted = "continue",
        continue_with: TurnInput = CONTINUE,
        on_failed: OnFailed = "raise",
        output_type: None = None,
        **options: Unpack[TurnOptions],
    ) -> TurnResult[None]: ...
    @overload
    async def run(
        self,
        value: TurnInput,
        *,
        key: str | None = None,
        on_interrupted: OnInterrupted = "continue",
        continue_with: TurnInput = CONTINUE,
        on_failed: OnFailed = "raise",
        output_type: type[T],
        **options: Unpack[TurnOptions],
    ) -> TurnResult[T]: ...
    @overload
    async def run(
        self,
        value: TurnInput,
        *,
        key: str | None = None,
        on_interrupted: OnInterrupted = "continue",
        continue_with: TurnInput = CONTINUE,
        on_failed: OnFailed = "raise",
        output_type: UnionType,
        **options: Unpack[TurnOptions],
    ) -> TurnResult[Any]: ...
    async def run(
        self,
        value: TurnInput,
        *,
        key: str | None = None,
        on_interrupted: OnInterrupted = "continue",
        continue_with: TurnInput = CONTINUE,
        on_failed: OnFailed = "raise",
        output_type: type[object] | UnionType | None = None,
        **options: Unpack[TurnOptions],
    ) -> TurnResult[Any]:
        """Run a prompt to its end, even if the server or program dies. The model receives it at most once.

        A prompt that has already ended is not sent again: its result is read from the history.

        Args:
            value: The input.
            key: The identity of the prompt within the thread: at most 200 characters without ``~``. Required with a
                journal.
            on_interrupted: What to do if a death interrupts the turn: ``"continue"`` with a follow-up turn,
                ``"raise"``, or an async function that receives the result so far and returns the input of the
                follow-up.
            continue_with: The input of the follow-up.
            on_failed: What to do if the turn has already failed for a transient reason: ``"raise"`` again, or
                ``"continue"`` with a follow-up turn. See :func:`~trio_codex.is_transient_error`.
            output_type: As in :meth:`~trio_codex.Thread.run`.
            **options: See :class:`~trio_codex.TurnOptions`. The key is the ``client_user_message_id``.

        Returns:
            The result of a prompt that was completed or interrupted. If it took several turns, it contains the items
            of all of them, and ``parts`` separates them.

        Raises:
            KeyConflict: The key belongs to another prompt.
            HistoryLost: The model received the prompt, but it is missing from the history.
            TurnInterrupted: The server died during the turn, and ``on_interrupted`` is ``"raise"``.
            ThreadQuarantined: The server dies whenever this thread has an open turn.
            ThreadGone: The server no longer has the thread.
            RestartLimitExceeded: The supervisor has given up.
            JournalError: The journal cannot be written; nothing more was sent.
            TurnActive: Another prompt runs on this thread, or another client's turn does not end within a second.
            CodexError: As in :meth:`~trio_codex.Thread.run`, except for a lost connection.
        """
        prompt = self._prompt(value, key, on_interrupted, continue_with, on_failed, output_type, options)
        with self._busy(prompt.key):
            result = await self._drive(prompt)
        return checked(result, output_type)

    def turn(
        self,
        value: TurnInput,
        *,
        key: str | None = None,
        on_interrupted: OnInterrupted = "continue",
        continue_with: TurnInput = CONTINUE,
        on_failed: OnFailed = "raise",
        output_type: type[object] | UnionType | None = None,
        **options: Unpack[TurnOptions],
    ) -> AbstractAsyncContextManager[SupervisedTurn]:
        """Run a prompt as a scope, even if the server or program dies. See :meth:`run`.

        If the scope exits before the prompt has ended, its turn is interrupted, and this result is final. If an
        exception such as Ctrl-C also leaves the supervisor, the next program continues the prompt.

        Args:
            value: The input.
            key: As in :meth:`run`.
            on_interrupted: As in :meth:`run`.
            continue_with: As in :meth:`run`.
            on_failed: As in :meth:`run`.
            output_type: As in :meth:`run`.
            **options: See :class:`~trio_codex.TurnOptions`.

        Returns:
            An async context manager that yields the :class:`SupervisedTurn`.

        Raises:
            CodexError: As in :meth:`run`, except for a failed turn, which is a result. The body is cancelled.
        """
        return self._turn(
            self._prompt(value, key, on_interrupted, continue_with, on_failed, output_type, options)
        )

    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection
    async def _turn(self, prompt: Prompt) -> AsyncGenerator[SupervisedTurn]:
        turn = SupervisedTurn(prompt, self.id)

        async def drive() -> None:
            turn.finish(await self._drive(prompt, turn))

        with self._busy(prompt.key):
            try:
                async with with_task(drive, turn.leave):
                    await turn.begun()
                    with self._generations.nesting():
                        yield turn
            finally:
                turn.give_up()
                # A turn that was lost, or interrupted between two generations, is not recorded yet.
                if prompt.is_stopped and turn.result.status in (TurnStatus.lost, TurnStatus.interrupted):
                    self._journal.stopped(self.name, prompt.key)

    def _prompt(
        self,
        value: TurnInput,
        key: str | None,
        on_interrupted: OnInterrupted,
        continue_with: TurnInput,
        on_failed: OnFailed,
        output_type: type[object] | UnionType | None,
        options: TurnOptions,
    ) -> Prompt:
        self._check_open()
        for option in ("client_user_message_id", "leave_running"):
            if option in options:
                raise ValueError(f"a durable turn has no {option}: pass key=… instead")
        if on_interrupted not in ("continue", "raise") and not callable(on_interrupted):
            raise ValueError(
                f'on_interrupted is "continue", "raise" or an async function, not {on_interrupted!r}'
            )
        if on_failed not in ("raise", "continue"):
            raise ValueError(f'on_failed is "raise" or "continue", not {on_failed!r}')
        key = key_of(key, required=self._journal.is_durable)
        digest = digest_of(value, options, output_type, self._generations.directory)
        return Prompt(key, value, {**options}, output_type, on_interrupted, continue_with, on_failed, digest)

    @contextmanager
    def _busy(self, key: str | None) -> Generator[None]:
        if self._is_busy:
            raise errors.TurnActive(self.id)
        self._is_busy, self._running = True, key
        try:
            yield
        finally:
            self._is_busy, self._running = False, None

    def _check_open(self) -> None:
        if not self._is_open:
            raise errors.ThreadClosed(self.name)

    # -- other operations --------------------------------------------------------------------------------------

    async def fate(self, key: str) -> str:
        """Return the state of a prompt by its key. Nothing is sent to the model.

        Returns:
            ``"unknown"`` if the model never received it; ``"running"`` if it is running or :meth:`run` would continue
            it; ``"lost"`` if :meth:`run` would raise ``HistoryLost``; otherwise how it ended.

        Raises:
            ValueError: The key contains a lone surrogate.
            CodexError: As for any request.
        """
        self._check_open()
        check_storable("a key", key)
        row = self._journal.key(self.name, key)
        if row is None or key == self._running:
            await trio.lowlevel.checkpoint()
            return "unknown" if row is None else "running"
        known = row
        message = message_of(key, row.attempt)
        return await self._over_generations(lambda opened: opened.fate(known, message))

    async def compact(self) -> TurnResult[Any]:
        """Compact the thread, as :meth:`~trio_codex.Thread.compact` does, and start over after a death.

        Raises:
            TurnActive: A prompt runs on this thread.
            CodexError: As in :meth:`~trio_codex.Thread.compact`, except for a lost connection.
        """
        self._check_open()
        with self._busy(None):
            return await self._over_generations(lambda opened: opened.thread.compact(), admitted=True)

    # -- across generations --------------------------------------------------------------------------------------

    async def _over_generations(
        self, work: Callable[[OpenThread], Awaitable[T]], *, admitted: bool = False
    ) -> T:
        """Open the thread and do something with it. Repeat this in the next generation if this one ends first.

        Args:
            work: The operation.
            admitted: Whether it has an open turn.
        """
        generations = self._generations
        missed = 0
        while True:
            self._check_open()  # another task may leave the scope meanwhile
            if admitted:
                await generations.admit(self.name)
            life = None
            try:
                life = generations.current or await generations.wait_ready()
                life.busy.append(self.name)
                return await work(self._opened_in(life) or await self._open_in(life))
            except (errors.NoTurnRuns, errors.TurnActive):
                # The history lists a turn as running that began or ended while the thread was opened, or a turn that a
                # lost connection requested began after the history was read. Nothing was sent, so open the thread again.
                missed += 1
                if missed > MOST_MISSED:
                    raise
                await trio.sleep(RETRY_SECONDS)
            except Exception as exc:
                if life is None or not is_loss(exc):
                    raise
                await life.over.wait()
            finally:
                if life is not None and not life.over.is_set():
                    life.busy.remove(self.name)
                if admitted:
                    generations.turnstile.leave(self.name)

    def _opened_in(self, life: Life) -> OpenThread | None:
        """Return the thread of a generation if it is already open."""
        opened = self._opened
        return opened if opened is not None and opened.life is life and opened.is_settled else None

    async def _open_in(self, life: Life) -> OpenThread:
        """Open the thread in a generation, unless another task has opened it."""
        async with self._opening:
            if (opened := self._opened_in(life)) is not None:
                return opened
            before = self._opened
            if before is not None and before.life is not life:
                self._used = self.usage
            self._opened = None
            options: Any = dict(self._options)
            budget = options.pop("budget", None)
            if budget is not None:
                with suppress(errors.BudgetExceeded):  # the next prompt raises it
                    options["budget"] = self._journal.spent(self.name).rest_of(budget, "thread")
            try:
                thread, newest = await open_thread(self._generations, life, self.name, options)
            finally:
                if before is not None and before.life is life:
                    await before.thread.__aexit__(None, None, None)  # noqa: ASYNC102  # shielded and bounded inside
            if not self._is_open:
                await thread.__aexit__(None, None, None)
                raise errors.ThreadClosed(self.name)
            self._opened = OpenThread(self._generations, self.name, budget, life, thread, newest)
            return self._opened

    async def _drive(self, prompt: Prompt, view: SupervisedTurn | None = None) -> TurnResult[Any]:
        """Run a prompt in as many generations as it takes."""

        async def work(opened: OpenThread) -> TurnResult[Any]:
            # A new prompt shows that the program survived the exception that interrupted an earlier one.
            self._generations.settle_left(self.name)
            row = self._journal.key(self.name, prompt.key)
            step = Send(1, prompt.value) if row is None else await opened.decide(prompt, row)
            if isinstance(step, TurnResult):
                return step  # noqa: ASYNC910  # deciding is a checkpoint
            return await Attempt(opened, prompt, step).run(view)

        result: TurnResult[Any] | Exception
        try:
            result = await self._over_generations(work, admitted=True)
        except CallbackFailed as exc:
            result = exc.error
        if isinstance(result, Exception):
            # Raise outside the handler, so that the wrapper does not become its context.
            raise result
        if not self._generations.turnstile.inside:
            self._journal.checkpoint(idle=True)
        return result  # noqa: ASYNC910  # every generation is a checkpoint


async def _checkpoint(_: object) -> None:
    await trio.lowlevel.checkpoint()
