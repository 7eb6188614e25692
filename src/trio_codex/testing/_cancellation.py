"""A cancellation at each checkpoint of a piece of code: owns the counting and the cutting, and knows nothing of Codex."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Self

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType


class Cancellation(trio.abc.Instrument):
    """A block that is cancelled at one checkpoint: a context manager, handed to the scenario of a sweep.

    Attributes:
        entered: Whether the scenario has used it.
        number: At which checkpoint of the block it is cancelled; 0 for a block that is left alone.
        reached: Whether the block came that far.
        checkpoints: How many checkpoints the block had.
        error: What left the block, before its cancel scope took it; ``None`` if the block ran to its end.
    """

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.reached: bool = False
        self.checkpoints: int = 0
        self.error: BaseException | None = None
        self._scope = trio.CancelScope()
        self.entered: bool = False

    def __enter__(self) -> Self:
        self.entered = True
        self._scope.__enter__()
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        trio.lowlevel.remove_instrument(self)
        self.error = error
        return self._scope.__exit__(kind, error, traceback)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step of any task. Called by Trio."""
        self.checkpoints += 1
        if self.checkpoints == self.number:
            self.reached = True
            self._scope.cancel()


@attrs.frozen
class Sweep:
    """What a sweep covered.

    Attributes:
        checkpoints: How many checkpoints the block had, at most.
        tried: At how many of them it was cancelled.
        seed: What a sample was drawn with; ``None`` for a sweep of all.
    """

    checkpoints: int
    tried: int
    seed: int | None = None


async def sweep_cancellation(
    scenario: Callable[[Cancellation], Awaitable[object]],
    *,
    sample: int | None = None,
    seed: int = 0,
    round_timeout: float = 10,
) -> Sweep:
    """Run a scenario again and again, cancelled at one checkpoint after another, until it gets to its end.

    The scenario is given a :class:`Cancellation` and runs what is to be cancelled in its block. What comes before is
    set-up and what comes after is where it checks that nothing is left, and neither is cancelled::

        async def scenario(cancellation):
            async with fake_codex() as (codex, server):
                with cancellation:
                    async with codex.watch("/x") as changes:
                        await anext(changes)
                assert ...  # nothing is watched

        await sweep_cancellation(scenario)

    A checkpoint is one before any step of any task, not only of those in the block: a block is thus also cancelled in the
    middle of each of its waits, after every single thing that happens elsewhere meanwhile, as when a request has been
    written and not been answered. Where the tasks of another process or of the network take part, the number of
    checkpoints differs from round to round, and what a round is cancelled at is not exactly repeatable.

    Args:
        scenario: What to run. It enters the block once.
        sample: At how many checkpoints to cancel, drawn at random from all that an undisturbed round had; all by default.
        seed: What to draw them with.
        round_timeout: Seconds that one round may take.

    Returns:
        How many checkpoints there were.

    Raises:
        Exception: What a round raised, with a note that says where it was cancelled.
        trio.TooSlowError: A round did not end within ``round_timeout``.
        ValueError: The scenario did not enter the block.
    """
    if sample is None:
        number, most = 0, 0
        while True:
            number += 1
            cancellation = await _round(scenario, number, round_timeout)
            if not cancellation.reached:
                return Sweep(checkpoints=max(most, cancellation.checkpoints), tried=number - 1)
            most = max(most, number)
    checkpoints = (await _round(scenario, 0, round_timeout)).checkpoints
    drawn = random.Random(seed).sample(range(1, checkpoints + 1), min(sample, checkpoints))
    reached = [(await _round(scenario, number, round_timeout)).reached for number in sorted(drawn)]
    return Sweep(checkpoints=checkpoints, tried=sum(reached), seed=seed)


async def _round(
    scenario: Callable[[Cancellation], Awaitable[object]], number: int, round_timeout: float
) -> Cancellation:
    cancellation = Cancellation(number)
    try:
        with trio.fail_after(round_timeout):
            await scenario(cancellation)
            await trio.lowlevel.checkpoint()
    except Exception as exc:
        exc.add_note(f"It was cancelled at checkpoint {number}." if number else "It was not cancelled.")
        raise
    if not cancellation.entered:
        raise ValueError("the scenario did not enter the block that is to be cancelled")
    return cancellation
