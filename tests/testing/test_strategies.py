"""Hypothesis strategies for every protocol type, and for turns with an expected result."""

import functools
import random
from collections.abc import Mapping, Sequence

import attrs
import pytest
import trio
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from trio_codex import TurnStatus, wire
from trio_codex.testing import fake_codex
from trio_codex.testing.strategies import transcripts

UNSHRUNK = settings(
    max_examples=250,
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
def test_hypothesis_resolves_the_types_of_the_protocol(type_):
    @FEW
    @given(st.from_type(type_))
    def check(value):
        assert wire.decode(type_, wire.encode(value)) == value

    check()


def test_a_user_defined_type_can_contain_protocol_types():
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
async def test_a_client_derives_the_expected_result_from_every_transcript(transcript):
    await check_with_a_client(transcript)


async def check_with_a_client(transcript):
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


@functools.cache
def generated():
    """Return transcripts, the same in each run: enough for the rarest property that is looked for."""
    found = []
    with pytest.raises(NoSuchExample):
        find(transcripts(), found.append, settings=UNSHRUNK, random=random.Random(0))
    return found


def one(condition):
    """Find a transcript with this property."""
    return next(filter(condition, generated()))


def pieces_of(transcript, item):
    params = [said.params for said in transcript.said]
    return [each.delta for each in params if getattr(each, "item_id", None) == item.id]


@pytest.mark.parametrize("kind", ["agentMessage", "plan", "commandExecution"])
def test_the_deltas_of_an_item_add_up_to_its_text(kind):
    def in_pieces(transcript):
        of_kind = [item for item in transcript.items if item.type == kind]
        return any(any(pieces_of(transcript, item)) for item in of_kind)

    transcript = one(in_pieces)
    for item in transcript.items:
        if item.type == kind:
            whole = item.aggregated_output if kind == "commandExecution" else item.text
            assert whole == "".join(pieces_of(transcript, item))


def texts(transcript, phase):
    return [item.text for item in transcript.items if item.type == "agentMessage" and item.phase == phase]


def answered_and_said_something_else(transcript):
    answers, others = texts(transcript, wire.MessagePhase.final_answer), texts(transcript, None)
    return answers and others and answers[-1] != others[-1]


def said_two_things(transcript):
    others = texts(transcript, None)
    return not texts(transcript, wire.MessagePhase.final_answer) and others and others[0] != others[-1]


def overlap(transcript):
    """Return whether two completed items overlap."""
    told = [(said.method, said.params.item.id) for said in transcript.said if hasattr(said.params, "item")]
    ids = [item_id for method, item_id in told if method == "item/completed"]
    starts = [told.index(("item/started", item_id)) for item_id in ids]
    return starts != sorted(starts)


def started(transcript):
    return sum(said.method == "item/started" for said in transcript.said)


@pytest.mark.parametrize(
    "condition",
    [
        lambda transcript: transcript.final_response and transcript.status is TurnStatus.completed,
        lambda transcript: transcript.error and transcript.items,
        lambda transcript: transcript.status is TurnStatus.interrupted,
        lambda transcript: started(transcript) > len(transcript.items),
        lambda transcript: transcript.diff is not None,
        answered_and_said_something_else,
        said_two_things,
        overlap,
    ],
    ids=[
        "an answer",
        "a failure",
        "an interrupt",
        "an item cut off",
        "a diff",
        "a final answer and another message",
        "two messages without a phase",
        "items that overlap",
    ],
)
async def test_every_kind_of_transcript_is_generated(condition):
    await check_with_a_client(one(condition))
