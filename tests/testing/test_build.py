"""The builders: every message from a server can be built from minimal fields, and matches the schema."""

from typing import get_args

import attrs
import jsonschema
import pytest

from trio_codex import wire
from trio_codex.testing import build, item, notification, result, server_request
from wiregen import schema

DEFINITIONS = {**schema.load().definitions.raw, "v2": schema.load().definitions.raw}
"""The schema, including types of older servers only. References to both levels of definitions resolve."""
KINDS = [
    attrs.fields_dict(cls)["type"].default
    for cls in get_args(wire.ThreadItem)
    if cls is not wire.UnknownVariant
]


def problems(name, value):
    validator = jsonschema.Draft7Validator({"$ref": f"#/definitions/{name}", "definitions": DEFINITIONS})
    return [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(wire.encode(value))]


@pytest.mark.parametrize("method", wire.NOTIFICATIONS)
def test_every_notification_can_be_built_and_matches_the_schema(method):
    value = notification(method)
    assert problems(wire.NOTIFICATIONS[method], value) == []
    assert wire.decode_notification(method, wire.encode(value)) == value


@pytest.mark.parametrize("kind", KINDS)
def test_every_item_can_be_built_and_matches_the_schema(kind):
    value = item(kind)
    assert value.type == kind
    assert problems("ThreadItem", value) == []
    assert wire.decode(wire.ThreadItem, wire.encode(value)) == value


@pytest.mark.parametrize("method", wire.SERVER_REQUESTS)
def test_every_server_request_can_be_built_and_matches_the_schema(method):
    value = server_request(method)
    assert problems(wire.SERVER_REQUESTS[method].params, value) == []
    assert wire.decode_server_request(method, wire.encode(value)) == value


@pytest.mark.parametrize("method", wire.CLIENT_REQUESTS)
def test_every_result_can_be_built_and_matches_the_schema(method):
    value = result(method)
    assert problems(wire.CLIENT_REQUESTS[method].result, value) == []
    assert wire.decode_result(method, wire.encode(value)) == value


def test_given_fields_are_used_and_the_others_are_filled_in():
    delta = notification("item/agentMessage/delta", delta="hi", thread_id="other")
    assert delta == wire.AgentMessageDeltaNotification(
        delta="hi", thread_id="other", turn_id="turn-1", item_id="item-1"
    )
    command = item("commandExecution", command="ls")
    assert (command.command, command.cwd, command.status) == ("ls", "/cwd", "completed")
    turn = build(wire.Turn, status="failed")
    assert (turn.id, turn.status, turn.items) == ("turn-1", "failed", [])


def test_the_status_is_in_progress_at_the_start_and_completed_at_the_end():
    assert notification("turn/started").turn.status is wire.TurnStatus.in_progress
    assert notification("turn/completed").turn.status is wire.TurnStatus.completed


def test_the_given_fields_select_the_form_of_a_request():
    form = server_request("mcpServer/elicitation/request", message="m", url="https://example.org")
    assert isinstance(form, wire.Wire)
    assert form.url == "https://example.org"


def test_unknown_methods_and_fields_are_rejected():
    with pytest.raises(KeyError):
        notification("turn/teleported")
    with pytest.raises(KeyError):
        item("hologram")
    with pytest.raises(TypeError, match="color"):
        item("plan", color="red")
    with pytest.raises(TypeError, match="color"):
        build(wire.Turn, color="red")


def test_if_one_of_several_fields_is_required_a_default_is_set_unless_one_is_given():
    assert build(wire.ImageUserInput) == wire.ImageUserInput(url="url")
    assert build(wire.ImageUserInput, file_id="f") == wire.ImageUserInput(file_id="f")
    assert item("imageGeneration", file_id="f").result is None
