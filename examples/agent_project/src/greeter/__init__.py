"""An agent that greets people: what it may run, and what it can look up."""

from __future__ import annotations

from trio_codex import Codex, policies, tool
from trio_codex.policies import CommandRequest, Decision, Policy

LANGUAGES = {"Ada": "English", "Grace": "English", "Sophie": "French"}


@tool
async def language(name: str) -> str:
    """Look up which language somebody speaks.

    Args:
        name: The name.
    """
    return LANGUAGES.get(name, "nobody knows")


async def _may_run(request: CommandRequest) -> Decision:
    if request.command is not None and request.command.startswith("echo "):
        return policies.accept()
    return policies.decline("It greets, and nothing else.")


POLICY = Policy(command=_may_run)


async def greet(codex: Codex, name: str) -> str | None:
    """Have somebody greeted."""
    thread = await codex.thread_start()
    return (await thread.run(f"Greet {name} in their language.")).final_response
