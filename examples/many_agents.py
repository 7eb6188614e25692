"""Run several agents at the same time, each in its own thread, on one server.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import Codex, Sandbox, open_codex, retry_on_overload


async def review(codex: Codex, topic: str, findings: dict[str, str | None]) -> None:
    """Have one agent review one topic."""
    # Retry while the server is overloaded. A turn that may have started is never repeated.
    thread = await retry_on_overload(
        lambda: codex.thread_start(sandbox=Sandbox.read_only, ephemeral=True), attempts=5
    )
    async with thread:
        result = await thread.run(f"Review the {topic} of this repository in one sentence.")
    findings[topic] = result.final_response


async def main() -> None:
    """Run the example."""
    findings: dict[str, str | None] = {}
    async with (
        example_config("many_agents") as config,
        open_codex(config) as codex,
        trio.open_nursery() as agents,
    ):
        # If one agent fails, the others are cancelled. Their turns end on the server before the error propagates.
        for topic in ("tests", "docs", "types"):
            agents.start_soon(review, codex, topic, findings)
    for topic, finding in sorted(findings.items()):
        print(f"{topic}: {finding}")


if __name__ == "__main__":
    trio.run(main)
