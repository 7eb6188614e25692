"""How to have codex start the MCP server of this package. What that server does is in its own module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def mcp_server() -> dict[str, Any]:
    """Give the configuration of a small MCP server for :func:`offline_home`.

    ::

        offline_home(model, mcp_servers={"held": mcp_server()})
        model.respond(ToolCall("ask", namespace="mcp__held"))

    Its tools are ``ask``, which asks for a form (``schema`` among its arguments asks for another one), ``ask_url``, which
    asks to visit a page, ``plain``, which needs an approval, and ``safe``, which says that it only reads. The first two
    give the answer that they got, the others their arguments. It has one resource, ``note://greeting``.
    """
    program = Path(__file__).with_name("_mcp_server.py")
    return {"command": sys.executable, "args": ["-I", "-S", str(program)]}
