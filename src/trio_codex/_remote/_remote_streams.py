"""The streams of a remote process: bytes that come as notifications, and bytes that go as requests.

They keep the contracts of Trio's abstract streams: what breaks is a :class:`trio.BrokenResourceError` with its cause, what
you closed a :class:`trio.ClosedResourceError`, and a second task at the same time a :class:`trio.BusyResourceError`.
"""

from __future__ import annotations

import operator
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from trio_codex.errors import CodexError, SubscriptionOverflow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from trio_codex._runtime._call import Call

WRITE_BYTES: Final = 1024 * 1024
"""Bytes of stdin in one request. The server queues 128 requests for a command that does not read, and while that queue is
full it does not even take the one that ends the command (Q51): the fewer, the better."""


class _OneTask:
    """Keeps a second task out of a stream."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            raise trio.BusyResourceError(f"another task is {self._doing}")
        self._taken = True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._taken = False


class RemoteOutput(trio.abc.ReceiveStream):
    """An output of a remote process.

    The reader fills its buffer and never waits: past the bound it takes nothing more, and reading fails once what was
    kept has been read.

    Args:
        limit: Bound of the buffer in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._pieces = 0
        self._ended = False
        self._error: Callable[[], Exception] | None = None
        self._closed = False
        self._one_task = _OneTask("receiving")
        self._waiting = trio.lowlevel.ParkingLot()

    def put(self, data: bytes) -> None:
        """Add what the process has printed. For the reader."""
        if self._ended or self._closed:
            return
        self._pieces += 1
        if len(self._buffer) + len(data) > self._limit:
            overflow = SubscriptionOverflow(self._pieces, len(self._buffer) + len(data))
            self.end(lambda: overflow)
        else:
            self._buffer += data
            self._waiting.unpark_all()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """End it after what is buffered: plainly, or with an error. Only the first time counts."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._waiting.unpark_all()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Give what there is, at least one byte; ``b""`` at its end. See :class:`trio.abc.ReceiveStream`."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        with self._one_task:
            await trio.lowlevel.checkpoint()
            while not (self._buffer or self._ended or self._closed):
                await self._waiting.park()
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if not self._buffer and self._error is not None:
            raise trio.BrokenResourceError("the output of the process was lost") from self._error()
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[: len(data)]
        if not self._buffer:
            self._pieces = 0
        return data

    async def aclose(self) -> None:
        """Drop what is buffered and what will come; the process is not told."""
        self._closed = True
        self._buffer.clear()
        self._waiting.unpark_all()
        await trio.lowlevel.checkpoint()


class RemoteInput(trio.abc.SendStream):
    """The stdin of a remote process.

    Args:
        begin: Queues a request that writes.
    """

    def __init__(self, begin: Callable[[dict[str, object]], Awaitable[Call]]) -> None:
        self._begin = begin
        self._closed = False
        self._ended = False
        self._call: Call | None = None
        self._one_task = _OneTask("sending")

    def end(self) -> None:
        """Fail what is being sent, and what will be: the process has ended."""
        self._ended = True
        if self._call is not None:
            self._call.give_up()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, at the pace at which the server takes them. See :class:`trio.abc.SendStream`."""
        with self._one_task:
            await trio.lowlevel.checkpoint()
            self._check()
            with memoryview(data).cast("B") as view:
                for start in range(0, len(view), WRITE_BYTES):
                    self._check()
                    await self._write(b64encode(view[start : start + WRITE_BYTES]).decode())

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: the server does not tell how much it would take."""
        with self._one_task:
            await trio.lowlevel.checkpoint()
            self._check()

    async def aclose(self) -> None:
        """Send the end of file, also if this is cancelled."""
        if not self._closed:
            self._closed = True
            if self._call is not None:
                self._call.give_up()
            if not self._ended:
                # Does not wait, so needs no bound: queued at once, and the answer is of no interest.
                with trio.CancelScope(shield=True), suppress(CodexError):
                    await self._begin({"closeStdin": True})
        await trio.lowlevel.checkpoint()

    async def _write(self, delta: str) -> None:
        try:
            self._call = await self._begin({"deltaBase64": delta})
            # Without a bound: once its queue is full, the server answers when the process reads.
            await self._call.answer()
        except CodexError as exc:
            if self._closed:
                raise trio.ClosedResourceError("stdin was closed") from None
            raise trio.BrokenResourceError("the process has ended, or its stdin has") from exc
        finally:
            if self._call is not None:
                self._call.give_up()
                self._call = None

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("stdin was closed")
        if self._ended:
            raise trio.BrokenResourceError("the process has ended")
