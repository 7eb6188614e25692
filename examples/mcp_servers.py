"""Inspect the MCP servers of a thread, call a tool, and read a resource, without a turn.

One server is the one in ``trio_codex.testing``, and the other cannot start. Run this with your own Codex login, or with
--offline against a scripted model (which this example does not use).
"""

import json

import attrs
import trio
from _offline import example_config

from trio_codex import open_codex, wire
from trio_codex.testing import mcp_server


async def main() -> None:
    """Run the example."""
    server = mcp_server()
    overrides = [f"mcp_servers.notes.{key}={json.dumps(value)}" for key, value in server.items()]
    overrides.append('mcp_servers.broken.command="/nonexistent/server"')
    async with example_config("mcp_servers") as config:
        config = attrs.evolve(config, config_overrides=overrides)
        async with open_codex(config) as codex, await codex.thread_start() as thread:
            for name in ("notes", "broken"):
                status = await thread.mcp.status(name)
                print(
                    f"{name} is {status.runtime_status}:",
                    ", ".join(sorted(status.tools)) or status.tools_error,
                )

            response = await thread.mcp.call("notes", "safe", {"page": 7})
            print("called:", response.content[0]["text"])
            for content in await thread.mcp.read_resource("notes", "note://greeting"):
                if isinstance(content, wire.TextResourceContent):
                    print("read:", content.text)


if __name__ == "__main__":
    trio.run(main)
