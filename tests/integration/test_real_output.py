"""Typed output on the real server: the schema reaches the model, and its response becomes a value."""

from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from trio_codex import errors
from trio_codex.testing import Command, Reasoning, offline_codex

pytestmark = pytest.mark.real


@attrs.frozen
class Step:
    title: str
    minutes: int = 5


@attrs.frozen
class Plan:
    steps: list[Step]
    next: "Plan | None" = None


@asynccontextmanager
async def a_thread():
    with trio.fail_after(20):
        async with offline_codex() as (codex, model, _):
            yield await codex.thread_start(), model


async def test_the_schema_applies_to_one_turn_and_its_answer_becomes_a_value():
    async with a_thread() as (thread, model):
        model.run_command("true")
        model.say('{"steps": [{"title": "look", "minutes": null}], ', '"next": {"steps": [], "next": null}}')
        model.say("plain")
        result = await thread.run("plan", output_type=Plan)
        assert result.output == Plan([Step("look", 5)], Plan([]))
        for request in model.requests:
            text_format = request.text_format
            assert (text_format["type"], text_format["strict"]) == ("json_schema", True)
            schema = text_format["schema"]
            assert schema["required"] == ["steps", "next"]
            assert schema["$defs"]["Step"]["properties"]["minutes"] == {
                "anyOf": [{"type": "integer"}, {"type": "null"}]
            }
        assert (await thread.run("and now?")).output is None
        assert model.requests[-1].text_format is None


async def test_an_answer_that_does_not_match_the_schema_raises_with_its_text():
    async with a_thread() as (thread, model):
        model.say('{"steps": 1}')
        with pytest.raises(errors.OutputError) as caught:
            await thread.run("plan", output_type=Plan)
        assert caught.value.text == '{"steps": 1}'
        assert "steps: expected an array, got an integer" in caught.value.problem
        assert caught.value.result.usage is not None


async def test_a_missing_answer_raises_without_a_text():
    async with a_thread() as (thread, model):
        model.respond(Reasoning("hm"))
        async with thread.turn("plan", output_type=Plan) as turn:
            result = await turn.wait()
        assert result.status == "completed"
        with pytest.raises(errors.OutputError) as caught:
            _ = result.output
        assert caught.value.text is None


async def test_an_interrupted_turn_has_no_output_and_its_scope_does_not_raise():
    async with a_thread() as (thread, model):
        model.respond(Command("sleep 60", yield_time_ms=30_000))
        async with thread.turn("plan", output_type=Plan) as turn:
            await model.wait_for_requests(1)
        assert turn.result.status == "interrupted"
        assert turn.result.output is None
