"""Outlive the program: with a journal, the next program resumes where the last one ended.

A key identifies each prompt. Completed turns are read from the thread's history, and interrupted ones are continued;
no prompt is sent to the model twice. Run it with your own Codex login, or with --offline against a scripted model.
"""

import tempfile
from pathlib import Path

import trio
from _offline import example_config

from trio_codex import CodexConfig, open_supervisor

STEPS = ("Plan the release notes.", "Write them.", "Check them.")


async def program(config: CodexConfig, journal: Path, *, ends_in: int | None = None) -> None:
    """Run the steps. With ``ends_in``, end in the middle of that step, as with Ctrl-C."""
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
