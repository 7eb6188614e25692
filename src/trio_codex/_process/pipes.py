"""This side's ends of a server's standard streams on Unix, as streams that try an operation before they wait.

Trio's own streams execute a checkpoint before each read and write, which is a quarter of the cost of a round trip to a
server. These streams skip it where they wait anyway.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from trio_codex._link.channel import DirectSendStream

if TYPE_CHECKING:
    from collections.abc import Generator

SEND_BYTES: Final = 256 * 1024
"""Requested capacity of stdin. If the system refuses it, the default stays."""

PIPE_BYTES: Final = 1024 * 1024
"""Requested capacity of stdout, instead of the default of 64 KiB. Measured: twice the throughput. An unprivileged user
is limited to 64 MiB in total; beyond that, the default stays."""

RECEIVE_BYTES: Final = 64 * 1024
"""Default size of a read: the default capacity of a pipe."""

CLOSED: Final = "the pipe was closed on this side"

_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)
_F_SETPIPE_SZ: Final = 1031
"""``fcntl.F_SETPIPE_SZ``, which is missing from a Python built with old headers."""


class _PipeEnd:
    """One end of a pipe: non-blocking, and closed only once."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._busy = False

    def __del__(self) -> None:
        # No task can be waiting on it: a waiting task would hold a reference to the stream.
        if self._fd >= 0:
            os.close(self._fd)

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        return self._fd

    def close(self) -> None:
        """Close it without a checkpoint. Tasks that wait on it get :exc:`trio.ClosedResourceError`."""
        if self._fd >= 0:
            # Clear the number before closing: it may be reused immediately.
            fd, self._fd = self._fd, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def _begin(self, what: str) -> None:
        if self._fd < 0:
            raise trio.ClosedResourceError(CLOSED)
        if self._busy:
            raise trio.BusyResourceError(f"another task {what} this pipe")
        self._busy = True


class PipeSendStream(_PipeEnd, DirectSendStream):
    """The writing end of a server's stdin: one of a pair of sockets. Takes ownership of the socket.

    It is a socket because pipes have two drawbacks. Writing to a pipe without a reader kills a program in which SIGPIPE
    has its default action. And a server sees EOF on a pipe only once every forked copy of this process has closed it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        super().__init__(sock.fileno())
        self._owner = os.getpid()

    def __del__(self) -> None:
        self._fd = -1
        self._socket.close()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            trio.lowlevel.notify_closing(fd)
            # Send EOF even if a forked copy of this process keeps the socket open, but never from such a copy.
            if os.getpid() == self._owner:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
            self._socket.close()

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data, _NO_SIGNAL)
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
            # Everything is written, so do not raise Cancelled.
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
    """The reading end of a pipe. Takes ownership of the descriptor."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._emptied = True
        """Whether the last read emptied the pipe, so that the next one has to wait."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = RECEIVE_BYTES if max_bytes is None else max_bytes
        if size < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        self._begin("reads from")
        try:
            if not self._emptied:
                # Checkpoint before the read: more data arrives while other tasks run.
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
        """Read available data; ``None`` if there is none, ``b""`` on EOF."""
        try:
            data = os.read(self._fd, size)
        except BlockingIOError:
            return None
        except OSError as error:
            _fail(error)
        self._emptied = len(data) < size
        return data


class ServerStreams:
    """The three standard streams of a server: this side's ends, and the server's.

    ``lent`` holds the server's ends of stdin, stdout and stderr, in that order.

    Raises:
        OSError: The descriptor limit is reached. Nothing stays open.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            with contextlib.suppress(OSError):
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            self.stdin = PipeSendStream(ours)
            stack.callback(self.stdin.close)
            self.stdout, stdout = self._open_pipe(stack)
            self.stderr, stderr = self._open_pipe(stack)
            _enlarge(self.stdout.fileno())
            stack.pop_all()
        self.lent = [theirs.detach(), stdout, stderr]

    def _open_pipe(self, stack: contextlib.ExitStack) -> tuple[PipeReceiveStream, int]:
        read, write = os.pipe()
        stack.callback(os.close, write)
        stream = PipeReceiveStream(read)
        stack.callback(stream.close)
        return stream, write

    def close_lent(self) -> None:
        """Close the server's ends once it has inherited them."""
        while self.lent:
            os.close(self.lent.pop())

    def close(self) -> None:
        """Close this side's ends, without a checkpoint."""
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


@contextlib.contextmanager
def above_standard_streams() -> Generator[None]:
    """Keep descriptors that the body opens above 2, even if 0, 1 or 2 is closed, as in a daemon.

    Otherwise text printed to stdout or stderr could be sent to the server.
    """
    fillers: list[int] = []
    try:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            fillers.append(fd)
        os.close(fd)
        yield
    finally:
        for fd in fillers:
            os.close(fd)


def _enlarge(fd: int) -> None:
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)


def _fail(error: OSError) -> NoReturn:
    if error.errno == errno.EBADF:
        raise trio.ClosedResourceError(CLOSED) from None
    raise trio.BrokenResourceError(f"the pipe is broken: {error.strerror}") from error
