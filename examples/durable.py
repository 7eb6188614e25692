"""Outlive the program: with a journal, the next program resumes where the last one was.

A key identifies each prompt. What has ended is read from the thread's history, and what was interrupted is continued;
nothing is given to the model twice. Run it with your own Codex login, or with --offline against a scripted model.
"""

import tempfile
from pathlib import Path

import trio
from _offline import example_config

from trio_codex import CodexConfig, open_supervisor

STEPS = ("Plan the release notes.", "Write them.", "Check them.")


async def program(config: CodexConfig, journal: Path, *, ends_in: int | None = None) -> None:
    """Do the steps. To demonstrate the next program, end in the middle of one of them, as with Ctrl-C."""
    with trio.CancelScope() as life:
        async with (
            open_supervisor(config, journal=journal) as supervisor,
            supervisor.thread("release-notes") as thread,
        ):
            for number, step in enumerate(STEPS):
                earlier = await thread.fate(f"step-{number}")
                async with thread.turn(step, key=f"step-{number}") as turn:
                    async for _ in turn.text():
                        if number == ends_in:
                            life.cancel()
                print(f"{step} ({earlier}) -> {turn.result.final_response}")
    if life.cancelled_caught:
        print("the program has ended")


async def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory, "agents.db")
        async with example_config("durable") as config:
            await program(config, journal, ends_in=1)
            await program(config, journal)


if __name__ == "__main__":
    trio.run(main)
