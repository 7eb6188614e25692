"""Steer a running turn, and interrupt one.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import open_codex


async def main() -> None:
    """Run the example."""
    async with example_config("turn_controls") as config, open_codex(config) as codex:
        thread = await codex.thread_start()

        async with thread.turn("Tell me a long story.") as turn:
            steered = False
            async for text in turn.text():
                print(text, end="", flush=True)
                if not steered:
                    steered = True
                    # By default the server drops the unfinished message and starts a new one.
                    await turn.steer("Make it one sentence.")
        print(f"\n-> {turn.result.status}: {turn.result.final_response}")

        async with thread.turn("Now the long one.") as turn:
            async for text in turn.text():
                print(text)
                break  # this ends the iteration, not the turn
            await turn.interrupt()
            result = (
                await turn.wait()
            )  # the server accepts an interrupt before the turn ends, so wait for the end
        print(f"-> {result.status}")


if __name__ == "__main__":
    trio.run(main)
