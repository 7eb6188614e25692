"""Answer an MCP server that asks the user to fill in a form, and decide which of its tools may be called.

The MCP server is the one in ``trio_codex.testing``. Run this with your own Codex login, or with --offline against a scripted
model.
"""

import json

import attrs
import trio
from _offline import example_config

from trio_codex import Policy, open_codex, policies
from trio_codex.policies import ElicitationDecision, ElicitationRequest, FormElicitation, McpToolApproval
from trio_codex.testing import mcp_server


async def decide(  # noqa: ASYNC124  # this one decides without waiting
    request: ElicitationRequest,
) -> ElicitationDecision:
    """Fill in the known fields of a form, and allow tool calls with small arguments."""
    decision: ElicitationDecision = policies.decline()
    match request:
        case FormElicitation(schema={"properties": {"name": _}}):
            decision = policies.accept(content={"name": "Ada", "times": 2})
        case McpToolApproval(arguments=arguments) if len(json.dumps(arguments)) < 100:
            decision = policies.accept("session")
        case _:
            pass
    print(f"{type(request).__name__} of {request.server_name}: {type(decision).__name__}")
    return decision  # noqa: ASYNC910  # as above


async def main() -> None:
    """Run the example."""
    server = mcp_server()
    overrides = [f"mcp_servers.held.{key}={json.dumps(value)}" for key, value in server.items()]
    async with example_config("elicitation") as config:
        config = attrs.evolve(config, config_overrides=overrides)
        async with open_codex(config, policy=Policy(elicitation=decide)) as codex:
            thread = await codex.thread_start(approval_policy="on-request")
            result = await thread.run("Use the tools ask, ask_url and plain of the MCP server held.")
            print(result.final_response)


if __name__ == "__main__":
    trio.run(main)
