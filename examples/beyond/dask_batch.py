"""Run shards on Dask workers, with a plug-in that cancels them: Dask itself cannot stop a running function.

`dask_batch.py TASKS OUT COUNT [SCHEDULER]`
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Client, Worker, WorkerPlugin, as_completed, get_worker

from trio_codex.batch import Outcome, ShardSpec, run_shard


class CancelShards(WorkerPlugin):
    """Ends a shard, and its turns on the server, when its future is cancelled."""

    name = "cancel-shards"

    def setup(self, worker: Worker) -> None:
        """Create the table of running shards."""
        self.cancels: dict[Any, Callable[[], None]] = {}

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Cancel a running shard whose outcomes nobody needs any more."""
        if (start, finish) == ("executing", "released") and key in self.cancels:
            self.cancels[key]()


def run_in_worker(spec: ShardSpec) -> list[Outcome]:
    """Run a shard, and register it with the plug-in, which can cancel it."""
    worker = get_worker()
    cancels, key = worker.plugins[CancelShards.name].cancels, worker.get_current_task()
    try:
        return run_shard(spec, on_start=lambda cancel: cancels.__setitem__(key, cancel))
    finally:
        cancels.pop(key, None)


def run_all(client: Client, specs: list[ShardSpec]) -> Iterator[Outcome]:
    """Yield the outcomes of each shard when it ends."""
    client.register_plugin(CancelShards())
    # pure=False: submitting a cancelled shard again must run it again. retries=0: the journal resumes instead.
    futures = client.map(run_in_worker, specs, pure=False, retries=0)
    try:
        for _, outcomes in as_completed(futures, with_results=True):
            yield from outcomes
    finally:
        client.cancel(futures)


def main(tasks: str, out: str, count: str, scheduler: str | None = None) -> None:
    """Run on the given scheduler, or on this machine."""
    specs = [ShardSpec(tasks=tasks, out=out, shard=(index, int(count))) for index in range(int(count))]
    with Client(scheduler) as client:
        for outcome in run_all(client, specs):
            print(outcome.task.id, outcome.status)


if __name__ == "__main__":
    main(*sys.argv[1:])
