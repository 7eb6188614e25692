"""Convert types to JSON Schema for a model, and its JSON to values of those types, with errors for mismatches."""

import contextlib
import dataclasses
import datetime
import decimal
import enum
import keyword
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypedDict

import attrs
import hypothesis.strategies as st
import jsonschema
import msgspec
import pytest
from hypothesis import given

from trio_codex import wire
from trio_codex._tools.docstring import parse_docstring
from trio_codex._tools.json_schema import fields_schema, object_schema
from trio_codex._tools.json_types import Field
from trio_codex._tools.json_values import ValidationFailure, fields_from_json, from_json, to_json


class Color(enum.Enum):
    red = "r"
    blue = "b"


class Level(enum.IntEnum):
    low = 1
    high = 2


class Mixed(enum.Enum):
    one = 1
    nothing = None


@attrs.frozen
class Square:
    """A square.

    Attributes:
        side: How long
            each side is.
    """

    side: float


@dataclasses.dataclass
class Circle:
    radius: float
    name: str = "circle"


@attrs.frozen
class Named(Square):
    """A square with a name.

    Attributes:
        label: Its name.
    """

    label: Annotated[str, "What to call it"] = "?"


class Options(TypedDict):
    verbose: bool
    depth: NotRequired[int]


class Point(NamedTuple):
    x: int
    y: int = 0


@attrs.frozen
class Tree:
    value: int
    children: "list[Tree]" = attrs.field(factory=list)
    parent: "Tree | None" = None


UserId = NewType("UserId", int)


def property_of(type_, *, strict=False):
    cls = attrs.make_class("Holder", {"it": attrs.field(type=type_)})
    return object_schema(cls, strict=strict)["properties"]["it"]


