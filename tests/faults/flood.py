"""A server that sends many messages, on any number of threads and turns. The input of a turn selects its behavior.

``say N`` sends ``N`` numbered deltas, and handles other requests between them; ``ask`` requests an approval and
completes with the answer; ``hang`` ends when it is interrupted; any other input is echoed.
"""

import itertools
import json
import os
import select

from server import RESULTS

CHUNK = 500
"""The number of deltas between checks of stdin."""

heard = []
numbers = itertools.count(1)
asking = {}


def put(*messages):
    data = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    while data:
        data = data[os.write(1, data) :]


def event(method, thread_id, **params):
    return {"method": method, "params": {"threadId": thread_id, **params}}


def delta(thread_id, turn_id, text):
    return event("item/agentMessage/delta", thread_id, turnId=turn_id, itemId=f"item-{turn_id}", delta=text)


def end(thread_id, turn_id, status="completed"):
    put(event("turn/completed", thread_id, turn={"id": turn_id, "items": [], "status": status}))


def say(thread_id, turn_id, count):
    for start in range(0, count, CHUNK):
        put(*(delta(thread_id, turn_id, f"{number} ") for number in range(start, min(start + CHUNK, count))))
        while select.select([0], [], [], 0)[0]:
            serve()
    end(thread_id, turn_id)


def run(thread_id, text):
    turn_id = f"turn-{next(numbers)}"
    yield {"turn": {"id": turn_id, "items": [], "status": "inProgress"}}
    put(event("turn/started", thread_id, turn={"id": turn_id, "items": [], "status": "inProgress"}))
    word, _, count = text.partition(" ")
    if word == "say":
        say(thread_id, turn_id, int(count))
    elif word == "ask":
        asking[turn_id] = thread_id
        params = {"threadId": thread_id, "turnId": turn_id, "itemId": "item-1", "startedAtMs": 0}
        put({"id": turn_id, "method": "item/commandExecution/requestApproval", "params": params})
    elif word != "hang":
        put(delta(thread_id, turn_id, text))
        end(thread_id, turn_id)


def handle(message):
    method, params = message.get("method"), message.get("params")
    heard.append(method)
    if method is None:
        thread_id = asking.pop(message["id"])
        put(delta(thread_id, message["id"], message["result"]["decision"]))
        end(thread_id, message["id"])
    elif method == "turn/start":
        turn = run(params["threadId"], params["input"][0]["text"])
        put({"id": message["id"], "result": next(turn)})
        next(turn, None)
    elif method == "turn/interrupt":
        put({"id": message["id"], "result": {}})
        end(params["threadId"], params["turnId"], "interrupted")
    elif method == "thread/start":
        thread = RESULTS[method]["thread"] | {"id": f"thread-{next(numbers)}"}
        put({"id": message["id"], "result": RESULTS[method] | {"thread": thread}})
    elif method == "test/heard":
        put({"id": message["id"], "result": heard})
    elif "id" in message:
        put({"id": message["id"], "result": RESULTS.get(method, {})})


unread = b""


def serve():
    global unread
    data = os.read(0, 1 << 20)
    if not data:
        os._exit(0)
    *lines, unread = (unread + data).split(b"\n")
    for line in lines:
        handle(json.loads(line))


if __name__ == "__main__":
    while True:
        serve()
