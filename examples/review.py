"""Review code in a thread, and compact the thread afterwards.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import open_codex


async def main() -> None:
    """Run the example."""
    async with example_config("review") as config, open_codex(config) as codex:
        thread = await codex.thread_start()
        # Without an argument, the review covers uncommitted changes; with wire.BaseBranchReviewTarget, a branch.
        async with thread.review("Look for mistakes in the tests.") as turn:
            result = await turn.wait()
        print(result.final_response)

        result = await thread.compact()
        print(f"The thread is compacted ({result.status}).")


if __name__ == "__main__":
    trio.run(main)
