"""The process of a scripted server: it relays its streams to the script and injects process faults.

A separate, stdlib-only program, run as ``python -I -S _relay.py SOCKET``. It owns the streams, the exit status and the
children, and deals in bytes, not lines: bytes from the script go to stdout, and bytes from stdin go to the script.
:mod:`._fake_process` is the script's side of the socket and defines each fault.

The script sends orders: a one-byte opcode, the size of the payload in four bytes, and the payload.
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
"""How many bytes to buffer for a script that does not read; beyond that, stdin is not read either."""

DRIBBLE = 32
"""How many bytes a slow process writes each millisecond."""

PAUSE = 0.1
"""How long a paused process stays stopped, in seconds."""

FLOOD = 10 * 1024 * 1024

PIECES = {
    "line": b"x",  # without a newline
    "lines": b"x\n",
    "bytes": b"\xff\xfe\xc3",  # not UTF-8
    "escapes": b"\x1b[31m\x1b]0;title\x07",
    "nul": b"\0",
}
"""The content of a flood on stderr."""

ASKED_TO_END = ("SIGTERM", "SIGINT", "SIGHUP")


class Relay:
    """The process: one loop that carries out orders in sequence."""

    def __init__(self, path: str) -> None:
        self._script = socket.socket(socket.AF_UNIX)
        self._script.connect(path)
        self._orders = bytearray()
        self._unsent = bytearray()
        self._at_eof: list[str] = []
        self._reads = False
        self._writes = True
        self._stays = False
        self._write_size = CHUNK

    def run(self) -> None:
        """Relay until the script disconnects, stdin reaches EOF, or a fault ends the process."""
        while True:
            sources: list[int] = [self._script.fileno()]
            if self._reads and len(self._unsent) < UNHEARD:
                sources.append(0)
            readable, writable, _ = select.select(sources, sources[:1] if self._unsent else [], [])
            if writable:
                # Never block on the script: it may be waiting for us to write.
                del self._unsent[: self._script.send(self._unsent, socket.MSG_DONTWAIT)]
            # Orders come first: those sent before the client closed stdin must be carried out before the process exits.
            if sources[0] in readable:
                self._obey()
            elif 0 in readable:
                self._hear()

    def _hear(self) -> None:
        data = os.read(0, CHUNK)
        self._unsent += data
        if not data:
            self._reads = False
            self._script.sendall(self._unsent)
            self._unsent.clear()
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
            opcode, size = ORDER.unpack_from(self._orders)
            end = ORDER.size + size
            if len(self._orders) < end:
                return
            body = bytes(self._orders[ORDER.size : end])
            del self._orders[:end]
            if opcode == b"w":
                self._write(body)
            elif opcode == b"r":
                self._reads = True
            elif opcode == b"s":
                self._strike(body.decode())
            else:
                self._at_eof.append(body.decode())

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._writes:
            rest = rest[os.write(1, rest[: self._write_size]) :]
            if self._write_size == DRIBBLE:
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
        self._write_size = DRIBBLE

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
