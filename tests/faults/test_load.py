"""Many concurrent turns, and slow consumers: nothing is lost, nothing else waits, and memory is bounded."""

import os
import statistics
import sys
import threading
import tracemalloc
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from trio_codex import CodexConfig, Policy, TurnStatus, open_codex, policies
from trio_codex.testing import MockModel, Response, Text, offline_home

FLOOD = Path(__file__).parent / "flood.py"


@asynccontextmanager
async def flooding(seconds=30, **options):
    config = CodexConfig(
        launch_args_override=[sys.executable, "-S", str(FLOOD)],
        env={"PATH": os.environ["PATH"]},
        inherit_env=False,
    )
    with trio.fail_after(seconds):
        async with open_codex(config, **options) as codex:
            yield codex


# -- many turns --------------------------------------------------------------------------------------------------------


async def test_five_hundred_concurrent_turns_each_get_their_own_events_and_use_no_threads():
    seen = {}
    async with flooding() as codex:
        threads = threading.active_count()

        async def run(number):
            thread = await codex.thread_start()
            text = f"turn number {number}"
            async with thread.turn(text) as turn:
                seen[number] = [piece async for piece in turn.text()]
            assert turn.result.status is TurnStatus.completed

        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(run, number)
        assert threading.active_count() == threads
    assert seen == {number: [f"turn number {number}"] for number in range(500)}


SLOWER_AT_MOST = 5
"""The allowed ratio of an interrupt under load to one without. The client takes about 0.3 ms; the fake server and the
machine take the rest."""


async def median_of_interrupts(codex, count=15):
    """Return the median time in seconds from the cancellation of a turn to its terminal event."""
    thread = await codex.thread_start()
    taken = []
    for _ in range(count):
        with trio.CancelScope() as scope:
            async with thread.turn("hang") as turn:
                await turn.__anext__()  # the turn has been announced
                start = trio.current_time()
                scope.cancel()
                await trio.sleep_forever()
        taken.append(trio.current_time() - start)
        assert turn.result.status is TurnStatus.interrupted
    return statistics.median(taken)


async def test_an_interrupt_takes_no_longer_with_five_hundred_other_turns_open():
    async with flooding() as codex:
        alone = await median_of_interrupts(codex)
        opened = 0
        all_open = trio.Event()

        async def hang():
            nonlocal opened
            thread = await codex.thread_start()
            async with thread.turn("hang") as turn:
                async for _ in turn:
                    opened += 1
                    if opened == 500:
                        all_open.set()

        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(hang)
            await all_open.wait()
            among_many = await median_of_interrupts(codex)
            nursery.cancel_scope.cancel()
    assert among_many <= SLOWER_AT_MOST * alone


@pytest.mark.long
@pytest.mark.real
async def test_an_interrupt_takes_no_longer_with_twenty_other_turns_open_on_the_real_server():
    with trio.fail_after(120):
        async with MockModel() as model:
            model.default = Response(Text("working"), model.gate())
            with offline_home(model) as home:
                async with open_codex(CodexConfig(env=home.env, inherit_env=False)) as codex:
                    alone = await median_of_interrupts(codex)
                    so_far = len(model.requests)
                    async with trio.open_nursery() as nursery:
                        for _ in range(20):
                            nursery.start_soon((await codex.thread_start()).run, "hang")
                        await model.wait_for_requests(so_far + 20)
                        among_many = await median_of_interrupts(codex)
                        nursery.cancel_scope.cancel()
    assert among_many <= SLOWER_AT_MOST * alone


# -- a consumer that never reads ---------------------------------------------------------------------------------------

ROOM = 4 * 1024 * 1024
"""Bytes allowed for everything but the text: a thousand unmerged events, and the other turns."""


@pytest.mark.parametrize(
    "count",
    [pytest.param(50_000, id="50k"), pytest.param(1_000_000, id="a million", marks=pytest.mark.long)],
)
async def test_unread_deltas_are_merged_without_loss_while_everything_else_continues(count):
    expected = "".join(f"{number} " for number in range(count))
    turns, approvals = 0, 0

    async def accept(request):
        await trio.lowlevel.checkpoint()
        return policies.accept()

    async def go_on(codex):
        nonlocal turns, approvals
        thread = await codex.thread_start()
        while True:
            result = await thread.run("hello")
            assert result.status is TurnStatus.completed
            turns += 1
            async with thread.turn("ask") as turn:
                assert [piece async for piece in turn.text()] == ["accept"]
            approvals += 1

    async with flooding(300, policy=Policy(command=accept)) as codex:
        thread = await codex.thread_start()
        tracemalloc.start()
        try:
            async with codex.events("turn/completed") as ends, thread.turn(f"say {count}") as turn:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(go_on, codex)
                    async for end in ends:
                        if end.raw["threadId"] == thread.id:
                            nursery.cancel_scope.cancel()
                            break
                met = turns, approvals
                _, peak = tracemalloc.get_traced_memory()
                events = [event async for event in turn]
        finally:
            tracemalloc.stop()
    texts = [event.params.delta for event in events if event.method == "item/agentMessage/delta"]
    assert "".join(texts) == expected
    assert sum(event.merged for event in events if event.method == "item/agentMessage/delta") == count
    assert len(texts) < 2000
    assert events[-1].method == "turn/completed"
    assert turn.result.status is TurnStatus.completed
    assert peak < ROOM + 4 * len(expected)
    # The other turns make progress, although each of their messages waits behind the deltas already in the pipe.
    assert min(met) >= 1
