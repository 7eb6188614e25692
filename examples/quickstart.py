"""Ask for one answer, then stream a turn.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import Sandbox, open_codex, wire


async def main() -> None:
    """Run the example."""
    async with example_config("quickstart") as config, open_codex(config) as codex:
        thread = await codex.thread_start(cwd=".", sandbox=Sandbox.read_only)
        result = await thread.run("Explain this repository in three bullets.")
        print(result.final_response)
        if result.usage is not None:
            print(f"({result.usage.total.total_tokens} tokens)")

        async with thread.turn("Now fix the failing test.") as turn:
            async for event in turn:
                match event.params:
                    case wire.AgentMessageDeltaNotification(delta=text):
                        print(text, end="", flush=True)
                    case _:
                        pass
        print(f"\nThe turn is {turn.result.status}.")


if __name__ == "__main__":
    trio.run(main)
