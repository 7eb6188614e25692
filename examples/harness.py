"""Evaluate an agent on 200 tasks, and resume after the program was stopped halfway.

Each answer is a number, which the solver compares with the right one. The batch does the rest: it runs 16 tasks at once,
retries after rate limits, ends tasks that take too long, and stores one outcome for each task. The second run therefore
starts only the tasks that the first one has not finished.

Run it with your own Codex login, or with --offline against a scripted model. --tasks sets the number of tasks.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import attrs
import trio
from _offline import example_config

from trio_codex import CodexConfig
from trio_codex.batch import BatchBudget, Outcome, Retry, Task, TaskContext, open_batch


@attrs.frozen
class Answer:
    """The agent's answer."""

    number: int


async def solve(ctx: TaskContext) -> bool:
    """Ask a task's question, and return whether the answer is right."""
    result = await ctx.thread.run(ctx.task.prompt, output_type=Answer, effort="low")
    right: int = ctx.task.data
    return result.output.number == right


async def evaluate(tasks: list[Task], out: Path, config: CodexConfig, *, ends_at: int | None = None) -> None:
    """Run the tasks. With ``ends_at``, end after that many outcomes, as with Ctrl-C."""
    outcomes: list[Outcome] = []
    with trio.CancelScope() as life:
        async with open_batch(
            tasks,
            solve,
            out=out,
            config=config,
            turns=16,
            budget=BatchBudget(task_seconds=600),
            retry=Retry(first=0.1),
        ) as batch:
            async for outcome in batch:
                outcomes.append(outcome)
                if len(outcomes) == ends_at:
                    life.cancel()
    if life.cancelled_caught:
        print(f"ended after {len(outcomes)} of {len(tasks)} outcomes")
        return
    report(outcomes)


def report(outcomes: list[Outcome]) -> None:
    """Print the outcomes of the tasks."""
    resumed = sum(outcome.resumed for outcome in outcomes)
    print(f"{len(outcomes)} outcomes, {resumed} of them from earlier runs")
    for status, count in sorted(Counter(outcome.status for outcome in outcomes).items()):
        print(f"{status}: {count}")
    print(f"right: {sum(outcome.value is True for outcome in outcomes)}")
    print(f"attempts: {sum(outcome.attempts for outcome in outcomes)}")
    for outcome in outcomes:
        if not outcome.is_ok:
            print(f"{outcome.task.id}: {outcome.error}")


async def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--tasks", type=int, default=200)
    count = parser.parse_args().tasks
    tasks = [Task(f"square-{n}", f"What is {n} squared?", data=n**2) for n in range(1, count + 1)]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "runs", "1")
        async with example_config("harness") as config:
            await evaluate(tasks, out, config, ends_at=count // 2)
            await evaluate(tasks, out, config)


if __name__ == "__main__":
    trio.run(main)
