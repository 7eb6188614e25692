"""Reading a schema into its intermediate representation, and which keywords are ignored."""

from __future__ import annotations

from typing import Any

import pytest

from trio_codex.wire._schema import ir
from trio_codex.wire._schema.read import Schema, flatten

STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("schema_", "type_"),
    [
        (True, ir.ANY),
        ({"description": "anything"}, ir.ANY),
        ({"type": "integer", "format": "int64"}, ir.INT),
        ({"type": ["array", "null"], "items": STRING}, ir.Union((ir.Seq(ir.STR), ir.NONE))),
        (
            {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
            ir.Map(ir.Union((ir.STR, ir.NONE))),
        ),
        ({"anyOf": [{"type": "null"}, STRING]}, ir.Union((ir.STR, ir.NONE))),
        ({"anyOf": [STRING, True]}, ir.ANY),
        ({"anyOf": [STRING, STRING]}, ir.STR),
        ({"allOf": [{"$ref": "#/definitions/v2/Thing"}]}, ir.Ref("Thing")),
        ({"type": ["string", "null"], "enum": ["a", None]}, ir.Union((ir.Const(("a",)), ir.NONE))),
        (
            {"oneOf": [{"type": "null"}, STRING, {"enum": ["a"], "type": "string"}]},
            ir.Union((ir.Const(("a",)), ir.STR, ir.NONE)),
        ),
        ({"oneOf": [{"type": "object"}]}, ir.Union((ir.Class(),))),
        ({"type": "object", "additionalProperties": False}, ir.Class(closed=True)),
        ({"type": ["string", "object"]}, ir.Union((ir.STR, ir.UNKNOWN))),
    ],
)
def test_types_are_read(schema_: Any, type_: ir.Type) -> None:
    assert Schema({}).type(schema_, "here") == type_


def test_an_object_lists_its_properties_and_which_of_them_are_mutually_exclusive() -> None:
    schema = {
        "type": "object",
        "title": "AThing",
        "description": "Some thing.",
        "required": ["a"],
        "properties": {"a": {**STRING, "description": "The first."}, "b": {"type": "array", "default": []}},
        "anyOf": [{"properties": {"c": STRING}}, {"properties": {"d": True}}],
    }
    assert Schema({"Thing": schema})["Thing"] == ir.Class(
        name="Thing",
        title="AThing",
        doc="Some thing.",
        choices=("c", "d"),
        fields=(
            ir.Field(name="a", wire="a", type=ir.STR, required=True, doc="The first."),
            ir.Field(name="b", wire="b", type=ir.Seq(ir.ANY), default=()),
            ir.Field(name="c", wire="c", type=ir.STR, default=None),
            ir.Field(name="d", wire="d", type=ir.ANY, default=None),
        ),
    )


def test_variants_share_the_properties_next_to_their_union() -> None:
    shared = {"properties": {"a": STRING}, "required": ["a"]}
    variants = [{"type": "object", "properties": {"b": STRING}, "required": ["b"]}, {"type": "object"}]
    found = Schema({}).type({"type": "object", **shared, "oneOf": variants}, "here")
    assert isinstance(found, ir.Union)
    assert [[(field.wire, field.required) for field in one.fields] for one in found.members] == [
        [("a", True), ("b", True)],
        [("a", True)],
    ]


def test_an_enum_has_the_description_of_each_value() -> None:
    alternatives = [
        {**STRING, "enum": ["a", "b"], "description": "Both."},
        {**STRING, "enum": ["c"], "description": "C."},
    ]
    found = Schema({"Kind": {"oneOf": alternatives, "description": "A kind."}})["Kind"]
    assert isinstance(found, ir.Enum)
    assert found.doc == "A kind."
    assert [(member.value, member.doc) for member in found.members] == [("a", ""), ("b", ""), ("c", "C.")]


def test_the_description_of_the_single_value_of_an_enum_is_not_kept() -> None:
    found = Schema({"Kind": {"oneOf": [{**STRING, "enum": ["a"], "description": "A."}]}})["Kind"]
    assert found == ir.Enum(name="Kind", members=(ir.Member(name="a", value="a"),))


@pytest.mark.parametrize(
    ("schema", "ignored"),
    [
        ({"type": "string", "pattern": "x"}, "Thing: pattern"),
        ({"type": "object", "properties": {"a": {"type": "boolean", "enum": [True]}}}, "Thing.a: enum"),
        ({"$ref": "#/definitions/Thing", "type": "string"}, "Thing: type"),
        ({"type": "array", "items": {"const": "a", "type": "string"}}, "Thing[]: const"),
        ({"type": "frob"}, "Thing: frob"),
        ({"allOf": [STRING, STRING]}, "Thing: allOf"),
        (
            {"type": "object", "anyOf": [{"properties": {"a": True, "b": True}}]},
            "Thing: an anyOf that is more than a choice between properties",
        ),
    ],
)
def test_ignored_keywords_are_recorded_with_their_place(schema: Any, ignored: str) -> None:
    found = Schema({"Thing": schema})
    assert found["Thing"].name == "Thing"
    assert found.ignored == [ignored]


def test_an_invalid_definition_raises_only_when_it_is_used() -> None:
    schema = Schema({"Good": STRING, "Odd": 1})
    assert [*schema] == ["Good", "Odd"]
    assert len(schema) == 2
    assert schema["Good"] is schema["Good"]
    with pytest.raises(AttributeError):
        schema["Odd"]


def test_a_method_may_have_no_params() -> None:
    rows = [
        {"properties": {"method": {"enum": ["a"]}}, "description": "Does A."},
        {"properties": {"method": {"enum": ["b"]}, "params": {"$ref": "#/definitions/BParams"}}},
    ]
    assert Schema({"ClientRequest": {"oneOf": rows}}).methods("ClientRequest") == {
        "a": ir.Method(name="a", doc="Does A."),
        "b": ir.Method(name="b", params=ir.Ref("BParams")),
    }


def test_nested_definitions_take_precedence() -> None:
    assert flatten({"definitions": {"A": 1, "B": 1, "v2": {"B": 2}}}) == {"A": 1, "B": 2}
    assert flatten({"definitions": {"A": 1}}) == {"A": 1}


def test_reachable_definitions_include_the_roots_and_may_be_circular() -> None:
    definitions = {
        "A": ir.Alias(name="A", type=ir.Union((ir.Seq(ir.Ref("B")), ir.NONE))),
        "B": ir.Class(
            name="B",
            fields=(
                ir.Field(
                    name="a",
                    wire="a",
                    type=ir.Class(fields=(ir.Field(name="b", wire="b", type=ir.Map(ir.Ref("A"))),)),
                ),
            ),
        ),
        "C": ir.Enum(name="C", members=()),
    }
    assert ir.reachable(["A"], definitions) == {"A", "B"}
    assert ir.reachable(["C"], definitions) == {"C"}
