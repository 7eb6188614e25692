"""An agent that greets people: what it may run, and what it can look up."""

from __future__ import annotations

from trio_codex import Codex, tool
from trio_codex.policies import allow_commands, decline_all, first_of

LANGUAGES = {"Ada": "English", "Grace": "English", "Sophie": "French"}


@tool
async def language(name: str) -> str:
    """Look up which language somebody speaks.

    Args:
        name: The name.
    """
    return LANGUAGES.get(name, "nobody knows")


POLICY = first_of(allow_commands("echo ..."), decline_all)


async def greet(codex: Codex, name: str) -> str | None:
    """Have somebody greeted."""
    thread = await codex.thread_start()
    return (await thread.run(f"Greet {name} in their language.")).final_response
