"""Decide by a policy of your own what the agent may do: one command is accepted, another declined.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import shlex

import trio
from _offline import example_config

from trio_codex import Policy, open_codex, policies

ALLOWED = (["git", "status"], ["git", "diff"], ["git", "log", "--oneline"])
SHELLS = ("/bin/bash", "/bin/sh", "/bin/zsh", "/usr/bin/bash", "/usr/bin/zsh")


def inner_command(command: str) -> list[str]:
    """Split a command line, and look behind the shell that the server puts before it."""
    words = shlex.split(command)
    if len(words) == 3 and words[0] in SHELLS and words[1] in ("-c", "-lc"):
        return shlex.split(words[2])
    return words


async def decide_on_command(  # noqa: ASYNC124  # this one decides without waiting
    request: policies.CommandRequest,
) -> policies.Decision:
    """Accept a few commands, each with exactly these arguments: ``git log --output=x`` writes a file."""
    words = inner_command(request.command or "")
    allowed = words in ALLOWED
    print(f"{'accepted' if allowed else 'declined'}: {shlex.join(words)}   (because: {request.reason})")
    return policies.accept() if allowed else policies.decline("not listed")  # noqa: ASYNC910  # as above


async def main() -> None:
    """Run the example."""
    policy = Policy(command=decide_on_command)  # file changes are not decided on, so they are declined
    async with example_config("approvals") as config, open_codex(config, policy=policy) as codex:
        thread = await codex.thread_start(approval_policy="on-request")
        result = await thread.run("See what changed, then clean up.")
        print(result.final_response)


if __name__ == "__main__":
    trio.run(main)
