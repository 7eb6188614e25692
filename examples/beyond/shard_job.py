"""One job of a Slurm array, or one pod of an indexed Kubernetes job: `shard_job.py TASKS OUT COUNT`.

It runs the share of the tasks with its index, and exits with 0 once each of these tasks has an outcome.
"""

import os
import signal
import sys
from collections.abc import Callable

from trio_codex import errors
from trio_codex.batch import ShardSpec, run_shard


def end_on_sigterm(cancel: Callable[[], None]) -> None:
    """Interrupt the turns on the server when the job runs out of time or is preempted."""
    signal.signal(signal.SIGTERM, lambda *_: cancel())


def main(tasks: str, out: str, count: str) -> None:
    """Run one share."""
    # The count is an argument, because an array that resubmits only some jobs has a different count.
    index = os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ["JOB_COMPLETION_INDEX"]
    spec = ShardSpec(tasks=tasks, out=out, shard=(int(index), int(count)), options={"turns": 8})
    try:
        outcomes = run_shard(spec, on_start=end_on_sigterm)
    except errors.BatchStopped as exc:
        sys.exit(str(exc))
    print(f"{sum(outcome.is_ok for outcome in outcomes)} of {len(outcomes)} tasks are ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
