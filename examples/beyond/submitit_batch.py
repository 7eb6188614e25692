"""Shards as jobs of submitit, which runs them on Slurm, or on this machine if there is none: `submitit_batch.py TASKS OUT COUNT`."""

import sys
from collections.abc import Iterator

import submitit
from submitit.helpers import as_completed

from trio_codex.batch import Outcome, ShardSpec, run_shard


def run_all(executor: submitit.Executor, tasks: str, out: str, count: int) -> Iterator[Outcome]:
    """Yield the outcomes of each shard when its job ends."""
    specs = [ShardSpec(tasks=tasks, out=out, shard=(index, count)) for index in range(count)]
    jobs = executor.map_array(run_shard, specs)
    try:
        for job in as_completed(jobs):
            yield from job.result()
    finally:
        for job in jobs:
            if not job.done():
                job.cancel()  # sends SIGTERM, which ends the server with its job


def main(tasks: str, out: str, count: str) -> None:
    """Run on Slurm if it is installed, or else on this machine."""
    executor = submitit.AutoExecutor(folder=f"{out}/jobs")
    executor.update_parameters(timeout_min=240, cpus_per_task=2)
    for outcome in run_all(executor, tasks, out, int(count)):
        print(outcome.task.id, outcome.status)


if __name__ == "__main__":
    main(*sys.argv[1:])
