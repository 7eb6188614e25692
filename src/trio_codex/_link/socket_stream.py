"""A stream over a connected socket that never raises SIGPIPE."""

from __future__ import annotations

import errno
import socket
from typing import Final

import trio

_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)


class SocketStream(trio.abc.Stream):
    """A stream whose writes raise no SIGPIPE, which would kill a program that has reset its handler.

    Args:
        stream: The stream to wrap.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._is_sending = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See :class:`trio.abc.SendStream`."""
        if self._is_sending:
            raise trio.BusyResourceError("another task is writing to this socket")
        self._is_sending = True
        try:
            await trio.lowlevel.checkpoint()
            with memoryview(data) as rest:
                sent = 0
                while sent < len(rest):
                    sent += await self._stream.socket.send(rest[sent:], _NO_SIGNAL)
        except OSError as exc:
            if exc.errno in (errno.EBADF, errno.ENOTSOCK):
                raise trio.ClosedResourceError("this socket was closed") from None
            raise trio.BrokenResourceError(f"socket connection broken: {exc}") from exc
        finally:
            self._is_sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See :class:`trio.abc.ReceiveStream`."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()
