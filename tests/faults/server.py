"""A server that misbehaves once, at a given point. Run as ``python -I -S server.py FAULT [MOMENT POINT]``.

``FAULT`` is ``name`` or ``name:argument``, one of :data:`FAULTS` or :data:`REPLIES`. ``POINT`` is a write of
:data:`POINTS`, or a time between them: ``boot`` (before anything is read), ``idle`` (after the handshake), ``close`` (at
EOF on stdin). ``MOMENT`` is ``before``, ``during`` (half of the line is written), ``after`` or ``instead``. Apart from
the fault, the session is an ordinary one: one thread, and turns of one message.
"""

import json
import os
import resource
import signal
import sys
import time

THREAD = {
    "id": "thread-1",
    "sessionId": "thread-1",
    "forkedFromId": None,
    "preview": "",
    "ephemeral": False,
    "modelProvider": "fake",
    "createdAt": 0,
    "updatedAt": 0,
    "status": {"type": "idle"},
    "cwd": "/",
    "cliVersion": "0.0.0",
    "source": "appServer",
    "projectId": None,
    "turns": [],
}
RESULTS = {
    "initialize": {
        "userAgent": "fake/0.163.0 (Fake; none) unknown (fake; 0)",
        "codexHome": "/",
        "platformFamily": "unix",
        "platformOs": "linux",
    },
    "thread/start": {
        "thread": THREAD,
        "model": "fake",
        "modelProvider": "fake",
        "cwd": "/",
        "approvalPolicy": "on-request",
        "approvalsReviewer": "user",
        "sandbox": {"type": "readOnly"},
    },
    # For the new connection that ends the turns of a lost one.
    "thread/resume": {"initialTurnsPage": {"data": [{"id": "turn-1", "items": [], "status": "completed"}]}},
    "model/list": {"data": [], "nextCursor": None},
}
POINTS = ("initialize", "thread/start", "turn/start", "turn/started", "delta", "turn/completed")
"""The lines that the server writes in a session, in order."""

MESSAGE = "some text"
MEGABYTE = 1024 * 1024

# -- faults: what happens at the point ---------------------------------------------------------------------------------


def leave(status):
    os._exit(int(status))


def die(name):
    number = getattr(signal, f"SIG{name}")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if name not in ("KILL", "STOP"):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def is_stopped(pid):
    with open(f"/proc/{pid}/stat") as file:  # importing pathlib takes longer than all of this module
        return file.read().rpartition(")")[2].split()[0] == "T"


def pause():
    """Suspend the process for a while."""
    me = os.getpid()
    waker = os.fork()
    if waker == 0:
        while not is_stopped(me):
            time.sleep(0.005)
        time.sleep(0.1)
        os.kill(me, signal.SIGCONT)
        os._exit(0)
    os.kill(me, signal.SIGSTOP)
    os.waitpid(waker, 0)


def mute():
    """Neither read nor write anything more."""
    while True:
        time.sleep(1000)


def nothing():
    """Commit no fault."""


def slow():
    """Write every later line in small pieces."""
    global dribble
    dribble = 32


def stubborn():
    """Ignore EOF on stdin and every signal that can be ignored."""
    global stays
    stays = True
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def late(seconds):
    """Exit several seconds after EOF, and ignore SIGTERM."""
    global lateness
    lateness = float(seconds)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def lenient():
    """Drop lines that are not JSON, as the real server does."""
    global drops
    drops = True


def close_stdout():
    os.close(1)
    while os.read(0, 65536):
        pass
    os._exit(0)


def close_stdin():
    os.close(0)
    mute()


