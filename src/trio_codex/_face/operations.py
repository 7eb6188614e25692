"""Operations that run in Trio for callers outside it, and the tasks that run them.

An operation runs inside a scope. A new task and cancel scope would take longer than most operations, so each scope
keeps a few idle tasks for reuse.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextvars import Context

MOST_IDLE: Final = 8
"""How many idle tasks a scope keeps."""


class Operation:
    """An operation in the Trio thread for callers in other threads. Faces define how they wait.

    Attributes:
        done: Whether it has ended in Trio.
        value: Its return value.
        error: Its exception.
        was_cut_off: Whether Trio cancelled it together with a scope around it.
        worker: The task that runs it.
        on_done: Called in the Trio thread when it has ended.
    """

    def __init__(self) -> None:
        self.done = self.was_cut_off = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.worker: Worker | None = None
        self.on_done: Callable[[Operation], object] | None = None

    def wake(self) -> None:
        """Wake all waiting callers. Called in the Trio thread."""
        raise NotImplementedError

    async def wait(self, cancel: Callable[[], object] | None = None) -> BaseException | None:
        """Wait until the operation is done. If the caller is interrupted, call ``cancel``, keep waiting, and return it."""
        raise NotImplementedError

    def finish(self, value: Any = None, error: BaseException | None = None) -> None:
        """Set the outcome and wake the callers. Only the first call has an effect."""
        if not self.done:
            self.value, self.error, self.done = value, error, True
            if self.on_done is not None:
                self.on_done(self)
            self.wake()

    def cancel(self) -> None:
        """Cancel the operation, in the Trio thread."""
        if not self.done and self.worker is not None:
            self.worker.cancel_scope.cancel()

    async def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:  # noqa: ASYNC910  # the function's
        """Call an async function, and finish with its outcome."""
        try:
            self.finish(await function(*args, **kwargs))
        except trio.Cancelled:
            self.was_cut_off = True
            raise
        except BaseException as exc:  # noqa: ASYNC103  # raised in the caller's thread
            subgroup: Any = getattr(exc, "subgroup", None)
            if subgroup is not None and subgroup(trio.Cancelled) is not None:
                self.was_cut_off = True
                raise
            self.finish(error=exc)  # noqa: ASYNC104
        finally:
            self.finish()


class Around:
    """What operations run in: a scope, a callback, or the client itself.

    Attributes:
        nursery: Runs the operations; ``None`` unless it is open.
        idle: Idle tasks, which can run another operation.
    """

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None
        self.idle: list[Worker] = []

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Allow operations to run inside this until the body ends, and then cancel them."""
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                try:
                    yield
                finally:
                    # From here on, nothing may be started, because the nursery would close before it runs.
                    self.nursery = None
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # Operations raise only Cancelled, and the enclosing scope expects it without a group.
            error: BaseException = group
            while exceptions := getattr(error, "exceptions", ()):
                error = exceptions[0]
            raise error from None  # noqa: ASYNC123  # a Cancelled has no cause of its own

    def begin(self, context: Context, operation: Operation, *call: Any) -> None:
        """Start an operation, in the Trio thread."""
        if self.nursery is None:
            operation.was_cut_off = True
            operation.finish()
        elif self.idle:
            self.idle.pop().resume(context, operation, call)
        else:
            context.run(self.nursery.start_soon, Worker(self, operation, call).run)


class Worker:
    """A task that runs operations in sequence, each in the context of its caller.

    Attributes:
        cancel_scope: Cancels the operation that it runs.
    """

    def __init__(self, around: Around, operation: Operation, call: tuple[Any, ...]) -> None:
        self.cancel_scope = trio.CancelScope()
        self._idle = around.idle
        self._call = (operation, call)
        operation.worker = self

    async def run(self) -> None:
        """Run operations until one is cancelled, or the scope ends."""
        self._task = trio.lowlevel.current_task()
        with self.cancel_scope:
            while True:
                await self._run_one()
                if self.cancel_scope.cancel_called or len(self._idle) >= MOST_IDLE:
                    return
                self._idle.append(self)
                await trio.lowlevel.wait_task_rescheduled(self._stop)

    async def _run_one(self) -> None:
        # The arguments and the outcome must not outlive the operation.
        operation, call = self._call
        del self._call
        await operation.run(*call)

    def _stop(self, _: object) -> trio.lowlevel.Abort:
        self._idle.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED

    def resume(self, context: Context, operation: Operation, call: tuple[Any, ...]) -> None:
        """Run another operation. The caller has removed this worker from the idle workers."""
        self._call = (operation, call)
        operation.worker = self
        self._task.context = context
        trio.lowlevel.reschedule(self._task)
