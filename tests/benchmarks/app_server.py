"""A server that only writes prepared output. Run as ``python -I -S app_server.py DIRECTORY [PIPE_BYTES]``.

``DIRECTORY`` holds ``results.json``, the answers to plain requests, and one file for each stream of events. The text
of a turn selects the output:

``NAME``
    the stream ``NAME``, immediately, as fast as the pipe accepts it;
``NAME COUNT``
    the same, once ``COUNT`` turns have been started;
``ask COUNT``
    ``COUNT`` approvals, each after the answer to the previous one;
``idle``
    nothing until it is interrupted.

The answer to ``fs/readFile`` is the prepared file, as a result.

Ids are computed from numbers, so streams can be prepared in advance. No benchmark waits for this server: each
``write`` fills the pipe, and nothing is encoded during a measurement. (The exception is the round trip of a request.
A client that does nothing else measures the server's share of it.)
"""

import fcntl
import json
import os
import sys
import time
import zlib


def thread_id(number):
    return f"019a2b4c-7d00-7e20-9f00-{number:012}"


def turn_id(thread, text):
    """Return the id of the turn with this text on a thread. No server uses an id for two turns."""
    return f"{zlib.crc32(text.encode()):08x}-7d00-7e20-a000-{thread[-12:]}"


def encode(message):
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def notification(method, **params):
    return encode({"method": method, "params": params, "emittedAtMs": 1795221091894})


def turn(turn_id, status):
    return {
        "id": turn_id,
        "rootTurnId": turn_id,
        "items": [],
        "itemsView": "notLoaded",
        "status": status,
        "error": None,
        "startedAt": 1795221091,
        "completedAt": None,
        "durationMs": None,
    }


def started(thread, text):
    return notification("turn/started", threadId=thread, turn=turn(turn_id(thread, text), "inProgress"))


def ended(thread, text, status="completed"):
    return notification("turn/completed", threadId=thread, turn=turn(turn_id(thread, text), status))


class Server:
    """One connection, with the requests so far and the prepared responses."""

    def __init__(self, directory):
        self.directory = directory
        with open(f"{directory}/results.json") as file:
            self.results = json.load(file)
        self.streams = {}
        self.threads = 0
        self.turns = set()
        self.waiting = {}
        self.idle = {}
        self.asking = None
        self.seconds = []
        self.unread = b""

    def run(self):
        while data := os.read(0, 1 << 20):
            *lines, self.unread = (self.unread + data).split(b"\n")
            for line in lines:
                self.take(line)

    def take(self, line):
        message = json.loads(line)
        method = message.get("method")
        if method is None:
            self.answered()
        elif method == "turn/start":
            self.start_turn(message)
        elif method == "thread/start":
            self.threads += 1
            result = self.results[method]
            result["thread"]["id"] = thread_id(self.threads)
            self.answer(message, result)
        elif method == "turn/interrupt":
            self.answer(message, {})
            turn_id = message["params"]["turnId"]
            self.write(ended(*self.idle.pop(turn_id), "interrupted"))
        elif method == "test/seconds":
            self.answer(message, self.seconds)
        elif method == "fs/readFile":
            result = self.stream(message["params"]["path"])
            self.write(b'{"id":%b,"result":%b}\n' % (json.dumps(message["id"]).encode(), result))
        elif "id" in message:
            self.answer(message, self.results.get(method, {}))

    def start_turn(self, message):
        params = message["params"]
        thread, text = params["threadId"], params["input"][0]["text"]
        name, _, count = text.partition(" ")
        assert (thread, text) not in self.turns, f"a second turn with the text {text!r}"
        self.turns.add((thread, text))
        stream = None if name in ("ask", "idle") else self.stream(name)  # read before a client waits for it
        self.answer(message, {"turn": turn(turn_id(thread, text), "inProgress")})
        if name == "idle":
            self.idle[turn_id(thread, text)] = (thread, text)
            self.write(started(thread, text))
        elif name == "ask":
            self.asking = [thread, text, int(count)]
            self.seconds.clear()
            self.write(started(thread, text))
            self.ask()
        else:
            self.waiting[name] = self.waiting.get(name, 0) + 1
            if self.waiting[name] == int(count or 1):
                del self.waiting[name]
                self.write(stream)

    def ask(self):
        thread, text, left = self.asking
        params = {
            "kind": "command",
            "threadId": thread,
            "turnId": turn_id(thread, text),
            "itemId": f"call_{left}",
            "startedAtMs": 1795221091810,
            "reason": "it has to",
            "command": "/bin/bash -c 'echo granted'",
            "cwd": "/",
        }
        line = encode({"method": "item/commandExecution/requestApproval", "id": left, "params": params})
        self.asked_at = time.perf_counter()
        self.write(line)

    def answered(self):
        self.seconds.append(time.perf_counter() - self.asked_at)
        self.asking[2] -= 1
        if self.asking[2]:
            self.ask()
        else:
            self.write(ended(*self.asking[:2]))

    def stream(self, name):
        if name not in self.streams:
            with open(f"{self.directory}/{name}", "rb") as file:
                self.streams[name] = file.read()
        return self.streams[name]

    def answer(self, message, result):
        self.write(encode({"id": message["id"], "result": result}))

    def write(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


if __name__ == "__main__":
    if sys.argv[2:]:
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, int(sys.argv[2]))
    Server(sys.argv[1]).run()
