"""Chat on the terminal, in one thread, until the input ends.

Run it with your own Codex login, or with --offline against a scripted model (and scripted input).
"""

import sys

import trio
from _offline import example_config

from trio_codex import open_codex

SCRIPTED = iter(["My name is Ada.", "What is my name?"])


def read_line() -> str | None:
    """Read a line from the terminal in a worker thread."""
    if "--offline" in sys.argv:
        line = next(SCRIPTED, None)
        print("" if line is None else f"> {line}")
        return line
    try:
        return input("> ")
    except EOFError:
        return None


async def main() -> None:
    """Run the example."""
    async with (
        example_config("chat") as config,
        open_codex(config) as codex,
        await codex.thread_start() as thread,
    ):
        # Ctrl-C abandons the read.
        while (line := await trio.to_thread.run_sync(read_line, abandon_on_cancel=True)) is not None:  # type: ignore[call-arg, unused-ignore]  # not in trio-typing
            if not line.strip():
                continue
            async with thread.turn(line) as turn:
                async for text in turn.text():
                    print(text, end="", flush=True)
            print()


if __name__ == "__main__":
    trio.run(main)
