"""Run several tasks as a batch, in a directory from which the next run resumes.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import tempfile
from pathlib import Path

import trio
from _offline import example_config

from trio_codex.batch import BatchBudget, Task, TaskContext, open_batch

TASKS = [Task(name, f"Describe {name} in one sentence.") for name in ("trio", "attrs", "cattrs")]


async def solve(ctx: TaskContext) -> str:
    """Ask the agent, and keep its answer in the workspace, too."""
    result = await ctx.thread.run(ctx.task.prompt)
    answer = result.final_response or ""
    await trio.Path(ctx.workspace / "answer.txt").write_text(answer, encoding="utf-8")
    return answer


async def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "runs", "1")
        async with example_config("batch") as config:
            for run in ("first", "second"):
                # The second run finds three outcomes, and starts no turn.
                async with open_batch(
                    TASKS, solve, out=out, config=config, turns=2, budget=BatchBudget(task_seconds=600)
                ) as batch:
                    outcomes = [outcome async for outcome in batch]
                for outcome in sorted(outcomes, key=lambda outcome: outcome.task.id):
                    print(
                        f"{run} run: {outcome.task.id} {outcome.status}, resumed {outcome.resumed}: {outcome.value}"
                    )


if __name__ == "__main__":
    trio.run(main)
