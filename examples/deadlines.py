"""Give a turn a deadline, and keep the results it had by then.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import sys

import trio
from _offline import example_config

from trio_codex import open_codex, wire

SECONDS = 2 if "--offline" in sys.argv else 60


async def main() -> None:
    """Run the example."""
    async with example_config("deadlines") as config, open_codex(config) as codex:
        thread = await codex.thread_start()
        # `await thread.run(…)` would also end the turn at the deadline, but its partial result would be lost.
        async with thread.turn("Do the first half, then the second.") as turn:
            with trio.move_on_after(SECONDS) as deadline:
                await turn.wait()
        # Leaving the scope interrupted the turn on the server and waited for the server to report its end.
        if deadline.cancelled_caught:
            print(f"Out of time after {SECONDS} s; the turn is {turn.result.status}.")
        for item in turn.result.items:
            if isinstance(item, wire.CommandExecutionThreadItem):
                print(f"It ran {item.command!r}: {(item.aggregated_output or '').strip()}")


if __name__ == "__main__":
    trio.run(main)
