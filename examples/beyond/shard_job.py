"""One job of a Slurm array, or one pod of an indexed Kubernetes job: `shard_job.py TASKS OUT COUNT`.

It runs the share of the tasks that its index says, and exits with 0 once all of them have an outcome.
"""

import os
import signal
import sys
from collections.abc import Callable

from trio_codex import errors
from trio_codex.batch import ShardSpec, run_shard


def end_on_sigterm(cancel: Callable[[], None]) -> None:
    """Interrupt the turns on the server when the time is up, or the node is needed for something else."""
    signal.signal(signal.SIGTERM, lambda *_: cancel())


def main(tasks: str, out: str, count: str) -> None:
    """Run one share."""
    # The count is an argument: that of the array is another one when some of its jobs are submitted again.
    index = os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ["JOB_COMPLETION_INDEX"]
    spec = ShardSpec(tasks=tasks, out=out, shard=(int(index), int(count)), options={"turns": 8})
    try:
        outcomes = run_shard(spec, on_start=end_on_sigterm)
    except errors.BatchStopped as exc:
        sys.exit(str(exc))
    print(f"{sum(outcome.is_ok for outcome in outcomes)} of {len(outcomes)} tasks are ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
