"""Our ends of a pipe, as streams that try before they wait: Unix.

They own a descriptor, and know nothing of processes or lines. Trio's own stream takes a turn of the scheduler before each
read and each write, a quarter of what a round trip to a server costs. These take none where they wait anyway.
"""

from __future__ import annotations

import errno
import os
from abc import abstractmethod
from typing import Final, NoReturn

import trio

RECEIVE_BYTES: Final = 64 * 1024
"""What is read at once if nobody says how much: the default capacity of a pipe."""

CLOSED: Final = "the pipe was closed on this side"


class DirectSendStream(trio.abc.SendStream):
    """A stream that can also be written to at once, by whoever has something to send."""

    @abstractmethod
    def send_nowait(self, data: bytes | memoryview) -> int:
        """Write as much as goes without waiting; give how many bytes that was.

        Only while nobody is in :meth:`send_all`.

        Raises:
            trio.BrokenResourceError: Nobody reads any more.
            trio.ClosedResourceError: It was closed on this side.
        """


class _PipeEnd:
    """One end of a pipe, not blocking, closed once."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._busy = False

    def __del__(self) -> None:
        # No task can be waiting for it: it would hold on to the stream.
        if self._fd >= 0:
            os.close(self._fd)

    def fileno(self) -> int:
        """Give the descriptor; -1 once it is closed."""
        return self._fd

    def close(self) -> None:
        """Close it without a checkpoint. Who waits for it gets :exc:`trio.ClosedResourceError`."""
        if self._fd >= 0:
            # Forgotten before it is closed: its number may belong to something else at once.
            fd, self._fd = self._fd, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)

    async def aclose(self) -> None:
        """Close it."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _begin(self, what: str) -> None:
        if self._fd < 0:
            raise trio.ClosedResourceError(CLOSED)
        if self._busy:
            raise trio.BusyResourceError(f"another task {what} this pipe")
        self._busy = True


class PipeSendStream(_PipeEnd, DirectSendStream):
    """The end of a pipe that is written to. Owns the descriptor that it is given."""

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            _fail(error)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._begin("writes to")
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            with memoryview(data) as rest:
                sent = self.send_nowait(rest)
                while sent < len(rest):
                    await trio.lowlevel.wait_writable(self._fd)
                    sent += self.send_nowait(rest[sent:])
            # Everything is written: to be cancelled here must not look as if it were not.
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._busy = False

    async def wait_send_all_might_not_block(self) -> None:
        self._begin("writes to")
        try:
            await trio.lowlevel.wait_writable(self._fd)
        finally:
            self._busy = False


class PipeReceiveStream(_PipeEnd, trio.abc.ReceiveStream):
    """The end of a pipe that is read from. Owns the descriptor that it is given."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._emptied = True
        """Whether the last read took all there was, so that the next one has to wait."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = RECEIVE_BYTES if max_bytes is None else max_bytes
        if size < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        self._begin("reads from")
        try:
            if not self._emptied:
                # Before the read: while others run, more comes.
                await trio.lowlevel.checkpoint()
                if (data := self._receive(size)) is not None:
                    return data
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                if (data := self._receive(size)) is not None:
                    return data
        finally:
            self._busy = False

    def _receive(self, size: int) -> bytes | None:
        """Read what there is; ``None`` if that is nothing, and ``b""`` if nothing more will come."""
        try:
            data = os.read(self._fd, size)
        except BlockingIOError:
            return None
        except OSError as error:
            _fail(error)
        self._emptied = len(data) < size
        return data


def _fail(error: OSError) -> NoReturn:
    if error.errno == errno.EBADF:
        raise trio.ClosedResourceError(CLOSED) from None
    raise trio.BrokenResourceError(f"the pipe is broken: {error.strerror}") from error
