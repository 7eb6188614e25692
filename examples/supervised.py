"""Outlive the server: a supervisor starts another one when it crashes, and no prompt is sent to the model twice.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import logging
import os
import signal

import trio
from _offline import example_config

from trio_codex import open_supervisor

TASKS = {"count": "Count the files.", "sort": "Sort them.", "report": "Report."}


async def main() -> None:
    """Run the example."""
    # By default, a lost server is logged as a warning. This one is lost on purpose.
    logging.getLogger("trio_codex").setLevel(logging.ERROR)
    async with (
        example_config("supervised") as config,
        open_supervisor(config) as supervisor,
        supervisor.thread("files") as thread,
    ):
        for key, task in TASKS.items():
            async with thread.turn(task, key=key) as turn:
                async for piece in turn.text():
                    print(f"{task} -> {piece}")
                    if key == "sort" and supervisor.generation == 1:
                        codex = await supervisor.ready()
                        if codex.pid is not None:
                            os.kill(codex.pid, signal.SIGKILL)  # simulate a crash
            print(f"{key}: {turn.result.status}, {len(turn.result.parts) or 1} turns")
        for generation in supervisor.generations():
            print(f"generation {generation.number}: {str(generation.cause or 'running').partition(' (')[0]}")


if __name__ == "__main__":
    trio.run(main)
