"""The arguments of a solver: its task, a thread, and a directory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

import attrs
import msgspec

from trio_codex import Sandbox, TurnResult, TurnStatus, errors, wire
from trio_codex.supervision._history import checked

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path
    from types import UnionType

    from trio_codex import Codex, TokenUsage, TurnInput, TurnOptions
    from trio_codex.batch._tasks import Task
    from trio_codex.supervision import SupervisedThread, SupervisedTurn

T = TypeVar("T")


class TaskThread:
    """The thread of an attempt. It outlives its server, as a :class:`~trio_codex.supervision.SupervisedThread` does.

    Prompts are keyed by their order. When an attempt continues in another program, the solver is called again, and
    results of completed prompts are read from the history. The solver should therefore run the same prompts in the
    same order.
    """

    def __init__(
        self,
        thread: SupervisedThread,
        options: TurnOptions,
        on_interrupted: Literal["raise", "continue"],
        *,
        on_start: Callable[[], Awaitable[object]],
        on_end: Callable[[], object],
        on_error: Callable[[Exception], object],
    ) -> None:
        self._thread = thread
        self._options = options
        self._on_interrupted: Literal["raise", "continue"] = on_interrupted
        self._on_start = on_start
        self._on_end = on_end
        self._count = 0
        self._on_error = on_error

    def __repr__(self) -> str:
        return f"<TaskThread {self._thread.name!r}>"

    @property
    def id(self) -> str:
        """The id of the thread on the server."""
        return self._thread.id

    @property
    def usage(self) -> TokenUsage | None:
        """Tokens used by its turns in this program; ``None`` if the server reported none."""
        return self._thread.usage

    @overload
    async def run(
        self, value: TurnInput, *, output_type: None = None, **options: Unpack[TurnOptions]
    ) -> TurnResult[None]: ...
    @overload
    async def run(
        self, value: TurnInput, *, output_type: type[T], **options: Unpack[TurnOptions]
    ) -> TurnResult[T]: ...
    @overload
    async def run(
        self, value: TurnInput, *, output_type: UnionType, **options: Unpack[TurnOptions]
    ) -> TurnResult[Any]: ...
    async def run(
        self,
        value: TurnInput,
        *,
        output_type: type[object] | UnionType | None = None,
        **options: Unpack[TurnOptions],
    ) -> TurnResult[Any]:
        """Run a prompt to its end.

        Args:
            value: The input.
            output_type: As in :meth:`~trio_codex.Thread.run`.
            **options: See :class:`~trio_codex.TurnOptions`. The options of the task are the defaults.

        Returns:
            The result of a prompt that was completed or interrupted.

        Raises:
            TurnInterrupted: A death interrupted the turn, and the attempt will be repeated. Let it propagate.
            CodexError: As in :meth:`~trio_codex.supervision.SupervisedThread.run`.
        """
        async with self.turn(value, output_type=output_type, **options) as turn:
            result = await turn.wait()
        return checked(result, output_type)

    @asynccontextmanager
    async def turn(
        self,
        value: TurnInput,
        *,
        output_type: type[object] | UnionType | None = None,
        **options: Unpack[TurnOptions],
    ) -> AsyncGenerator[SupervisedTurn]:
        """Run a prompt as a scope, as :meth:`~trio_codex.supervision.SupervisedThread.turn` does.

        Args:
            value: The input.
            output_type: As in :meth:`run`.
            **options: As in :meth:`run`.

        Raises:
            TurnInterrupted: As in :meth:`run`.
            CodexError: As in :meth:`run`, except for a failed turn, which is a result.
        """
        self._count += 1
        merged: Any = {**self._options, **options}
        if merged.get("sandbox") == Sandbox.workspace_write:
            # The options of a turn override the configuration of the thread.
            merged["sandbox"] = wire.WorkspaceWriteSandboxPolicy(
                exclude_slash_tmp=True, exclude_tmpdir_env_var=True
            )
        from_body = None
        try:
            async with self._thread.turn(
                value,
                key=str(self._count),
                on_interrupted=self._on_interrupted,
                output_type=output_type,
                **merged,
            ) as turn:
                # The server is working on the turn, so another attempt may start.
                await self._on_start()
                try:
                    yield turn
                except Exception as exc:
                    from_body = exc
                    raise
        except Exception as exc:
            if exc is not from_body:
                self._on_error(exc)
            raise
        finally:
            self._on_end()


@attrs.frozen(kw_only=True)
class TaskContext:
    """The argument of a solver. A solver is called once for each attempt.

    Attributes:
        task: The task.
        thread: The thread of the attempt.
        workspace: The working directory of its agent.
        attempt: The number of the attempt, starting at 1.
        codex: The client of the server on which the attempt began. Operations on it are not durable.
    """

    task: Task
    thread: TaskThread
    workspace: Path
    attempt: int
    codex: Codex = attrs.field(repr=False)


async def solve_prompt(ctx: TaskContext) -> Any:
    """Solve a task by running its prompt. This is the default solver.

    Returns:
        The final response, or its value if there is an ``output_schema``.

    Raises:
        OutputError: The turn was interrupted by a policy, or the final response is not JSON, although there is an
            ``output_schema``.
        CodexError: As in :meth:`TaskThread.run`.
    """
    result = await ctx.thread.run(ctx.task.prompt)
    if result.status != TurnStatus.completed:
        raise errors.OutputError(result.final_response, f"the turn was {result.status}", result)
    if ctx.task.options.get("output_schema") is None:
        return result.final_response
    try:
        return msgspec.json.decode(result.final_response or "")
    except msgspec.DecodeError as exc:
        raise errors.OutputError(result.final_response, f"it is not JSON: {exc}", result) from exc
