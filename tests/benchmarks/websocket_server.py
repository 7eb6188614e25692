"""The scripted server over a WebSocket. Run as ``python -I -S websocket_server.py DIRECTORY ADDRESS``.

``ADDRESS`` is the path of a unix socket, or ``tcp`` for a loopback port, which it prints. It serves one connection.
Like the real server, it sends every line as one frame. All frames are built before the measurements.
"""

import base64
import hashlib
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(__file__))

from app_server import Server  # found through the path above

KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(line):
    size = len(line)
    if size < 126:
        return b"\x81" + bytes([size]) + line
    if size < 2**16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + line
    return b"\x81\x7f" + size.to_bytes(8, "big") + line


class WebSocketServer(Server):
    """A server whose lines are frames."""

    def __init__(self, directory, connection):
        super().__init__(directory)
        self.connection = connection
        for name in os.listdir(directory):
            if "." not in name:
                with open(f"{directory}/{name}", "rb") as file:
                    self.streams[name] = b"".join(map(frame, file.read().splitlines()))

    def run(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.connection.recv(1 << 16)
        request, _, data = data.partition(b"\r\n\r\n")
        [key] = [
            line.split(b": ")[1]
            for line in request.splitlines()
            if line.lower().startswith(b"sec-websocket-key:")
        ]
        accept = base64.b64encode(hashlib.sha1(key + KEY).digest())
        self.connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        while True:
            while (taken := self.take_frame(data)) is not None:
                data = taken
            chunk = self.connection.recv(1 << 20)
            if not chunk:
                return
            data += chunk

    def take_frame(self, data):
        """Remove the first frame, and return the rest, or ``None`` if the frame is incomplete."""
        if len(data) < 2:
            return None
        size, head = data[1] & 127, 2
        if size > 125:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[2:head], "big")
        end = head + 4 + size
        if len(data) < end:
            return None
        if data[0] & 15 == 8:  # close
            sys.exit()
        mask, payload = data[head : head + 4], data[head + 4 : end]
        if payload:
            key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
            self.take((int.from_bytes(payload, "big") ^ key).to_bytes(size, "big"))
        return data[end:]

    def write(self, data):
        # Prepared frames start with a frame header, plain lines with a brace.
        self.connection.sendall(data if data[:1] == b"\x81" else b"".join(map(frame, data.splitlines())))


def main(directory, address):
    if address == "tcp":
        listener = socket.create_server(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
    sys.stdout.write(f"{listener.getsockname()[1] if address == 'tcp' else address}\n")
    sys.stdout.flush()
    connection, _ = listener.accept()
    WebSocketServer(directory, connection).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
