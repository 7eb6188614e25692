"""Decide what the agent may do: accept some commands by pattern, one with a custom policy, and decline the rest.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import Policy, open_codex, policies
from trio_codex.policies import (
    CommandDecision,
    CommandRequest,
    allow_commands,
    allow_git,
    decline_all,
    first_of,
    git_command,
    logged,
)

# These programs do not run code from files that the agent can write. Most others can, including git: `allow_git`
# accepts git only in a form that runs no program named in the repository.
PATTERNS = ("df -h", "ls ...")
HINT = f"To see the history outside the sandbox, run `{git_command('log')} …`."


async def in_a_scratch_directory(  # noqa: ASYNC124  # this one decides without waiting
    request: CommandRequest,
) -> CommandDecision:
    """Accept every command in a directory named ``scratch``, and abstain from the rest."""
    scratch = (request.cwd or "").endswith("/scratch")
    return policies.accept() if scratch else policies.abstain()  # noqa: ASYNC910  # as above


async def main() -> None:
    """Run the example."""
    own = Policy(name="scratch", command=in_a_scratch_directory)
    policy = logged(first_of(allow_commands(*PATTERNS), allow_git("log"), own, decline_all))
    async with example_config("approvals") as config, open_codex(config, policy=policy) as codex:
        thread = await codex.thread_start(approval_policy="on-request", developer_instructions=HINT)
        result = await thread.run("See what changed and how much space is left, then clean up.")
        for record in codex.decisions:
            print(f"{type(record.decision).__name__} by {record.rule}")
        print(result.final_response)


if __name__ == "__main__":
    trio.run(main)
