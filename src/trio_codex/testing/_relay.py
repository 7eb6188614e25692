"""The process of a scripted server: its streams are the script's, and it goes wrong as only a process can.

A program of its own, run as ``python -I -S _relay.py SOCKET`` and stdlib-only. It owns the streams, the exit status and the
children, and knows nothing of lines: what the script sends over the socket is written to stdout, what comes on stdin is
passed on. The script's end is in :mod:`._fake_process`, and so is the meaning of each fault.

What the script sends are orders: a letter, the size of what follows in four bytes, and that.
"""

import os
import select
import signal
import socket
import struct
import sys
import time

ORDER = struct.Struct(">cI")

CHUNK = 65536

UNHEARD = 4 * 1024 * 1024
"""Bytes that are kept for a script that does not read; beyond that stdin is not read either."""

DRIBBLE = 32
"""Bytes that are written at once by a process that is slow, every millisecond."""

PAUSE = 0.1
"""Seconds that a process is stopped which goes on again."""

FLOOD = 10 * 1024 * 1024

PIECES = {
    "line": b"x",  # without a newline
    "lines": b"x\n",
    "bytes": b"\xff\xfe\xc3",  # no UTF-8
    "escapes": b"\x1b[31m\x1b]0;title\x07",
    "nul": b"\0",
}
"""What a flood on stderr is made of."""

ASKED_TO_END = ("SIGTERM", "SIGINT", "SIGHUP")


class Relay:
    """The process: one loop, which does what it is told in the order in which it is told."""

    def __init__(self, path: str) -> None:
        self._script = socket.socket(socket.AF_UNIX)
        self._script.connect(path)
        self._orders = bytearray()
        self._unheard = bytearray()
        self._at_eof: list[str] = []
        self._reads = False
        self._writes = True
        self._stays = False
        self._piece = CHUNK

    def run(self) -> None:
        """Relay until the script hangs up, stdin ends, or a fault is the end."""
        while True:
            sources: list[int] = [self._script.fileno()]
            if self._reads and len(self._unheard) < UNHEARD:
                sources.append(0)
            readable, writable, _ = select.select(sources, sources[:1] if self._unheard else [], [])
            if writable:
                # Never waits for the script, which may be waiting for us to write.
                del self._unheard[: self._script.send(self._unheard, socket.MSG_DONTWAIT)]
            # Orders first: what the script said before the client closed stdin is done before that is the end.
            if sources[0] in readable:
                self._obey()
            elif 0 in readable:
                self._hear()

    def _hear(self) -> None:
        data = os.read(0, CHUNK)
        self._unheard += data
        if not data:
            self._reads = False
            self._script.sendall(self._unheard)
            self._unheard.clear()
            for fault in self._at_eof:
                self._strike(fault)
            if not self._stays:
                os._exit(0)

    def _obey(self) -> None:
        data = self._script.recv(CHUNK)
        if not data:
            os._exit(0)
        self._orders += data
        while len(self._orders) >= ORDER.size:
            letter, size = ORDER.unpack_from(self._orders)
            end = ORDER.size + size
            if len(self._orders) < end:
                return
            body = bytes(self._orders[ORDER.size : end])
            del self._orders[:end]
            if letter == b"w":
                self._write(body)
            elif letter == b"r":
                self._reads = True
            elif letter == b"s":
                self._strike(body.decode())
            else:
                self._at_eof.append(body.decode())

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._writes:
            rest = rest[os.write(1, rest[: self._piece]) :]
            if self._piece == DRIBBLE:
                time.sleep(0.001)

    # -- faults ------------------------------------------------------------------------------------------------

    def _strike(self, fault: str) -> None:
        name, _, argument = fault.partition(":")
        getattr(self, name)(*[argument] if argument else [])

    def exit(self, status: str = "0") -> None:
        os._exit(int(status))

    def kill(self, name: str = "KILL") -> None:
        import resource

        number = signal.Signals[f"SIG{name}"]
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if name not in ("KILL", "STOP"):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def stop(self) -> None:
        self.kill("STOP")

    def pause(self) -> None:
        me = os.getpid()
        waker = os.fork()
        if waker == 0:
            os.kill(me, signal.SIGSTOP)
            time.sleep(PAUSE)
            os.kill(me, signal.SIGCONT)
            os._exit(0)
        os.waitpid(waker, 0)

    def hang(self) -> None:
        while True:
            time.sleep(1000)

    def deaf(self) -> None:
        self._reads = False

    def slow(self) -> None:
        self._piece = DRIBBLE

    def stubborn(self) -> None:
        self._stays = True
        for name in ASKED_TO_END:
            signal.signal(signal.Signals[name], signal.SIG_IGN)

    def close_stdin(self) -> None:
        self._reads = False
        os.close(0)

    def close_stdout(self) -> None:
        self._writes = False
        os.close(1)

    def grandchild(self, kind: str = "child") -> None:
        reader, writer = os.pipe()
        if os.fork() == 0:
            self._script.close()
            if kind != "child":
                os.setsid()
            if kind == "daemon":
                for name in ASKED_TO_END:
                    signal.signal(signal.Signals[name], signal.SIG_IGN)
                if os.fork():
                    os._exit(0)
            os.write(writer, b"x")
            self.hang()
        os.read(reader, 1)
        os.close(reader)
        os.close(writer)

    def flood_stderr(self, kind: str = "line") -> None:
        block = (PIECES[kind] * CHUNK)[:CHUNK]
        for _ in range(FLOOD // CHUNK):
            os.write(2, block)


if __name__ == "__main__":
    try:
        Relay(sys.argv[1]).run()
    except (BrokenPipeError, ConnectionResetError):  # the client or the script has gone
        os._exit(0)
