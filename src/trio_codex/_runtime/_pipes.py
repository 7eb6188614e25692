"""Our ends of a server's standard streams, as streams that try before they wait: Unix.

They own a descriptor, and know nothing of lines. Trio's own stream takes a turn of the scheduler before each
read and each write, a quarter of what a round trip to a server costs. These take none where they wait anyway.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from abc import abstractmethod
from typing import TYPE_CHECKING, Final, NoReturn

import trio

if TYPE_CHECKING:
    from collections.abc import Generator

SEND_BYTES: Final = 256 * 1024
"""Wanted capacity of stdin. The system bounds it, and where it does the default stays."""

PIPE_BYTES: Final = 1024 * 1024
"""Wanted capacity of stdout, next to 64 KiB by default. Measured: twice the throughput. An unprivileged user may have
64 MiB in all; where that is used up the default stays."""

RECEIVE_BYTES: Final = 64 * 1024
"""What is read at once if nobody says how much: the default capacity of a pipe."""

CLOSED: Final = "the pipe was closed on this side"

_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)
_F_SETPIPE_SZ: Final = 1031
"""``fcntl.F_SETPIPE_SZ``, which a Python that was built on old headers does not have."""


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
    """The end of a server's stdin that is written to: one of a pair of sockets. Owns the socket that it is given.

    A socket, because two things that a pipe does are not wanted. Writing to a pipe that nobody reads kills a program in
    which SIGPIPE has its default action, and a pipe ends for the server only when every forked copy of us has closed it.
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
            # The end for everybody, also where a forked copy of us holds on; such a copy must not end it for us.
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


class ServerStreams:
    """The three standard streams of a server: our ends, and those that the server is to get.

    Attributes:
        stdin: Where we write.
        stdout: Where we read.
        stderr: Where we read, too.
        lent: The descriptors of the other ends, in that order; closed by :meth:`close_lent`.

    Raises:
        OSError: There are no descriptors left. None stays open.
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
        """Close the ends of the server, once it has them."""
        while self.lent:
            os.close(self.lent.pop())

    def close(self) -> None:
        """Close our ends, without a checkpoint."""
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


@contextlib.contextmanager
def above_standard_streams() -> Generator[None]:
    """Keep descriptors that the body opens off 0, 1 and 2, where one of those is closed, as in a daemon.

    What somebody prints there must not come out as a line for the server.
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
