"""A program that runs a batch, to be killed and started again: `batch_program.py ENV_JSON WORKSPACE OUT COUNT ON_DEATH [KILLER_SEED]`.

It prints one line for each outcome. With a seed, it also kills its own servers at random moments.
"""

import json
import random
import sys

import trio
from batches import AT_ONCE, kill, some

from trio_codex import CodexConfig
from trio_codex.batch import open_batch


async def main():
    environment, workspace, out, count, on_death, *seed = sys.argv[1:]
    config = CodexConfig(env=json.loads(environment), inherit_env=False, cwd=workspace)
    servers = []

    async def solve(ctx):
        servers.append(ctx.codex.pid)
        return (await ctx.thread.run(ctx.task.prompt)).final_response

    async def keep_killing(random):
        while True:
            await trio.sleep(random.uniform(0.3, 1.5))
            if servers:
                kill(servers[-1])

    async with trio.open_nursery() as nursery:
        for each in seed:
            nursery.start_soon(keep_killing, random.Random(int(each)))
        async with open_batch(
            some(int(count)), solve, out=out, config=config, turns=4, on_death=on_death, restart=AT_ONCE
        ) as batch:
            async for outcome in batch:
                print(outcome.task.id, outcome.status, outcome.value, outcome.resumed, flush=True)  # noqa: T201  # a program of its own
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
