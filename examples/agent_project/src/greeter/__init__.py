"""An agent that greets people, with its policy and its tool."""

from __future__ import annotations

from trio_codex import Codex, tool
from trio_codex.policies import allow_commands, decline_all, first_of

LANGUAGES = {"Ada": "English", "Grace": "English", "Sophie": "French"}


@tool
async def language(name: str) -> str:
    """Look up the language that a person speaks.

    Args:
        name: The name of the person.
    """
    return LANGUAGES.get(name, "unknown")


POLICY = first_of(allow_commands("echo ..."), decline_all)


async def greet(codex: Codex, name: str) -> str | None:
    """Greet a person."""
    thread = await codex.thread_start()
    return (await thread.run(f"Greet {name} in their language.")).final_response
