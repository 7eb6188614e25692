"""Run a batch on a Ray cluster: `ray_batch.py TASKS OUT SHARDS`. Start it again to resume after a kill."""

import sys

import trio_codex.batch.ray
from trio_codex.batch import BatchBudget, Outcome, read_tasks


def show(outcome: Outcome) -> None:
    """Print an outcome as it arrives."""
    print(outcome.task.id, outcome.status, outcome.error or "")


def main(tasks: str, out: str, shards: str) -> None:
    """Run on the cluster that ``RAY_ADDRESS`` names, or on this machine."""
    trio_codex.batch.ray.run(
        read_tasks(tasks),
        out=out,
        shards=int(shards),
        on_outcome=show,
        options={"turns": 8, "budget": BatchBudget(task_seconds=1800)},
        ray_options={"num_cpus": 2, "scheduling_strategy": "SPREAD"},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
