"""Every value survives a round trip over the wire, even with unknown fields, and matches the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest
from hypothesis import assume, given
from wire_classes import CLASSES, QUICK, UNIONS, name_of

from trio_codex import wire
from trio_codex.testing.strategies import union_values, wire_values
from wiregen import schema

if TYPE_CHECKING:
    from trio_codex.wire._base import Wire

DEFINITIONS = schema.load().definitions.raw
BUNDLE = {**DEFINITIONS, "v2": DEFINITIONS}
"""The schema, including types of older servers only. References to both levels of definitions resolve."""
SENT = sorted(
    {spec.params for spec in wire.CLIENT_REQUESTS.values() if spec.params is not None}
    | {spec.response for spec in wire.SERVER_REQUESTS.values()}
)
"""The names of all types that the client sends."""


def through_json(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(wire.encode(value)))


@pytest.mark.parametrize("cls", CLASSES, ids=name_of)
def test_a_value_survives_a_round_trip_with_and_without_unknown_fields(cls: type[Wire]) -> None:
    @QUICK
    @given(wire_values(cls))
    def check(value: Wire) -> None:
        raw = through_json(value)
        assert wire.decode(cls, raw) == value
        later = wire.decode(cls, {**raw, "~later": {"deep": [1]}})
        assert (later.evolve(additional=value.additional) if cls.__wire__.open else later) == value

    check()


@pytest.mark.parametrize("name", UNIONS)
def test_union_members_survive_a_round_trip(name: str) -> None:
    @QUICK
    @given(union_values(UNIONS[name]))
    def check(value: object) -> None:
        assert wire.decode(UNIONS[name], through_json(value)) == value

    check()


def validator(name: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator({"$ref": f"#/definitions/{name}", "definitions": BUNDLE})


INCOMPLETE_INPUTS = {"type": "audio"}, {"type": "image"}
"""Inputs that need one of several properties, and contain none of them."""


@pytest.mark.parametrize("name", SENT)
def test_sent_values_match_the_schema(name: str) -> None:
    valid = validator(name)
    type_ = getattr(wire, name)

    @QUICK
    @given(union_values(type_, unknown=False))
    def check(value: object) -> None:
        sent = wire.encode(value)
        assume(not any(one in sent.get("input", ()) for one in INCOMPLETE_INPUTS if isinstance(sent, dict)))
        assert [error.message for error in valid.iter_errors(sent)] == []

    check()


def test_the_schema_rejects_invalid_values() -> None:
    assert list(validator("TurnStartParams").iter_errors({"threadId": 1, "input": []}))
    assert list(validator("TurnStartParams").iter_errors({"threadId": "t"}))
    assert list(validator("UserInput").iter_errors({"text": "no tag"}))
