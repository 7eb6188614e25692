"""A program that runs a batch, for tests that kill it: `batch_program.py ENV_JSON WORKSPACE OUT COUNT TURNS ON_DEATH [SEED]`.

Its workspaces are worktrees of the repository WORKSPACE. It prints one line for each outcome. With a seed, it also kills
one of its servers at a random moment.
"""

import json
import random
import sys

import trio
from batches import AT_ONCE, kill, some

from trio_codex import CodexConfig
from trio_codex.batch import GitWorktree, open_batch


async def main():
    environment, workspace, out, count, turns, on_death, *seed = sys.argv[1:]
    config = CodexConfig(env=json.loads(environment), inherit_env=False, cwd=workspace)
    servers = []

    async def solve(ctx):
        servers.append(ctx.codex.pid)
        return (await ctx.thread.run(ctx.task.prompt)).final_response

    async def kill_one(random):
        while not servers:  # noqa: ASYNC110  # there is no event for the first attempt
            await trio.sleep(0.01)
        await trio.sleep(random.uniform(0, 1))
        kill(servers[-1])
        print("killed", flush=True)  # noqa: T201  # a program of its own

    async with trio.open_nursery() as nursery:
        for each in seed:
            nursery.start_soon(kill_one, random.Random(int(each)))
        async with open_batch(
            some(int(count)),
            solve,
            out=out,
            config=config,
            turns=int(turns),
            on_death=on_death,
            restart=AT_ONCE,
            workspace=GitWorktree(workspace),
        ) as batch:
            async for outcome in batch:
                shown = outcome.value or outcome.error
                print(outcome.task.id, outcome.status, shown, outcome.resumed, flush=True)  # noqa: T201  # a program of its own
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
