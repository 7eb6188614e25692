"""Set most options of a turn. Some apply to one turn only, and the others also to later turns of the thread.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import ApprovalMode, Budget, Sandbox, open_codex, policies, wire

ANSWER = {
    "type": "object",
    "properties": {"summary": {"type": "string"}, "files": {"type": "integer"}},
    "required": ["summary", "files"],
    "additionalProperties": False,
}


async def main() -> None:
    """Run the example."""
    async with example_config("all_turn_options") as config, open_codex(config) as codex:
        model = (await codex.models()).data[0]
        thread = await codex.thread_start(
            developer_instructions="Be brief.",
            sandbox=Sandbox.read_only,
            service_name="examples",
        )
        result = await thread.run(
            "Describe this directory.",
            # for this turn only
            policy=policies.decline_all,
            budget=Budget(tokens=100_000, seconds=300),
            output_schema=ANSWER,
            source="example",
            # for this turn and later ones
            approval_mode=ApprovalMode.ask,
            effort=model.supported_reasoning_efforts[0].reasoning_effort,
            model=model.model,
            sandbox=wire.WorkspaceWriteSandboxPolicy(network_access=False, exclude_slash_tmp=True),
            summary="concise",
        )
        print(result.final_response)
        # The same settings can also be changed without starting a turn.
        await thread.update_settings(approval_mode=ApprovalMode.deny_all, sandbox=Sandbox.read_only)
        print((await thread.run("And what is next to it?")).final_response)


if __name__ == "__main__":
    trio.run(main)
