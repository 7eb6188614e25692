"""Convert Python types to JSON Schema, in the form that a model reads.

msgspec generates the schemas of leaves: numbers, strings with bounds, dates. This module generates the rest, because
msgspec refuses unions of classes and paths and has no strict form, and because the server passes only part of a tool's
schema to the model (measured with 0.163.0). The server keeps types, descriptions, properties, ``required``, ``items``,
``enum``, ``anyOf``, ``additionalProperties``, ``$ref`` and ``$defs``. It drops defaults, bounds, patterns and formats,
treats an enum without a type as strings, and reads ``prefixItems`` as strings.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

import attrs
import msgspec

from trio_codex._tools.json_types import (
    ARRAYS,
    MAPPINGS,
    PATHS,
    Field,
    Type,
    annotated,
    choices,
    docstring_of,
    fields_of,
    is_object,
    members,
    origin,
    unwrapped,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Schema: TypeAlias = dict[str, Any]

_KINDS: Final = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}

_HINTS: Final[dict[Type, str]] = {
    datetime.datetime: "ISO 8601 date and time",
    datetime.date: "ISO 8601 date",
    datetime.time: "ISO 8601 time",
    datetime.timedelta: "ISO 8601 duration",
    decimal.Decimal: "Decimal number",
    uuid.UUID: "UUID",
    bytes: "Base64",
}
"""Default descriptions of types that the model would otherwise see only as strings."""

_STRICT_KEYWORDS: Final = frozenset(
    {
        "type", "enum", "anyOf", "properties", "required", "additionalProperties", "items", "$ref", "description",
        "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems",
        "maxItems",
    }
)  # fmt: skip
"""Keywords that the model's API documents for the strict form; it refuses a schema with any others."""

_STRICT_FORMATS: Final = frozenset({"date-time", "time", "date", "duration", "uuid"})


def object_schema(cls: type, *, strict: bool = False) -> Schema:
    """Return the schema of a class with fields, with the classes that it refers to in ``$defs``.

    Args:
        cls: An attrs class, a dataclass, a ``TypedDict`` or a named tuple.
        strict: Whether to use the strict form, which a model can be forced to follow: every property is required, and
            those with a default are nullable.

    Raises:
        TypeError: A type in it has no schema. In the strict form that includes ``Any``, mappings and mixed tuples.
    """
    writer = _Writer(strict=strict)
    return writer.with_definitions(writer.object(cls, cls.__name__))


def fields_schema(fields: Sequence[Field], where: str, *, strict: bool = False) -> Schema:
    """Return the schema of an object with these fields, such as the parameters of a function.

    ``where`` names the owner of the fields in error messages.
    """
    writer = _Writer(strict=strict)
    return writer.with_definitions(writer.fields(fields, where))


