"""A small MCP server on stdio, as a separate program, whose tools elicit input from the user. Standard library only.

``ask``
    asks the user to fill in a form, and returns the answer; the argument ``schema`` replaces the form.
``ask_url``
    asks the user to visit a page.
``plain``
    returns its arguments. It is not marked read-only, so the client must approve each call.
``safe``
    returns its arguments, and is marked read-only.

It has one resource, ``note://greeting``, which is the text "hello".
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any, Final

FORM: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "title": "Name", "description": "Whom to greet"},
        "times": {"type": "integer", "minimum": 1, "default": 1},
        "loud": {"type": "boolean", "default": False},
        "greeting": {"type": "string", "enum": ["hello", "goodbye"]},
    },
    "required": ["name"],
}

PAGE: Final = "https://example.invalid/confirm"

RESOURCE: Final = {"uri": "note://greeting", "name": "greeting", "mimeType": "text/plain"}

_ANYTHING: Final[dict[str, Any]] = {"type": "object", "properties": {}}

TOOLS: Final[list[dict[str, Any]]] = [
    {"name": "ask", "description": "Asks the user to fill in a form.", "inputSchema": _ANYTHING, "annotations": {"readOnlyHint": True}},
    {"name": "ask_url", "description": "Asks the user to visit a page.", "inputSchema": _ANYTHING, "annotations": {"readOnlyHint":
    True}}, {"name": "plain", "title": "Plain tool", "description": "Returns its arguments.", "inputSchema": _ANYTHING},
    {"name": "safe", "description": "Reads.", "inputSchema": _ANYTHING, "annotations": {"readOnlyHint": True}},
]  # fmt: skip

_ids = itertools.count(1)
_answers: dict[str, dict[str, Any]] = {}
"""Answers received. Calls nest: a second one may ask while the first waits, and receive the answer to the first."""


def send(**message: Any) -> None:
    """Write a message."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def receive() -> dict[str, Any]:
    """Read a message; exit on EOF."""
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(0)
    message: dict[str, Any] = json.loads(line)
    return message


def ask(**params: Any) -> dict[str, Any]:
    """Ask the user of the client; return the answer or the error."""
    request_id = f"elicitation-{next(_ids)}"
    send(id=request_id, method="elicitation/create", params=params)
    while request_id not in _answers:
        serve(receive())
    return _answers.pop(request_id)


def call(name: str, arguments: dict[str, Any]) -> object:
    """Run a tool."""
    match name:
        case "ask":
            schema = arguments.get("schema", FORM)
            return ask(mode="form", message="Whom shall I greet?", requestedSchema=schema)
        case "ask_url":
            return ask(mode="url", message="Please confirm.", url=PAGE, elicitationId="page-1")
        case _:
            return arguments


def serve(message: dict[str, Any]) -> None:
    """Answer a request, or store a response for the call that waits for it; ignore notifications."""
    if "id" not in message:
        return
    if "method" not in message:
        _answers[message["id"]] = message["result"] if "result" in message else message["error"]
        return
    params: dict[str, Any] = message.get("params") or {}
    result: dict[str, Any] = {}
    match str(message["method"]):
        case "initialize":
            result = {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}, "resources": {}},
                "serverInfo": {"name": "trio-codex-testing", "version": "1"},
            }
        case "tools/list":
            result = {"tools": TOOLS}
        case "tools/call":
            text = json.dumps(call(params["name"], params.get("arguments") or {}))
            result = {"content": [{"type": "text", "text": text}]}
        case "resources/list":
            result = {"resources": [RESOURCE]}
        case "resources/templates/list":
            result = {"resourceTemplates": []}
        case "resources/read" if params["uri"] == RESOURCE["uri"]:
            result = {"contents": [{"uri": RESOURCE["uri"], "mimeType": "text/plain", "text": "hello"}]}
        case _:
            pass
    send(id=message["id"], result=result)


if __name__ == "__main__":
    while True:
        serve(receive())
