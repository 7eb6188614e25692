"""Errors of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_codex.errors._base import CodexError, error_class

if TYPE_CHECKING:
    from collections.abc import Sequence


class BatchError(CodexError):
    """Base class for errors that only a batch raises."""


@error_class
class BatchConflict(BatchError):
    """The directory contains a batch with other tasks or settings. Nothing was run.

    Attributes:
        path: The directory.
        differences: What differs, one sentence each.
    """

    path: str
    differences: Sequence[str]

    def __str__(self) -> str:
        lines = "".join(f"\n- {line}" for line in self.differences)
        return f"{self.path} contains another batch; choose another directory, undo these changes, or allow them:{lines}"


@error_class
class MergeConflict(BatchError):
    """A shard does not belong to the same batch as the others, or differs from them. Nothing was merged.

    Attributes:
        path: The directory of the shard.
        differences: What differs, one sentence each.
    """

    path: str
    differences: Sequence[str]

    def __str__(self) -> str:
        lines = "".join(f"\n- {line}" for line in self.differences)
        return f"{self.path} cannot be merged with the other shards:{lines}"


@error_class
class BatchStopped(BatchError):
    """The batch has ended before every task had an outcome. Open it again with the same directory to resume.

    Attributes:
        problem: Why.
        left: The number of tasks without an outcome.
    """

    problem: str
    left: int

    def __str__(self) -> str:
        tasks = "1 task" if self.left == 1 else f"{self.left} tasks"
        return f"the batch stopped with {tasks} left: {self.problem}"


@error_class
class ShardFailed(BatchError):
    """A shard has failed with an exception that cannot be sent to another process.

    Attributes:
        problem: Its class and its message.
    """

    problem: str

    def __str__(self) -> str:
        return f"the shard failed: {self.problem}"