# -- schemas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "schema"),
    [
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (type(None), {"type": "null"}),
        (Any, {}),
        (Path, {"type": "string"}),
        (UserId, {"type": "integer"}),
        (datetime.date, {"type": "string", "format": "date", "description": "ISO 8601 date"}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Color, {"type": "string", "enum": ["r", "b"]}),
        (Level, {"type": "integer", "enum": [1, 2]}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", None], {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}),  # noqa: PYI061  # the form under test
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (list, {"type": "array"}),
        (set[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (tuple[int, int], {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Annotated[int, "how many"], {"type": "integer", "description": "how many"}),
        (
            Annotated[list[int], msgspec.Meta(max_length=2, description="few")],
            {"type": "array", "items": {"type": "integer"}, "maxItems": 2, "description": "few"},
        ),
        (Square, {"$ref": "#/$defs/Square"}),
        (Annotated[Square, "it"], {"anyOf": [{"$ref": "#/$defs/Square"}], "description": "it"}),
        (Square | Circle, {"anyOf": [{"$ref": "#/$defs/Square"}, {"$ref": "#/$defs/Circle"}]}),
    ],
    ids=str,
)
def test_a_type_has_the_schema_that_the_server_passes_on(type_, schema):
    assert property_of(type_) == schema


def test_a_mixed_tuple_has_prefix_items_and_also_items_because_the_server_drops_the_former():
    schema = property_of(tuple[int, str])
    assert schema["prefixItems"] == [{"type": "integer"}, {"type": "string"}]
    assert schema["items"] == {"anyOf": schema["prefixItems"]}


def test_descriptions_come_from_docstrings_of_the_class_and_its_bases_or_from_annotations():
    schema = object_schema(Named)
    assert schema["description"] == "A square with a name."
    assert schema["properties"]["side"]["description"] == "How long each side is."
    assert schema["properties"]["label"] == {
        "type": "string",
        "description": "What to call it",
        "default": "?",
    }
    assert schema["required"] == ["side"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("cls", "required", "optional"),
    [(Circle, "radius", "name"), (Options, "verbose", "depth"), (Point, "x", "y")],
)
def test_every_kind_of_class_is_an_object_and_generated_docstrings_are_ignored(cls, required, optional):
    schema = object_schema(cls)
    assert schema["required"] == [required]
    assert list(schema["properties"]) == [required, optional]
    assert "description" not in schema


def test_a_recursive_class_has_a_recursive_schema():
    schema = object_schema(Tree)
    assert schema["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    jsonschema.Draft202012Validator(schema).validate({"value": 1, "children": [{"value": 2}]})


def test_two_classes_of_the_same_name_get_two_definitions():
    other = attrs.make_class("Square", {"corners": attrs.field(type=int)})
    holder = attrs.make_class("Holder", {"a": attrs.field(type=Square), "b": attrs.field(type=other)})
    assert set(object_schema(holder)["$defs"]) == {"Square", "Square_2"}


def test_a_default_without_a_json_form_is_omitted():
    holder = attrs.make_class("Holder", {"a": attrs.field(type=Any, default=object())})
    assert object_schema(holder)["properties"] == {"a": {}}
    holder = attrs.make_class("Holder", {"a": attrs.field(type=str, default="\ud800")})
    assert object_schema(holder)["properties"] == {"a": {"type": "string"}}


def test_the_strict_form_requires_every_field_and_makes_fields_with_defaults_nullable():
    schema = object_schema(Tree, strict=True)
    assert schema["required"] == ["value", "children", "parent"]
    assert schema["$defs"]["Tree"]["additionalProperties"] is False
    assert schema["properties"]["children"] == {
        "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Tree"}}, {"type": "null"}]
    }
    assert object_schema(Named, strict=True)["properties"]["label"] == {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": "What to call it",
    }


def test_the_strict_form_uses_only_keywords_that_the_model_api_documents():
    bounded = property_of(Annotated[str, msgspec.Meta(max_length=3, pattern="a")], strict=True)
    assert bounded == {"type": "string", "pattern": "a"}
    assert property_of(decimal.Decimal, strict=True) == {"type": "string", "description": "Decimal number"}
    assert property_of(Annotated[Square, "it"], strict=True) == {
        "anyOf": [{"$ref": "#/$defs/Square"}],
        "description": "it",
    }


@pytest.mark.parametrize("type_", [Any, dict[str, int], list, tuple[int, str], list[dict[str, int]]], ids=str)
def test_the_strict_form_rejects_types_that_cannot_constrain_a_model(type_):
    with pytest.raises(TypeError, match=r"Holder\.it"):
        property_of(type_, strict=True)


class Odd(enum.Enum):
    pair = (1, 2)


@pytest.mark.parametrize(
    "type_",
    [complex, dict[int, str], Odd, msgspec.defstruct("Struct", ["a"]), list[complex], Square | complex],
    ids=str,
)
def test_a_type_without_a_schema_is_rejected_with_its_path(type_):
    with pytest.raises(TypeError, match=r"Holder\.it"):
        property_of(type_)


def test_the_error_for_an_undefined_annotation_names_it():
    @attrs.define
    class Forward:
        it: "Nowhere"  # noqa: F821

    with pytest.raises(TypeError, match="Nowhere"):
        object_schema(Forward)


# -- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "json", "value"),
    [
        (float, 1, 1.0),
        (int, 3.0, 3),
        (Annotated[int, msgspec.Meta(ge=1)], 3.0, 3),
        (Color, "b", Color.blue),
        (Level, 2, Level.high),
        (Mixed, None, Mixed.nothing),
        (Literal["a", 1], 1, 1),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1], {1}),
        (Point, {"x": 1}, Point(1)),
        (Options, {"verbose": True}, {"verbose": True}),
        (Square | Circle, {"radius": 1}, Circle(1)),
        (Tree, {"value": 1, "children": [{"value": 2}]}, Tree(1, [Tree(2)])),
        (Circle, {"radius": 1, "name": None}, Circle(1)),  # null counts as absent where it is not a value
        (Options, {"verbose": True, "depth": None}, {"verbose": True}),
        (int | str, "1", "1"),
        (Path, "a/b", Path("a/b")),
        (bytes, "aGk=", b"hi"),
        (datetime.timedelta, "PT3S", datetime.timedelta(seconds=3)),
        (list, [1, "a"], [1, "a"]),
        (dict, {"a": 1}, {"a": 1}),
        (object, {"a": 1}, {"a": 1}),
    ],
    ids=str,
)
def test_json_is_converted_to_its_type(type_, json, value):
    read = from_json(type_, json)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("type_", "json", "problems"),
    [
        (int, "1", ["expected an integer, got a string"]),
        (int, True, ["expected an integer, got a boolean"]),
        (int, 1.5, ["expected an integer, got a number"]),
        (str, 1, ["expected a string, got an integer"]),
        (list[str], "abc", ["expected an array, got a string"]),
        (Color, "x", ["expected one of 'r', 'b'"]),
        (Color, [], ["expected one of 'r', 'b'"]),
        (Level, "1", ["expected one of 1, 2"]),
        (Literal[1], True, ["expected 1"]),
        (Annotated[int, msgspec.Meta(ge=1)], 0, ["expected `int` >= 1"]),
        (Annotated[int, msgspec.Meta(ge=1)], 0.0, ["expected `int` >= 1"]),
        (Annotated[list[int], msgspec.Meta(max_length=1)], [1, 2], ["expected `array` of length <= 1"]),
        (tuple[int, int], [1], ["expected 2 items, got 1"]),
        (tuple[int, int], [1, "a"], ["[1]: expected an integer, got a string"]),
        (dict[str, int], {"a b": "c"}, ["['a b']: expected an integer, got a string"]),
        (Square, {"side": "a"}, ["side: expected a number, got a string"]),
        (Square, {}, ["side: is missing"]),
        (Square, {"side": 1, "b": 1, "a": 1}, ["a: is not a known field", "b: is not a known field"]),
        (Options, {"verbose": 1}, ["verbose: expected a boolean, got an integer"]),
        (Tree, {"value": 1, "children": [{"value": 1}, {"value": ""}]},
            ["children[1].value: expected an integer, got a string"]),
        (Square | None, {"side": ""}, ["side: expected a number, got a string"]),
        (Square | Circle, {"x": 1},
            ["matches none of these types (as Square: side: is missing, x: is not a known field;"
             " as Circle: radius: is missing, x: is not a known field)"]),
    ],
    ids=str,
)  # fmt: skip
def test_each_mismatch_is_reported_with_its_path(type_, json, problems):
    with pytest.raises(ValidationFailure) as caught:
        from_json(type_, json)
    assert caught.value.problems == problems


