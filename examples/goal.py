"""Pursue a goal over several turns that the server starts, and leave a second goal early.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import open_codex


async def main() -> None:
    """Run the example."""
    async with example_config("goal") as config, open_codex(config) as codex:
        thread = await codex.thread_start()

        async with thread.goal("All tests pass.", token_budget=100_000) as goal:
            async for text in goal.text():  # of all turns of the goal
                print(text)
        print(f"-> {goal.result.status} after {len(goal.result.turns)} turns")

        async with thread.goal("All docs are up to date.") as goal:
            async for text in goal.text():
                print(text)
                break
        # Here the goal is paused, and its running turn has ended.
        print(f"-> {goal.result.status}")


if __name__ == "__main__":
    trio.run(main)
