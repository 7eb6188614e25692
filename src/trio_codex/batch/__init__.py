"""Batches: run many tasks with concurrency limits, budgets and retries, and record one outcome for each.

::

    async with open_batch(read_tasks("tasks.jsonl"), out="runs/1", turns=16) as batch:
        async for outcome in batch:
            print(outcome.task.id, outcome.status)

After a crash, start it again with the same directory: tasks with an outcome are not run again.
"""

from trio_codex.batch._batch import Batch as Batch
from trio_codex.batch._batch import open_batch as open_batch
from trio_codex.batch._batch import read_outcomes as read_outcomes
from trio_codex.batch._batch import read_status as read_status
from trio_codex.batch._context import TaskContext as TaskContext
from trio_codex.batch._context import TaskThread as TaskThread
from trio_codex.batch._context import solve_prompt as solve_prompt
from trio_codex.batch._merge import merge as merge
from trio_codex.batch._report import write_report as write_report
from trio_codex.batch._shard import ShardSpec as ShardSpec
from trio_codex.batch._shard import run_shard as run_shard
from trio_codex.batch._tasks import Task as Task
from trio_codex.batch._tasks import read_tasks as read_tasks
from trio_codex.batch._values import BatchBudget as BatchBudget
from trio_codex.batch._values import BatchStatus as BatchStatus
from trio_codex.batch._values import Outcome as Outcome
from trio_codex.batch._values import Retry as Retry
from trio_codex.batch._workspaces import CopyTree as CopyTree
from trio_codex.batch._workspaces import EmptyDirectory as EmptyDirectory
from trio_codex.batch._workspaces import GitWorktree as GitWorktree
from trio_codex.batch._workspaces import Workspace as Workspace
