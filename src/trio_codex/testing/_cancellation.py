"""Cancel a piece of code at each of its checkpoints in turn. Independent of Codex."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Self

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType


class Cancellation(trio.abc.Instrument):
    """A context manager whose block is cancelled at one checkpoint. A sweep passes it to its scenario.

    Attributes:
        entered: Whether the scenario has entered the block.
        number: The checkpoint at which the block is cancelled; 0 means never.
        reached: Whether the block reached that checkpoint.
        checkpoints: Number of checkpoints the block passed.
        error: The exception that left the block, before the cancel scope absorbed it; ``None`` if the block completed.
    """

    def __init__(self, number: int, *, own: bool = False) -> None:
        self.number: int = number
        self._own = own
        self._task: trio.lowlevel.Task | None = None
        self.reached: bool = False
        self.checkpoints: int = 0
        self.error: BaseException | None = None
        self._scope = trio.CancelScope()
        self.entered: bool = False

    def __enter__(self) -> Self:
        self.entered = True
        self._task = trio.lowlevel.current_task()
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
        """Count a step of any task. Trio calls this."""
        if not self._own:
            self._count()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a checkpoint at which the task of the block has arrived. Trio calls this."""
        if self._own and task is self._task:
            self._count()

    def _count(self) -> None:
        self.checkpoints += 1
        if self.checkpoints == self.number:
            self.reached = True
            self._scope.cancel()


@attrs.frozen
class Sweep:
    """The coverage of a sweep.

    Attributes:
        checkpoints: The largest number of checkpoints that the block passed in any round.
        tried: Number of rounds in which the block was cancelled.
        seed: The seed of the sample; ``None`` if every checkpoint was tried.
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
    """Run a scenario repeatedly, cancelling it at each checkpoint in turn, until it completes.

    The scenario receives a :class:`Cancellation` and runs the code under test inside its block. Code before the block
    is setup and code after it checks that nothing is left; neither is cancelled::

        async def scenario(cancellation):
            async with fake_codex() as (codex, server):
                with cancellation:
                    async with codex.watch("/x") as changes:
                        await anext(changes)
                assert ...  # no watch is left

        await sweep_cancellation(scenario)

    Every step of every task counts as a checkpoint, not only the steps of the block. A block is therefore also
    cancelled in the middle of a wait, after each step that another task takes meanwhile: for example, when a request
    has been written but not yet answered. The number of a step varies between rounds, because Trio runs ready tasks in
    any order, and because other processes or the network may take part. A checkpoint could therefore be missed in every
    round, so without ``sample`` the block is also cancelled at each checkpoint of its own task, which are counted apart.

    Args:
        scenario: The function to run. It must enter the block once.
        sample: Number of checkpoints to try, drawn at random from those of an undisturbed round; all by default.
        seed: Seed of the random draw.
        round_timeout: Timeout of one round, in seconds.

    Returns:
        The coverage of the sweep.

    Raises:
        Exception: Whatever a round raised, with a note that names the checkpoint it was cancelled at.
        trio.TooSlowError: A round did not end within ``round_timeout``.
        ValueError: The scenario did not enter the block.
    """
    if sample is None:
        own, _ = await _sweep(scenario, round_timeout, own=True)
        others, checkpoints = await _sweep(scenario, round_timeout, own=False)
        return Sweep(checkpoints=checkpoints, tried=own + others)
    checkpoints = (await _round(scenario, Cancellation(0), round_timeout)).checkpoints
    drawn = random.Random(seed).sample(range(1, checkpoints + 1), min(sample, checkpoints))
    reached = [
        (await _round(scenario, Cancellation(number), round_timeout)).reached for number in sorted(drawn)
    ]
    return Sweep(checkpoints=checkpoints, tried=sum(reached), seed=seed)


async def _sweep(
    scenario: Callable[[Cancellation], Awaitable[object]], round_timeout: float, *, own: bool
) -> tuple[int, int]:
    """Cancel at each checkpoint in turn. Return the number of cancelled rounds and the largest number of checkpoints."""
    number = 0
    while True:
        number += 1
        cancellation = await _round(scenario, Cancellation(number, own=own), round_timeout)
        if not cancellation.reached:
            return number - 1, max(number - 1, cancellation.checkpoints)


async def _round(
    scenario: Callable[[Cancellation], Awaitable[object]], cancellation: Cancellation, round_timeout: float
) -> Cancellation:
    number = cancellation.number
    try:
        with trio.fail_after(round_timeout):
            await scenario(cancellation)
            await trio.lowlevel.checkpoint()
    except Exception as exc:
        exc.add_note(f"It was cancelled at checkpoint {number}." if number else "It was not cancelled.")
        raise
    if not cancellation.entered:
        raise ValueError("the scenario did not enter `with cancellation`")
    return cancellation