def test_the_error_of_a_class_validator_is_reported():
    @attrs.define
    class Even:
        number: int = attrs.field()

        @number.validator
        def _even(self, _, value):
            if value % 2:
                raise ValueError("must be even")

    assert from_json(Even, {"number": 2}) == Even(2)
    with pytest.raises(ValidationFailure, match="must be even"):
        from_json(Even, {"number": 1})


def test_an_unsupported_type_raises_a_type_error_rather_than_a_validation_failure():
    with pytest.raises(TypeError, match="complex"):
        from_json(complex, 1)


def test_values_survive_a_round_trip_through_json():
    value = {
        "tree": Tree(1, [Tree(2)]),
        "point": Point(1),
        "path": Path("a"),
        "ids": {1},
        "at": uuid.UUID(int=0),
    }
    assert msgspec.json.decode(to_json(value)) == {
        "tree": {"value": 1, "children": [{"value": 2, "children": [], "parent": None}], "parent": None},
        "point": {"x": 1, "y": 0},
        "path": "a",
        "ids": [1],
        "at": "00000000-0000-0000-0000-000000000000",
    }
    image = wire.InputImageDynamicToolCallOutputContentItem(image_url="u")
    assert msgspec.json.decode(to_json(image)) == {"type": "inputImage", "imageUrl": "u"}
    with pytest.raises(TypeError, match="object"):
        to_json(object())


def test_a_docstring_is_split_into_text_and_fields():
    parsed = parse_docstring(
        """Do it.

        More of it: with a colon.

        Args:
            first: The first,
                which is long.

                Even longer.
            *rest (int): The rest.
        Raises:
            ValueError: Never.

        Returns:
            Something.
        """
    )
    assert parsed.fields == {"first": "The first, which is long. Even longer.", "rest": "The rest."}
    assert parsed.text == "Do it.\n\nMore of it: with a colon.\n\nReturns:\n    Something."
    assert parse_docstring(None).text == ""


# -- any signature -------------------------------------------------------------------------------------------------

