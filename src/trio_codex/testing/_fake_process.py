"""A process whose streams a script controls: the socket between them, and the orders sent over it.

It handles bytes, and is independent of lines and of the protocol. The process itself is the program :mod:`._relay`.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import trio

if TYPE_CHECKING:
    from collections.abc import Generator

ProcessFault: TypeAlias = Literal[
    "exit", "kill", "stop", "pause", "hang", "deaf", "slow", "stubborn",
    "close_stdin", "close_stdout", "grandchild", "flood_stderr",
]  # fmt: skip
"""Faults of a process; see :meth:`FakeServer.strike`."""

PROCESS_FAULTS: Final = frozenset(get_args(ProcessFault))

_KINDS: Final = {
    "grandchild": frozenset({"child", "session", "daemon"}),
    "flood_stderr": frozenset({"line", "lines", "bytes", "escapes", "nul"}),
    "kill": frozenset(name.removeprefix("SIG") for name in signal.Signals.__members__),
}
"""The arguments that a fault may take, apart from an exit status."""

PROGRAM: Final = Path(__file__).with_name("_relay.py")

BACKLOG: Final = 8
"""How many processes may be queued while another still runs."""

_ORDER: Final = struct.Struct(">cI")


def encode_fault(fault: str, argument: int | str | None) -> str:
    """Encode a fault and its argument as the single word that the process expects.

    Raises:
        ValueError: The fault does not take this argument.
    """
    if argument is None:
        return fault
    fits = isinstance(argument, int) if fault == "exit" else argument in _KINDS.get(fault, ())
    if not fits:
        raise ValueError(f"the fault {fault!r} does not take {argument!r}")
    return f"{fault}:{argument}"


def strike_order(fault: str, *, at_eof: bool = False) -> bytes:
    """Encode the order for a fault, now or on EOF on stdin."""
    return _order(b"e" if at_eof else b"s", fault.encode())


def write_order(data: bytes) -> bytes:
    """Encode the order to write these bytes."""
    return _order(b"w", data)


def _order(opcode: bytes, body: bytes) -> bytes:
    return _ORDER.pack(opcode, len(body)) + body


class ProcessStream(trio.abc.Stream):
    """The script's view of a process's streams: it sends to the process's stdout and receives its stdin.

    Processes are served one after another. When one ends, receiving reports EOF until :meth:`accept` takes the next.
    """

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self._sending = trio.StrictFIFOLock()
        self._process: trio.SocketStream | None = None
        self._runs = trio.Event()
        self._ended = trio.Event()
        self._ended.set()
        self._first_orders = b""

    async def accept(self) -> None:
        """Wait for a process to connect, and let it read."""
        self._process = await self._listener.accept()
        async with self._sending:
            orders, self._first_orders = self._first_orders + _order(b"r", b""), b""
            self._ended = trio.Event()
            self._runs.set()
            with suppress(trio.BrokenResourceError):  # it has exited already; receiving reports EOF
                await self._process.send_all(orders)

    async def order(self, orders: bytes) -> None:
        """Send encoded orders as soon as a process runs.

        Raises:
            trio.BrokenResourceError: The process has exited.
        """
        await self._runs.wait()
        async with self._sending:
            if self._process is None or self._ended.is_set():
                raise trio.BrokenResourceError("the process has ended")
            await self._process.send_all(orders)

    async def strike(self, fault: str, *, at_eof: bool = False) -> None:
        """Inject a fault into the process; if none runs, into the next one, before it reads anything.

        Raises:
            trio.BrokenResourceError: The process has exited.
        """
        order = strike_order(fault, at_eof=at_eof)
        if self._ended.is_set():
            self._first_orders += order
            await trio.lowlevel.checkpoint()
        else:
            await self.order(order)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Make the process write these bytes. See :class:`trio.abc.SendStream`."""
        await self.order(write_order(bytes(data)))

    async def wait_send_all_might_not_block(self) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self._runs.wait()
        assert self._process is not None
        await self._process.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes that the process read. See :class:`trio.abc.ReceiveStream`."""
        assert self._process is not None
        try:
            data = bytes(await self._process.receive_some(max_bytes))
        except trio.BrokenResourceError:  # it was killed with unread input
            data = b""
            await trio.lowlevel.checkpoint()
        if not data:
            self._ended.set()
        return data

    async def wait_ended(self) -> None:
        """Wait until everything that the running process has read has arrived, if a process runs."""
        await self._ended.wait()

    async def aclose(self) -> None:
        """Make the process exit, so that the next one can be accepted."""
        if self._process is None:
            await trio.lowlevel.checkpoint()
        else:
            self._ended.set()
            await self._process.aclose()


@contextmanager
def listening() -> Generator[tuple[ProcessStream, list[str], str]]:
    """Listen for processes; yield their stream, the command line that starts one, and a directory for it.

    Raises:
        OSError: The socket cannot be created, for example because the path of the temporary directory is too long.
        AttributeError: The system has no Unix sockets.
    """
    with (
        tempfile.TemporaryDirectory(prefix="trio-codex-") as directory,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        path = f"{directory}/socket"
        listener.bind(path)
        listener.listen(BACKLOG)
        processes = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        yield ProcessStream(processes), [sys.executable, "-I", "-S", str(PROGRAM), path], directory
