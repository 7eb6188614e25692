"""Typed output: the schema sent to the model, and the conversion of the final response."""

import copy
import dataclasses
import pickle
from functools import partial
from typing import Any, TypedDict

import attrs
import pytest
import trio

from trio_codex import TurnStatus, errors
from trio_codex._tools.output import OutputType
from trio_codex._values.turn_result import TurnResult
from trio_codex.testing import fake_codex


@attrs.frozen
class Step:
    title: str
    minutes: int = 5


@attrs.frozen
class Plan:
    """A plan."""

    steps: list[Step]


@dataclasses.dataclass
class Data:
    number: int


class Typed(TypedDict):
    number: int


STEP = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "minutes": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "required": ["title", "minutes"],
    "additionalProperties": False,
}
PLAN = {
    "type": "object",
    "description": "A plan.",
    "properties": {"steps": {"type": "array", "items": {"$ref": "#/$defs/Step"}}},
    "required": ["steps"],
    "additionalProperties": False,
    "$defs": {"Step": STEP},
}


def settled(type_, text, status=TurnStatus.completed):
    result = TurnResult(id="turn-1", thread_id="thread-1", status=status, final_response=text)
    return OutputType(type_).settle(result)


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (Plan, '{"steps": [{"title": "a", "minutes": null}]}', Plan([Step("a")])),
        (Data, '{"number": 1}', Data(1)),
        (Typed, '{"number": 1}', {"number": 1}),
        (list[int], '{"value": [1, 2]}', [1, 2]),
        (int, '{"value": 3}', 3),
        (int | str, '{"value": "a"}', "a"),
        (Data | Step, '{"value": {"number": 1}}', Data(1)),
    ],
    ids=str,
)
def test_the_final_response_is_converted_to_the_type(type_, text, value):
    assert settled(type_, text).output == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "there is no final response"),
        ("Here you are: {}", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("{}", "steps: is missing"),
        ('{"steps": [{"title": 1}]}', r"steps\[0\].title: expected a string, got an integer"),
        ("[]", "expected an object, got an array"),
    ],
    ids=["none", "prose", "deep", "missing", "wrong", "kind"],
)
def test_reading_an_output_that_does_not_match_raises_with_the_text(text, problem):
    result = settled(Plan, text)
    assert result.final_response == text
    with pytest.raises(errors.OutputError, match=problem) as caught:
        _ = result.output
    assert caught.value.text == text
    assert caught.value.result is result
    for other in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert (other.text, other.problem, other.result) == (text, caught.value.problem, result)


@pytest.mark.parametrize("status", [TurnStatus.interrupted, TurnStatus.failed, TurnStatus.lost, "new"])
def test_a_turn_that_did_not_complete_has_no_output(status):
    assert settled(Plan, '{"steps": []}', status).output is None


def test_a_type_that_is_not_an_object_is_wrapped_in_one_for_the_model():
    assert OutputType(list[Step]).schema == {
        "type": "object",
        "properties": {"value": {"type": "array", "items": {"$ref": "#/$defs/Step"}}},
        "required": ["value"],
        "additionalProperties": False,
        "$defs": {"Step": STEP},
    }


@pytest.mark.parametrize("type_", [dict[str, int], Any, complex], ids=str)
def test_a_type_that_cannot_constrain_a_model_is_rejected(type_):
    with pytest.raises(TypeError, match="output_type"):
        OutputType(type_)


# -- in a thread ---------------------------------------------------------------------------------------------------


async def answer(server, text, status="completed"):
    asked = await server.accept_turn()
    if text is not None:
        await server.item("completed", {"type": "agentMessage", "id": "m1", "text": text})
    await server.end_turn(status=status)
    return asked


async def run(text, status="completed", **options):
    """Run a turn that ends in this way. Return its ``turn/start`` request and its result or exception."""
    with trio.fail_after(5):
        async with fake_codex() as (codex, server):
            thread = await codex.thread_start()
            outcome = []

            async def body():
                try:
                    outcome.append(await thread.run("go", **options))
                except errors.CodexError as exc:
                    outcome.append(exc)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(body)
                asked = await answer(server, text, status)
            return asked.params, outcome[0]


async def test_a_run_sends_the_schema_and_returns_the_value():
    params, result = await run('{"steps": []}', output_type=Plan)
    assert params["outputSchema"] == PLAN
    assert result.output == Plan([])
    assert result.final_response == '{"steps": []}'


async def test_a_run_without_a_type_has_no_output_and_may_send_a_custom_schema():
    schema = {"type": "object"}
    params, result = await run("{}", output_schema=schema)
    assert params["outputSchema"] == schema
    assert result.output is None


async def test_a_run_raises_if_there_is_no_output():
    for text in ("no", None):
        _, error = await run(text, output_type=Plan)
        assert isinstance(error, errors.OutputError)
        assert error.text == text
    _, error = await run('{"steps": []}', "interrupted", output_type=Plan)
    assert isinstance(error, errors.OutputError)
    assert error.problem == "the turn was interrupted"
    _, error = await run("no", "failed", output_type=Plan)
    assert isinstance(error, errors.TurnFailed)
    assert error.result.output is None


async def test_null_may_be_an_output():
    _, result = await run('{"value": null}', output_type=int | None)
    assert (result.status, result.output) == ("completed", None)


async def test_the_result_of_a_turn_scope_raises_only_when_a_bad_output_is_read():
    with trio.fail_after(5):
        async with fake_codex() as (codex, server):
            thread = await codex.thread_start()
            for text, value in (('{"number": 1}', Data(1)), ("prose", None)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(answer, server, text))
                    async with thread.turn("go", output_type=Data) as turn:
                        result = await turn.wait()
                assert turn.result is result
                assert result.status == "completed"
                if value is not None:
                    assert result.output == value
                else:
                    with pytest.raises(errors.OutputError):
                        _ = result.output


async def test_two_schemas_or_an_unsupported_type_are_rejected_before_anything_is_sent():
    with trio.fail_after(5):
        async with fake_codex() as (codex, server):
            thread = await codex.thread_start()
            with pytest.raises(ValueError, match="mutually exclusive"):
                await thread.run("go", output_type=Plan, output_schema={})
            with pytest.raises(TypeError, match="output_type"):
                thread.turn("go", output_type=dict[str, int])
            assert server.unexpected() == []