names = st.from_regex("[a-z][a-z_0-9]{0,7}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
text = st.text(st.characters(codec="utf-8"), max_size=5)

leaves = st.sampled_from(
    [
        (str, text),
        (int, st.integers(-(2**53), 2**53)),
        (float, st.floats(allow_nan=False, allow_infinity=False)),
        (bool, st.booleans()),
        (type(None), st.none()),
        (Color, st.sampled_from(["r", "b"])),
        (Level, st.sampled_from([1, 2])),
        (Literal["a", 2, None], st.sampled_from(["a", 2, None])),  # noqa: PYI061  # as above
        (Path, st.sampled_from(["a", "/b/c", "."])),
        (datetime.date, st.dates().map(str)),
        (datetime.datetime, st.datetimes().map(datetime.datetime.isoformat)),
        (uuid.UUID, st.uuids().map(str)),
        (bytes, st.sampled_from(["", "aGk="])),
        (Annotated[int, msgspec.Meta(ge=0, le=9), "a digit"], st.integers(0, 9)),
        (Annotated[str, "some text"], text),
        (Options, st.fixed_dictionaries({"verbose": st.booleans()}, optional={"depth": st.integers(0, 9)})),
        (Point, st.fixed_dictionaries({"x": st.integers(0, 9)}, optional={"y": st.integers(0, 9)})),
        (Square | Circle, st.sampled_from([{"side": 1.5}, {"radius": 2, "name": "c"}])),
        (Tree, st.just({"value": 1, "children": [{"value": 2}]})),
    ]
)  # fmt: skip


def nested(inner):
    def array_of(pair):
        return (list[pair[0]], st.lists(pair[1], max_size=3))

    def dict_of(pair):
        return (dict[str, pair[0]], st.dictionaries(text, pair[1], max_size=3))

    def optional(pair):
        return (pair[0] | None if pair[0] is not type(None) else pair[0], st.none() | pair[1])

    def tuple_of(pairs):
        return (tuple[tuple(pair[0] for pair in pairs)], st.tuples(*(pair[1] for pair in pairs)).map(list))

    def class_of(pairs):
        fields = {name: attrs.field(type=pair[0]) for name, pair in pairs.items()}
        json = st.fixed_dictionaries({name: pair[1] for name, pair in pairs.items()})
        return (attrs.make_class("Made", fields), json)

    return st.one_of(
        inner.map(array_of),
        inner.map(dict_of),
        inner.map(optional),
        st.lists(inner, min_size=1, max_size=3).map(tuple_of),
        st.dictionaries(names, inner, min_size=1, max_size=3).map(class_of),
    )


annotations = st.recursive(leaves, nested, max_leaves=4)


@given(st.data(), st.dictionaries(names, st.tuples(annotations, st.booleans()), max_size=4))
def test_arguments_that_match_the_schema_of_any_signature_survive_a_round_trip(data, signature):
    fields = [Field(name, pair[0], required, attrs.NOTHING) for name, (pair, required) in signature.items()]
    schema = fields_schema(fields, "made")
    jsonschema.Draft202012Validator.check_schema(schema)
    json = data.draw(
        st.fixed_dictionaries(
            {name: pair[1] for name, (pair, required) in signature.items() if required},
            optional={name: pair[1] for name, (pair, required) in signature.items() if not required},
        )
    )
    jsonschema.Draft202012Validator(schema).validate(json)
    read = fields_from_json(fields, json)
    written = msgspec.json.decode(to_json(read))
    jsonschema.Draft202012Validator(schema).validate(written)
    assert fields_from_json(fields, written) == read


@given(st.data(), st.dictionaries(names, annotations, min_size=1, max_size=3))
def test_any_json_from_a_model_is_converted_or_rejected_with_problems(data, signature):
    fields = [Field(name, pair[0], True, attrs.NOTHING) for name, pair in signature.items()]
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
        max_leaves=4,
    )
    json = data.draw(anything | st.fixed_dictionaries(dict.fromkeys(signature, anything)))
    validator = jsonschema.Draft202012Validator(fields_schema(fields, "made"))
    with contextlib.suppress(ValidationFailure):
        fields_from_json(fields, json)
        assert validator.is_valid(json)
