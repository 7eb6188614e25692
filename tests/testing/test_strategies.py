"""What hypothesis knows of the protocol: every type, and turns whose outcome is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from trio_codex import TurnStatus, wire
from trio_codex.testing import fake_codex
from trio_codex.testing.strategies import transcripts

UNSHRUNK = settings(
    max_examples=500,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(
    "type_",
    [wire.ThreadItem, wire.Turn, wire.UserInput, wire.TurnStatus, Sequence[wire.Turn], wire.TurnStartParams],
)
def test_hypothesis_resolves_the_types_of_the_protocol_by_itself(type_):
    @FEW
    @given(st.from_type(type_))
    def check(value):
        assert wire.decode(type_, wire.encode(value)) == value

    check()


def test_a_type_of_the_users_own_may_hold_them():
    @attrs.frozen
    class Mine:
        item: wire.PlanThreadItem
        more: Mapping[str, wire.Turn]

    @FEW
    @given(st.builds(Mine))
    def check(mine):
        assert isinstance(mine.item, wire.PlanThreadItem)

    check()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(transcript=transcripts())
async def test_a_client_takes_every_transcript_and_ends_with_the_result_that_it_says(transcript):
    with trio.fail_after(10):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:

            async def serve():
                await server.accept_turn(started=False)
                for said in transcript.said:
                    await server.notify(said.method, wire.encode(said.params))

            nursery.start_soon(serve)
            thread = await codex.thread_start()
            async with thread.turn("go") as turn:
                heard = [event.method async for event in turn]
            result = turn.result
    assert heard == [said.method for said in transcript.said]
    assert result.status is transcript.status
    assert result.error == transcript.error
    assert result.final_response == transcript.final_response
    assert list(result.items) == list(transcript.items)
    assert result.diff == transcript.diff


@pytest.mark.parametrize(
    "condition",
    [
        lambda transcript: transcript.final_response and transcript.status is TurnStatus.completed,
        lambda transcript: transcript.error and transcript.items,
        lambda transcript: started(transcript) > len(transcript.items),
        lambda transcript: transcript.diff is not None,
        lambda transcript: methods(transcript)[1:3] == ["item/started"] * 2,
    ],
    ids=["an answer", "a failure", "an item cut off", "a diff", "items that overlap"],
)
def test_there_are_transcripts_of_every_kind(condition):
    find(transcripts(), condition, settings=UNSHRUNK)


def methods(transcript: Any) -> list[str]:
    return [said.method for said in transcript.said]


def started(transcript):
    return methods(transcript).count("item/started")
