"""The streams of a remote process: output arrives in notifications, and input is sent in requests.

They follow the contracts of Trio's abstract streams: a failure raises :class:`trio.BrokenResourceError` with its
cause, use after closing raises :class:`trio.ClosedResourceError`, and concurrent use raises
:class:`trio.BusyResourceError`.
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

    from trio_codex._link.call import Call

WRITE_BYTES: Final = 1024 * 1024
"""Bytes of stdin per request.

The server queues up to 128 requests for a command that does not read its stdin. If that queue is full, it cannot even
accept the request that ends the command (Q51), so input is sent in few large requests.
"""


class _OneTask:
    """Prevents concurrent use of a stream."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            raise trio.BusyResourceError(f"another task is {self._doing}")
        self._taken = True

    def __exit__(self, *_: object) -> None:
        self._taken = False


class RemoteOutput(trio.abc.ReceiveStream):
    """An output stream of a remote process, with a buffer of ``limit`` bytes.

    The reader fills its buffer and never blocks. Once the buffer is full it accepts nothing more, and reading fails
    after the buffered bytes.
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
        """Add output from the process. Called by the reader."""
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
        """End the stream after the buffered bytes, normally or with an error. Only the first call has an effect."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._waiting.unpark_all()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return available bytes, at least one; ``b""`` at the end. See :class:`trio.abc.ReceiveStream`."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        with self._one_task:
            await trio.lowlevel.checkpoint()
            while not (self._buffer or self._ended or self._closed):
                await self._waiting.park()
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if not self._buffer and self._error is not None:
            raise trio.BrokenResourceError("the process's output was lost") from self._error()
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[: len(data)]
        if not self._buffer:
            self._pieces = 0
        return data

    async def aclose(self) -> None:
        """Discard buffered and later output. The process is not notified."""
        self._closed = True
        self._buffer.clear()
        self._waiting.unpark_all()
        await trio.lowlevel.checkpoint()


class RemoteInput(trio.abc.SendStream):
    """The stdin of a remote process."""

    def __init__(self, begin: Callable[[dict[str, object]], Awaitable[Call]]) -> None:
        self._begin = begin
        self._closed = False
        self._ended = False
        self._call: Call | None = None
        self._one_task = _OneTask("sending")

    def end(self) -> None:
        """Fail the current send and later ones, because the process has ended."""
        self._ended = True
        if self._call is not None:
            self._call.give_up()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes as fast as the server accepts them. See :class:`trio.abc.SendStream`."""
        with self._one_task:
            await trio.lowlevel.checkpoint()
            self._check()
            with memoryview(data).cast("B") as view:
                for start in range(0, len(view), WRITE_BYTES):
                    self._check()
                    await self._write(b64encode(view[start : start + WRITE_BYTES]).decode())

    async def wait_send_all_might_not_block(self) -> None:
        """Return immediately, because the server does not report how much it would accept."""
        with self._one_task:
            await trio.lowlevel.checkpoint()
            self._check()

    async def aclose(self) -> None:
        """Send end of file, even if cancelled."""
        if not self._closed:
            self._closed = True
            if self._call is not None:
                self._call.give_up()
            if not self._ended:
                # Queued immediately without blocking, so it needs no timeout; the response does not matter.
                with trio.CancelScope(shield=True), suppress(CodexError):
                    await self._begin({"closeStdin": True})
        await trio.lowlevel.checkpoint()

    async def _write(self, delta: str) -> None:
        try:
            self._call = await self._begin({"deltaBase64": delta})
            # No timeout: once its queue is full, the server answers only when the process reads.
            await self._call.answer()
        except CodexError as exc:
            if self._closed:
                raise trio.ClosedResourceError("stdin was closed") from None
            raise trio.BrokenResourceError("the process or its stdin has ended") from exc
        finally:
            if self._call is not None:
                self._call.give_up()
                self._call = None

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("stdin was closed")
        if self._ended:
            raise trio.BrokenResourceError("the process has ended")