class _Writer:
    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._names: dict[type, str] = {}
        self.definitions: dict[str, Schema] = {}

    def with_definitions(self, schema: Schema) -> Schema:
        """Add the definitions of the classes that a schema refers to."""
        return schema | {"$defs": self.definitions} if self.definitions else schema

    def object(self, cls: type, where: str) -> Schema:
        schema = self.fields(fields_of(cls), where)
        text = docstring_of(cls).text
        return {"description": text} | schema if text else schema

    def fields(self, fields: Sequence[Field], where: str) -> Schema:
        return {
            "type": "object",
            "properties": {field.name: self._field(field, f"{where}.{field.name}") for field in fields},
            "required": [field.name for field in fields if field.required or self._strict],
            "additionalProperties": False,
        }

    def _field(self, field: Field, where: str) -> Schema:
        schema = self._write(field.type, where, field.description)
        if field.required:
            return schema
        if self._strict:
            return _or_null(schema) if field.absent_as_null else schema
        default = _as_json(field.default)
        return schema if default is attrs.NOTHING else _with(schema, default=default)

    def _write(self, type_: Type, where: str, description: str | None = None) -> Schema:
        type_, notes = unwrapped(type_)
        schema, base = self._bare(type_, where)
        if notes.metas:
            schema = _with(schema, **_leaf(annotated(base, notes.metas), where))
        description = notes.description or description or schema.get("description") or _HINTS.get(type_)
        if description is not None:
            schema = _with(schema, description=description)
        return self._restricted(schema)

    def _bare(self, type_: Type, where: str) -> tuple[Schema, Type]:
        """Return the schema of a type, ignoring its metadata, and the plain type whose bounds the metadata sets."""
        generic = origin(type_)
        if type_ in (Any, object):
            self._require(where, "any value", fits=not self._strict)
            return {}, Any
        if (parts := members(type_)) is not None:
            return {"anyOf": [self._write(part, where) for part in parts]}, Any
        try:
            chosen = choices(type_)
        except TypeError as exc:
            raise TypeError(f"{where}: {exc}") from None
        if chosen is not None:
            return _choice(list(chosen)), Any
        if generic in ARRAYS and not is_object(type_):
            return self._array(generic, get_args(type_), where), list
        if generic in MAPPINGS:
            return self._mapping(get_args(type_), where), dict
        if is_object(type_):
            return self._reference(type_, where), dict
        if type_ in PATHS:
            return {"type": "string"}, str
        return _leaf(type_, where), NoneType if type_ is None else type_

    def _array(self, generic: Type, items: tuple[Type, ...], where: str) -> Schema:
        schema: Schema = {"type": "array"}
        if generic is tuple and items and items[-1:] != (...,):
            return schema | self._tuple(items, where)
        if items:
            schema["items"] = self._write(items[0], f"{where}[]")
        else:
            self._require(where, "an array of anything", fits=not self._strict)
        if ARRAYS[generic] in (set, frozenset):
            schema["uniqueItems"] = True
        return schema

    def _tuple(self, items: tuple[Type, ...], where: str) -> Schema:
        written = [self._write(item, f"{where}[{index}]") for index, item in enumerate(items)]
        kinds = [item for index, item in enumerate(written) if item not in written[:index]]
        schema: Schema = {"minItems": len(items), "maxItems": len(items)}
        if len(kinds) == 1:
            schema["items"] = kinds[0]
        else:
            self._require(where, "a tuple of different types", fits=not self._strict)
            # The server ignores ``prefixItems``; without ``items``, it would make the model send strings.
            schema |= {"prefixItems": written, "items": {"anyOf": kinds}}
        return schema

    def _mapping(self, arguments: tuple[Type, ...], where: str) -> Schema:
        self._require(where, "a mapping", fits=not self._strict)
        key, value = arguments or (str, Any)
        self._require(where, "a mapping with keys other than plain strings", fits=unwrapped(key)[0] is str)
        return {"type": "object", "additionalProperties": self._write(value, f"{where}[]")}

    def _reference(self, cls: type, where: str) -> Schema:
        name = self._names.get(cls)
        if name is None:
            name, count = cls.__name__, 1
            while name in self.definitions:
                count += 1
                name = f"{cls.__name__}_{count}"
            self._names[cls] = name
            self.definitions[name] = {}  # reserve the name, in case the class refers to itself
            self.definitions[name] = self.object(cls, where)
        return {"$ref": f"#/$defs/{name}"}

    def _restricted(self, schema: Schema) -> Schema:
        if not self._strict:
            return schema
        kept = {key: value for key, value in schema.items() if key in _STRICT_KEYWORDS}
        if kept.get("format") not in _STRICT_FORMATS:
            kept.pop("format", None)
        return kept

    @staticmethod
    def _require(where: str, what: str, *, fits: bool) -> None:
        if not fits:
            raise TypeError(f"{where}: {what} cannot be described to a model: use a class with fields")


def _leaf(type_: Type, where: str) -> Schema:
    try:
        schema = msgspec.json.schema(type_)
    except TypeError:
        raise TypeError(f"{where}: {type_!r} has no JSON Schema") from None
    if "$defs" in schema:  # a ``msgspec.Struct``: it has its own decoding rules
        raise TypeError(f"{where}: {type_!r} is not supported: use an attrs class or a dataclass")
    return schema


def _choice(keys: list[tuple[type, Any]]) -> Schema:
    kinds = dict.fromkeys(kind for kind, _ in keys)
    written: list[Schema] = [
        {"type": "null"}
        if kind is NoneType
        else {"type": _KINDS[kind], "enum": [value for each, value in keys if each is kind]}
        for kind in kinds
    ]
    return written[0] if len(written) == 1 else {"anyOf": written}


def _with(schema: Schema, **more: Any) -> Schema:
    # The strict form allows no other keyword beside a reference.
    return ({"anyOf": [schema]} if "$ref" in schema else schema) | more


def _or_null(schema: Schema) -> Schema:
    null: Schema = {"type": "null"}
    if schema.keys() <= {"anyOf", "description"} and "anyOf" in schema:
        return schema | {"anyOf": [*schema["anyOf"], null]}
    inner = {key: value for key, value in schema.items() if key != "description"}
    outer = {"description": schema["description"]} if "description" in schema else {}
    return {"anyOf": [inner, null], **outer}


def _as_json(default: object) -> object:
    """Return a default as JSON; ``attrs.NOTHING`` if there is none or it cannot be serialized."""
    from trio_codex._tools.json_values import to_json

    if default is attrs.NOTHING:
        return attrs.NOTHING
    try:
        return msgspec.json.decode(to_json(default))
    except (TypeError, msgspec.DecodeError):  # the latter for a lone surrogate, which cannot be encoded
        return attrs.NOTHING