def grandchild(kind):
    """Start a process that holds the streams open: a child, a child in its own session, or a daemon that ignores signals."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        if kind != "child":
            os.setsid()
        if kind == "daemon":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            if os.fork():
                os._exit(0)
        os.write(writer, b"x")
        mute()
    os.read(reader, 1)


def orphan(kind):
    """Start such a process, and die by SIGKILL."""
    grandchild(kind)
    die("KILL")


def stderr(kind):
    """Write ten megabytes to stderr."""
    piece = {
        "line": b"x",  # without a newline
        "lines": b"x\n",
        "bytes": b"\xff\xfe\xc3",  # not UTF-8
        "escapes": b"\x1b[31m\x1b]0;title\x07",
        "nul": b"\0",
    }[kind]
    block = (piece * 65536)[:65536]
    for _ in range(10 * MEGABYTE // len(block)):
        os.write(2, block)


NOTE = b'{"method":"test/note","params":{"text":"%s"}}\n'
JUNK = {
    "blank": b"\n",
    "text": b"Loading configuration...\n",
    "nul": b"\0\0\0\n",
    "ansi": b"\x1b[32mINFO\x1b[0m ready\r\n",
    "invalid UTF-8": b"\xff\xfe{}\xc3\n",
    "utf-16": "hello\r".encode("utf-16") + b"\n",
    "bom": b"\xef\xbb\xbf{}\n",
    "truncated": b'{"method":"test/note","params":{"text":"\n',
    "two": b'{"method":"a"}{"method":"b"}\n',
    "number": b"5\n",
    "array": b'[{"id":1,"result":{}}]\n',
    "empty object": b"{}\n",
    "deep": b"[" * 1000 + b"]" * 1000 + b"\n",
    "very deep": b'{"a":' * 100_000 + b"\n",
    "oversize": b'{"method":"test/note","params":{"text":"' + b"x" * 100_000 + b'"}}\n',
    "oversize text": b"x" * 100_000 + b"\n",
    "no method, no id": b'{"params":{}}\n',
    "id null": b'{"id":null,"method":"test/ask","params":{}}\n',
    "method 5": b'{"method":5,"params":{}}\n',
    "stray reply": b'{"id":987654,"result":{}}\n',
    "stray error": b'{"id":"no-such","error":{"code":-32600,"message":"no"}}\n',
    # The rest are odd but valid messages.
    "U+2028": NOTE % "a\u2028b\u2029c\u0085d".encode(),
    "carriage return": NOTE.replace(b"\n", b"\r\n") % b"a",
    "duplicate keys": b'{"method":"test/old","method":"test/note","params":{"text":"a","text":"b"}}\n',
    "deep params": b'{"method":"test/note","params":' + b"[" * 500 + b"]" * 500 + b"}\n",
    "params in invalid UTF-8": b'{"method":"test/note","params":{"text":"\xff\xfe"}}\n',
    "params null": b'{"method":"test/note","params":null}\n',
    "no params": b'{"method":"test/note"}\n',
    "unknown members": b'{"jsonrpc":"2.0","method":"test/note","params":{},"more":[{}],"emittedAtMs":"soon"}\n',
}
MESSAGES = (
    "U+2028",
    "carriage return",
    "duplicate keys",
    "deep params",
    "params in invalid UTF-8",
    "params null",
    "no params",
    "unknown members",
)


def junk(kind):
    put(JUNK[kind])


TURN = {"threadId": "thread-1", "turnId": "turn-1"}
DRIFT = {
    "an unknown notification": ("turn/teleported", TURN),
    "an unknown item": (
        "item/completed",
        {**TURN, "item": {"type": "hologram", "id": "i"}, "completedAtMs": 0},
    ),
    "an item that is a string": ("item/completed", {**TURN, "item": "hologram", "completedAtMs": 0}),
    "an item without an id": (
        "item/completed",
        {**TURN, "item": {"type": "agentMessage"}, "completedAtMs": 0},
    ),
    "an unknown phase": (
        "item/completed",
        {
            **TURN,
            "item": {"type": "agentMessage", "id": "i", "text": "x", "phase": "encore"},
            "completedAtMs": 0,
        },
    ),
    "a delta that is a number": ("item/agentMessage/delta", {**TURN, "itemId": "i", "delta": 5}),
    "ids that are numbers": (
        "item/agentMessage/delta",
        {"threadId": 1, "turnId": 2, "itemId": 3, "delta": "x"},
    ),
    "the end of an unknown turn": (
        "turn/completed",
        {"threadId": "other", "turn": {"id": "other", "status": 7}},
    ),
    "a turn/started without a turn": ("turn/started", {"threadId": "thread-1", "turn": None}),
    "a withdrawal of an unknown request": (
        "serverRequest/resolved",
        {"threadId": "thread-1", "requestId": 99},
    ),
    "a withdrawal without an id": ("serverRequest/resolved", {"threadId": "thread-1", "requestId": None}),
    "an error without a reason": ("error", {**TURN, "willRetry": "perhaps"}),
    "usage that is a string": ("thread/tokenUsage/updated", {**TURN, "tokenUsage": "much"}),
    "params that are a list": ("item/agentMessage/delta", [TURN]),
}


def drift(kind):
    method, params = DRIFT[kind]
    put(line_of({"method": method, "params": params}))


COMMAND = {"threadId": "thread-1", "turnId": "turn-1", "itemId": "item-1", "startedAtMs": 0}
ASKED = {
    "an unknown request": ("item/quantum/approve", COMMAND),
    "an approval": ("item/commandExecution/requestApproval", COMMAND),
    "a file change": ("item/fileChange/requestApproval", COMMAND),
    "permissions": ("item/permissions/requestApproval", COMMAND),
    "an elicitation": ("mcpServer/elicitation/request", COMMAND),
    "a tool call": ("item/tool/call", COMMAND),
    "a question": ("item/tool/requestUserInput", COMMAND),
    "a token refresh": ("account/chatgptAuthTokens/refresh", {}),
    "an unreadable approval": ("item/commandExecution/requestApproval", [None]),
    "an approval for an unknown thread": (
        "item/commandExecution/requestApproval",
        {**COMMAND, "threadId": "other"},
    ),
    "an approval that is too long": (
        "item/commandExecution/requestApproval",
        {**COMMAND, "command": "x" * 100_000},
    ),
}


def ask(kind):
    """Send a request, and report the answer in ``test/answered``."""
    method, params = ASKED[kind]
    put(line_of({"id": "ask", "method": method, "params": params}))
    while "ask" not in answers:
        serve_line()
    put(line_of({"method": "test/answered", "params": answers.pop("ask")}))


FAULTS = {
    "exit": leave,
    "die": die,
    "pause": pause,
    "mute": mute,
    "nothing": nothing,
    "slow": slow,
    "stubborn": stubborn,
    "late": late,
    "lenient": lenient,
    "close_stdout": close_stdout,
    "close_stdin": close_stdin,
    "grandchild": grandchild,
    "orphan": orphan,
    "stderr": stderr,
    "junk": junk,
    "drift": drift,
    "ask": ask,
}

# -- replies that are written instead of the usual one ---------------------------------------------------------------

ERROR = {"code": -32603, "message": "it broke"}
REPLIES = {
    "never": lambda message: [],
    "twice": lambda message: [message, message],
    "after one with an unknown id": lambda message: [{**message, "id": 987654}, message],
    "after one with the id as a string": lambda message: [{**message, "id": str(message["id"])}, message],
    "after one with the id null": lambda message: [{**message, "id": None}, message],
    "after one with the id true": lambda message: [{**message, "id": True}, message],
    "after one with a float as its id": lambda message: [{**message, "id": message["id"] + 0.5}, message],
    "then as an error": lambda message: [message, {"id": message["id"], "error": ERROR}],
    "with a result and an error": lambda message: [{**message, "error": ERROR}],
    "with neither": lambda message: [{"id": message["id"]}],
    "as an error": lambda message: [{"id": message["id"], "error": ERROR}],
    "as an error with code 0": lambda message: [{"id": message["id"], "error": {"code": 0, "message": ""}}],
    "as an error with code -32001": lambda message: [
        {"id": message["id"], "error": {"code": -32001, "message": "Server overloaded; retry later."}}
    ],
    "as an error with a string as its code": lambda message: [
        {"id": message["id"], "error": {"code": "E", "message": ""}}
    ],
    "as an error without a message": lambda message: [{"id": message["id"], "error": {"code": -32603}}],
    "as an error that is a string": lambda message: [{"id": message["id"], "error": "it broke"}],
    "as an error that is null": lambda message: [{"id": message["id"], "error": None}],
    "with a string as its result": lambda message: [{"id": message["id"], "result": "done"}],
    "with null as its result": lambda message: [{"id": message["id"], "result": None}],
    "with a result that is a list": lambda message: [{"id": message["id"], "result": []}],
    "with an empty result": lambda message: [{"id": message["id"], "result": {}}],
    "with unknown members": lambda message: [
        {"jsonrpc": "2.0", **message, "result": {**message["result"], "more": [1]}, "more": {}}
    ],
    "too long": lambda message: [{"id": message["id"], "result": {"x": "x" * 100_000}}],
    "cut off": lambda message: [line_of(message)[:-10] + b"\n"],
    "in invalid UTF-8": lambda message: [b'{"id":%d,"result":{"x":"\xff\xfe"}}\n' % message["id"]],
    "too deep": lambda message: [
        b'{"id":%d,"result":%s%s}\n' % (message["id"], b"[" * 100_000, b"]" * 100_000)
    ],
    "unknown status": lambda message: [
        {
            **message,
            "params": {**message["params"], "turn": {"id": "turn-1", "items": [], "status": "exploded"}},
        }
    ],
    "no status": lambda message: [{**message, "params": {**message["params"], "turn": {"id": "turn-1"}}}],
    "status 5": lambda message: [
        {**message, "params": {**message["params"], "turn": {"id": "turn-1", "status": 5}}}
    ],
    "end too long": lambda message: [
        {**message, "params": {**message["params"], "more": "x" * 100_000}},
    ],
}

# -- the session -------------------------------------------------------------------------------------------------------

fault = moment = point = ""
answers = {}
heard = []
unread = b""
dribble = None
stays = False
lateness = 0.0
drops = False


def put(data):
    while data:
        data = data[os.write(1, data[:dribble]) :]
        if dribble:
            time.sleep(0.001)


def at_end():
    strike("close")
    if stays:
        mute()
    time.sleep(lateness)
    os._exit(0)


def line_of(message):
    return message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"


def strike(where):
    """Commit the fault if it belongs to this point."""
    global fault
    if where == point and fault:
        name, _, argument = fault.partition(":")
        fault = ""
        FAULTS[name](*[argument] if argument else [])


def write(where, message):
    global fault
    line = line_of(message)
    if where != point or not fault:
        put(line)
    elif moment == "before":
        strike(where)
        put(line)
    elif moment == "during":
        put(line[: len(line) // 2])
        strike(where)
        put(line[len(line) // 2 :])
    elif moment == "after":
        put(line)
        strike(where)
    else:
        # Only once: a retried request is answered normally.
        reply, fault = REPLIES[fault.partition(":")[2]], ""
        for part in reply(message):
            put(line_of(part))


def turn_event(where, method, **params):
    write(where, {"method": method, "params": {"threadId": "thread-1", **params}})


def run_turn():
    turn_event("turn/started", "turn/started", turn={"id": "turn-1", "items": [], "status": "inProgress"})
    turn_event("delta", "item/agentMessage/delta", turnId="turn-1", itemId="item-1", delta=MESSAGE)
    turn_event("turn/completed", "turn/completed", turn={"id": "turn-1", "items": [], "status": "completed"})


def handle(message):
    if "method" not in message:
        answers[message["id"]] = message
        return
    method = message["method"]
    heard.append(method)
    if method == "initialized":
        strike("idle")
    elif method == "turn/start":
        turn = {"id": "turn-1", "items": [], "status": "inProgress"}
        write("turn/start", {"id": message["id"], "result": {"turn": turn}})
        run_turn()
    elif method == "turn/interrupt":
        write("", {"id": message["id"], "result": {}})
        turn = {"id": "turn-1", "items": [], "status": "interrupted"}
        turn_event("", "turn/completed", turn=turn)
    elif method == "test/heard":
        write(method, {"id": message["id"], "result": heard})
    elif "id" in message:
        write(method, {"id": message["id"], "result": RESULTS.get(method, {})})


def serve_line():
    global unread
    while b"\n" not in unread:
        data = os.read(0, 65536)
        if not data:
            at_end()
        unread += data
    line, _, unread = unread.partition(b"\n")
    try:
        message = json.loads(line)
    except ValueError:
        if not drops:
            raise
        return
    handle(message)


if __name__ == "__main__":
    fault, moment, point = (*sys.argv[1:], "", "")[:3]
    strike("boot")
    while True:
        serve_line()
