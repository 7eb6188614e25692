"""An MCP server over stdio that asks its user, and records everything it does: ``python mcp_server.py MARKS``.

Its tools: ``form`` asks its user to fill in a form, and ``link`` to visit a page. ``write`` only records its call; it is
not marked as read-only, so the agent needs approval. The records are lines of JSON: ``["called", tool]`` for a call,
and ``["answered", result]`` for the user's answer.
"""

import json
import sys

FORM = {
    "message": "Sure?",
    "requestedSchema": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
}
LINK = {
    "mode": "url", "message": "Please log in", "url": "https://example.org/login", "elicitationId": "login-1",
}  # fmt: skip

NOTHING = {"type": "object", "properties": {}}
WORD = {"type": "object", "properties": {"word": {"type": "string"}}}
TOOLS = [
    {"name": "form", "description": "asks", "inputSchema": NOTHING, "annotations": {"readOnlyHint": True}},
    {"name": "link", "description": "sends", "inputSchema": NOTHING, "annotations": {"readOnlyHint": True}},
    {"name": "write", "title": "Write it down", "description": "writes", "inputSchema": WORD},
]


def main(marks):
    waiting = {}
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        request_id, params = message["id"], message.get("params", {})
        match message.get("method"):
            case None:
                answered = message.get("result", message.get("error"))
                mark(marks, "answered", answered)
                send(id=waiting.pop(request_id), result=text(json.dumps(answered)))
            case "initialize":
                send(id=request_id, result=initialized(params["protocolVersion"]))
            case "tools/list":
                send(id=request_id, result={"tools": TOOLS})
            case "tools/call" if params["name"] == "write":
                mark(marks, "called", "write")
                send(id=request_id, result=text(f"wrote {params['arguments'].get('word')}"))
            case "tools/call":
                mark(marks, "called", params["name"])
                asking = f"asking-{request_id}"
                waiting[asking] = request_id
                send(
                    id=asking, method="elicitation/create", params=FORM if params["name"] == "form" else LINK
                )
            case _:
                send(id=request_id, error={"code": -32601, "message": "unknown"})


def initialized(version):
    return {
        "protocolVersion": version,
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "marks", "version": "1"},
    }


def text(value):
    return {"content": [{"type": "text", "text": value}]}


def mark(marks, *what):
    with open(marks, "a") as file:
        file.write(json.dumps(what) + "\n")


def send(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
