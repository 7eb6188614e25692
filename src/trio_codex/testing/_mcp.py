"""Configure codex to start this package's MCP server; the server itself is in ``_mcp_server``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def mcp_server() -> dict[str, Any]:
    """Return the configuration of a small MCP server, for :func:`offline_home`.

    ::

        offline_home(model, mcp_servers={"held": mcp_server()})
        model.respond(ToolCall("ask", namespace="mcp__held"))

    Its tools are ``ask``, which asks the user to fill in a form (the argument ``schema`` replaces it); ``ask_url``,
    which asks the user to visit a page; ``plain``, which needs approval; and ``safe``, which is marked read-only. The
    first two return the answer they received, the others return their arguments. It has one resource,
    ``note://greeting``.
    """
    program = Path(__file__).with_name("_mcp_server.py")
    return {"command": sys.executable, "args": ["-I", "-S", str(program)]}
