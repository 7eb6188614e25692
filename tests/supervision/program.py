"""A program of keyed steps, for tests that kill it: `program.py ENV_JSON|URL WORKSPACE JOURNAL STEPS [KILLER_SEED] [BREAK…]`.

It prints one line for each step. With a seed, it also kills its own servers at random moments. Each BREAK disables
one safeguard, for control experiments.
"""

import json
import random
import sys

import trio
from supervised import AT_ONCE, keep_killing

import trio_codex.supervision._fence as fence
from trio_codex import Attachment, CodexConfig, open_supervisor


def break_rule(names):
    if "no_take_back" in names:

        async def nothing_taken_back(thread, anchor):
            turn = await anext(thread.turns(page_size=1), None)
            return None if turn is None else turn.id

        fence.take_back_tail = nothing_taken_back
    if "no_pid" in names:
        fence.still_runs = lambda stamp: False


async def main():
    environment, workspace, journal, steps, seed, *broken = sys.argv[1:]
    break_rule(broken)
    config = (
        Attachment(environment)
        if "://" in environment
        else CodexConfig(env=json.loads(environment), inherit_env=False, cwd=workspace)
    )
    async with (
        open_supervisor(config, journal=journal, restart=AT_ONCE) as supervisor,
        trio.open_nursery() as nursery,
    ):
        if seed != "-":
            nursery.start_soon(keep_killing, supervisor, random.Random(int(seed)), 0.05, 1.0)
        print("ready", flush=True)  # noqa: T201  # a program of its own
        async with supervisor.thread("a") as thread:
            for number in range(int(steps)):
                result = await thread.run(f"do step-{number}", key=f"step-{number}")
                print(number, result.status, result.final_response, len(result.parts), flush=True)  # noqa: T201  # as above
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
