"""Compare the protocol of another binary with the built-in one.

The method tables and wire classes, as imported, are compared with the JSON schema that a binary prints. Neither the
generator nor its copy of the schema is needed. This module is independent of processes and terminals.

A difference *matters* if something built in is removed or incompatible: a method, field, enum value or union member
that the binary no longer has; a field that it does not accept or does not send; a kind of value that we could not parse
or it would refuse. Additions do not matter: they stay unknown, and unknowns are values.

This can depend on the direction: a new required field is harmless in what we receive, but not in what we send. Each
type is compared once for each direction that it is used in.
"""

from __future__ import annotations

from collections import abc
from enum import StrEnum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

import attrs

from trio_codex import wire
from trio_codex.wire import _registry
from trio_codex.wire._base import Null, Wire, wire_name
from trio_codex.wire._lookup import fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Kind: TypeAlias = Literal[
    "request",
    "server request",
    "notification",
    "client notification",
    "type",
    "field",
    "enum value",
    "member",
]
Change: TypeAlias = Literal["added", "gone", "changed"]
Schema: TypeAlias = Any

SCALARS: Final = {"string": str, "integer": int, "number": float, "boolean": bool, "null": NoneType}
WORDS: Final = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


@attrs.frozen(order=True)
class Difference:
    """One difference from the built-in protocol.

    Attributes:
        kind: The kind of thing that differs.
        change: Whether the binary added, removed or changed it.
        name: A method, a type, ``Type.field``, or ``Type: value``. Fields have their names on the wire.
        detail: What changed.
        matters: Whether something built in is removed or incompatible.
    """

    kind: Kind
    change: Change
    name: str
    detail: str = ""
    matters: bool = False


class NotASchema(ValueError):
    """The input is not the schema of an app-server."""


def compare(bundle: Mapping[str, Any]) -> list[Difference]:
    """Compare the built-in protocol with a schema.

    Args:
        bundle: The ``codex_app_server_protocol.schemas.json`` that ``codex app-server generate-json-schema
            --experimental`` writes.

    Returns:
        The differences, sorted and without duplicates.

    Raises:
        NotASchema: It does not define the four method tables, or has a form that no known version has.
    """
    try:
        definitions = dict(bundle["definitions"])
        definitions.update(definitions.pop("v2", {}))
        comparison = _Comparison(definitions)
        comparison.methods()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NotASchema(f"it has an unknown form ({type(error).__name__}: {error})") from error
    return sorted(comparison.found.values())


@attrs.frozen
class _Union:
    """The possible kinds of a value, flattened: aliases and references are resolved on both sides."""

    scalars: frozenset[type] = frozenset()
    values: frozenset[str] | None = None
    """The allowed strings; any string is allowed if ``str`` is among the scalars."""
    objects: tuple[Any, ...] = ()
    item: Any = None
    """The items, if it is an array."""
    value: Any = None
    """The values, if it is an object with arbitrary keys."""
    any: bool = False
    unknown: bool = False
    """Whether other objects are allowed, too."""

    def describe(self) -> str:
        words = sorted(WORDS[scalar] for scalar in self.scalars if scalar is not NoneType)
        words += ["enum"] if self.values is not None and str not in self.scalars else []
        words += ["object"] if self.objects or self.value is not None or self.unknown else []
        words += ["array"] if self.item is not None else []
        words += ["null"] if NoneType in self.scalars else []
        return "anything" if self.any else " or ".join(words)


@attrs.frozen
class _Object:
    """An object of the schema: its properties, and its name if it has one."""

    name: str | None
    properties: Mapping[str, Schema]
    required: frozenset[str]


@attrs.define
class _Comparison:
    definitions: Mapping[str, Schema]
    found: dict[tuple[str, ...], Difference] = attrs.field(factory=dict[tuple[str, ...], Difference])
    seen: set[tuple[object, ...]] = attrs.field(factory=set[tuple[object, ...]])

    # -- methods ---------------------------------------------------------------------------------------------------

    def methods(self) -> None:
        """Compare the four tables, and every type reachable from them."""
        requests = {name: (spec.params, spec.result) for name, spec in _registry.CLIENT_REQUESTS.items()}
        self.table("request", "ClientRequest", requests, sent=True)
        asked = {name: (spec.params, spec.response) for name, spec in _registry.SERVER_REQUESTS.items()}
        self.table("server request", "ServerRequest", asked, sent=False)
        told = {name: (params, None) for name, params in _registry.NOTIFICATIONS.items()}
        self.table("notification", "ServerNotification", told, sent=False)
        tell = {name: (params, None) for name, params in _registry.CLIENT_NOTIFICATIONS.items()}
        self.table("client notification", "ClientNotification", tell, sent=True)

    def table(
        self, kind: Kind, envelope: str, ours: Mapping[str, tuple[str | None, str | None]], *, sent: bool
    ) -> None:
        """Compare one table: methods, and the types of their payloads and results."""
        rows = {
            row["properties"]["method"]["enum"][0]: row["properties"].get("params", {"type": "null"})
            for row in self.definitions[envelope]["oneOf"]
        }
        for method in rows.keys() - ours.keys():
            self.note(kind, "added", method)
        for method, (params, answer) in ours.items():
            unlisted = method in _registry.UNLISTED_NOTIFICATIONS and method not in rows
            if unlisted and params is not None and params in self.definitions:
                self.value(params, getattr(wire, params), self.definitions[params], sent=sent)
                continue
            if method not in rows:
                self.note(kind, "gone", method, matters=True)
                continue
            self.payload(kind, method, params, rows[method], sent=sent)
            if answer is not None and answer not in self.definitions:
                self.note("type", "gone", answer, f"the answer to {method}", matters=True)
            elif answer is not None:
                self.value(answer, getattr(wire, answer), self.definitions[answer], sent=not sent)

    def payload(self, kind: Kind, method: str, params: str | None, schema: Schema, *, sent: bool) -> None:
        """Compare the payload of a method: a type, a nullable type (for which we send an object), or nothing."""
        theirs = self.flat(schema)
        takes = theirs != _Union(scalars=frozenset({NoneType}))
        if params is None or not takes:
            if takes != (params is not None):
                detail = f"{'with' if takes else 'without'} params"
                self.note(kind, "changed", method, detail, matters=True)
            return
        ours = self.flat_type(getattr(wire, params))
        nullable = frozenset({NoneType})
        ours = attrs.evolve(ours, scalars=ours.scalars - nullable)
        theirs = attrs.evolve(theirs, scalars=theirs.scalars - nullable)
        self.unions(params, ours, theirs, sent=sent, name=self.name(schema))

    # -- values ----------------------------------------------------------------------------------------------------

    def value(self, where: str, type_: Any, schema: Schema, *, sent: bool) -> None:
        """Compare the values allowed in one place."""
        self.unions(where, self.flat_type(type_), self.flat(schema), sent=sent, name=self.name(schema))

    def unions(self, where: str, ours: _Union, theirs: _Union, *, sent: bool, name: str | None) -> None:
        """Compare two sets of kinds of values, and then each kind with its counterpart.

        ``where`` is the place, and ``name`` the schema's definition there, for messages about its members.
        """
        if ours.any:
            return  # any value is passed through
        if theirs.any or self.kinds(ours) != self.kinds(theirs):
            needed, offered = (ours, theirs) if sent else (theirs, ours)
            self.note(
                "field" if "." in where else "type",
                "changed",
                where,
                f"{ours.describe()} → {theirs.describe()}",
                matters=not offered.any and (needed.any or not self.kinds(needed) <= self.kinds(offered)),
            )
        self.enums(name or where, ours, theirs, sent=sent)
        for part in ("item", "value"):
            mine, other = getattr(ours, part), getattr(theirs, part)
            if mine is not None and other is not None:
                self.value(f"{where}[]", mine, other, sent=sent)
        self.members(name or where, ours, theirs, sent=sent)

    @staticmethod
    def kinds(union: _Union) -> frozenset[str]:
        """Return the kinds of JSON allowed for a value; a number may be an integer."""
        kinds = {WORDS[scalar] for scalar in union.scalars}
        kinds |= {"integer"} if float in union.scalars else set()
        kinds |= {"string"} if union.values is not None else set()
        kinds |= {"array"} if union.item is not None else set()
        kinds |= {"object"} if union.objects or union.value is not None or union.unknown else set()
        return frozenset(kinds)

    def enums(self, where: str, ours: _Union, theirs: _Union, *, sent: bool) -> None:
        """Compare the allowed strings of a value."""
        closed = ours.values is not None and str not in ours.scalars
        if ours.values is None or theirs.values is None:
            if theirs.values is not None and str in ours.scalars and str not in theirs.scalars:
                self.note("type", "changed", where, "any string → enum", matters=sent)
            elif ours.values is not None and str in theirs.scalars:
                self.note("type", "changed", where, "enum → any string", matters=closed and not sent)
            return
        for value in theirs.values - ours.values:
            self.note("enum value", "added", f"{where}: {value}", matters=closed and not sent)
        if str not in theirs.scalars:
            for value in ours.values - theirs.values:
                self.note("enum value", "gone", f"{where}: {value}", matters=True)

    def members(self, where: str, ours: _Union, theirs: _Union, *, sent: bool) -> None:
        """Compare the allowed objects of a value."""
        mine, others = list(ours.objects), list(theirs.objects)
        for cls, other in [*_pairs(mine, others)]:
            mine.remove(cls)
            others.remove(other)
            self.fields(cls, other, sent=sent)
        if theirs.unknown or theirs.value is not None:
            return  # any object is allowed
        for cls in mine if theirs.objects else ():
            self.note("member", "gone", f"{where}: {_label(cls)}", matters=True)
        for other in others if ours.objects else ():
            name = _label_of(other)
            self.note("member", "added", f"{where}: {name}", matters=not sent and not ours.unknown)

    def fields(self, cls: type[Wire], other: _Object, *, sent: bool) -> None:
        """Compare a class with an object."""
        row = (cls, other.name, frozenset(other.properties), sent)
        if row in self.seen:
            return
        self.seen.add(row)
        shape = cls.__wire__
        if shape.key is not None and shape.key in other.properties:
            (other,) = self.flat(other.properties[shape.key]).objects or (other,)
        ours = {
            wire_name(cls, field.name): field
            for field in fields_of(cls)
            if not (shape.open and field.name == "additional")
        }
        for name in other.properties.keys() - ours.keys():
            must = sent and name in other.required
            self.note("field", "added", f"{cls.__name__}.{name}", "required" if must else "", matters=must)
        for name, field in ours.items():
            if field.name == shape.tag:
                continue
            where = f"{cls.__name__}.{name}"
            if name not in other.properties:
                self.note("field", "gone", where, matters=True)
            else:
                self.field(where, field, other.properties[name], required=name in other.required, sent=sent)

    def field(
        self, where: str, field: attrs.Attribute[Any], schema: Schema, *, required: bool, sent: bool
    ) -> None:
        """Compare one field: whether it is required, whether it is nullable, and its values."""
        ours, theirs = self.flat_type(field.type), self.flat(schema)
        constant = get_origin(field.type) is Literal
        must = field.default is attrs.NOTHING
        if must != required and not constant:
            detail = "required" if required else "no longer required"
            # A required nullable field reads as null if it is absent: an older server may not have it.
            excused = not sent and NoneType in ours.scalars
            self.note("field", "changed", where, detail, matters=required == sent and not excused)
        null = frozenset({NoneType})
        if not (must and required) and Null not in get_args(field.type):
            # A null is left out when sent, and read as the default when received.
            theirs = attrs.evolve(theirs, scalars=theirs.scalars - null)
            ours = attrs.evolve(ours, scalars=ours.scalars - null)
        self.unions(where, ours, theirs, sent=sent, name=self.name(schema))

    def note(self, kind: Kind, change: Change, name: str, detail: str = "", *, matters: bool = False) -> None:
        """Record a difference. It matters if it matters in either direction."""
        known = self.found.get((kind, change, name, detail))
        if known is None or matters:
            self.found[kind, change, name, detail] = Difference(kind, change, name, detail, matters)

    # -- the built-in types ----------------------------------------------------------------------------------------

    def flat_type(self, type_: Any) -> _Union:
        """Flatten a resolved annotation."""
        union = _Union()
        for part in _parts(type_):
            if part is Any:
                return _Union(any=True)
            if part is wire.UnknownVariant:
                union = attrs.evolve(union, unknown=True)
            elif part is Null:
                union = attrs.evolve(union, scalars=union.scalars | {NoneType})
            elif part in WORDS:
                union = attrs.evolve(union, scalars=union.scalars | {part})
            elif isinstance(part, type) and issubclass(part, StrEnum):
                values = frozenset(member.value for member in part)
                union = attrs.evolve(union, values=(union.values or frozenset()) | values)
            elif get_origin(part) is Literal:
                union = attrs.evolve(union, values=(union.values or frozenset()) | frozenset(get_args(part)))
            elif get_origin(part) is abc.Sequence:
                union = attrs.evolve(union, item=get_args(part)[0])
            elif get_origin(part) is abc.Mapping:
                union = attrs.evolve(union, value=get_args(part)[1])
            else:
                union = attrs.evolve(union, objects=(*union.objects, part))
        return union

    # -- the schema ------------------------------------------------------------------------------------------------

    def flat(self, schema: Schema, name: str | None = None) -> _Union:
        """Flatten a schema: follow references and alternatives down to kinds of JSON."""
        union = _Union()
        for part_name, part in self.alternatives(schema, name):
            if part is True:
                return _Union(any=True)
            kinds = part.get("type", ())
            for kind in (kinds,) if isinstance(kinds, str) else kinds:
                union = self.with_kind(union, kind, part, part_name)
            if not kinds:
                return _Union(any=True)
        return union

    def with_kind(self, union: _Union, kind: str, schema: Schema, name: str | None) -> _Union:
        """Add one kind of JSON to a union."""
        match kind:
            case "string" if "enum" in schema:
                return attrs.evolve(union, values=(union.values or frozenset()) | frozenset(schema["enum"]))
            case "array":
                return attrs.evolve(union, item=schema.get("items", True))
            case "object" if "properties" in schema or "anyOf" in schema:
                return attrs.evolve(union, objects=(*union.objects, self.object(name, schema)))
            case "object" if schema.get("additionalProperties", False) is not False:
                return attrs.evolve(union, value=schema["additionalProperties"])
            case "object" if isinstance(schema["type"], list):
                return attrs.evolve(union, unknown=True)  # "a string or an object" without further detail
            case "object":
                return attrs.evolve(union, objects=(*union.objects, self.object(name, schema)))
            case _:
                return attrs.evolve(union, scalars=union.scalars | {SCALARS[kind]})

    def alternatives(self, schema: Schema, name: str | None = None) -> Iterator[tuple[str | None, Schema]]:
        """Yield the alternatives of a schema, each with the name of its definition."""
        if schema is True:
            yield name, True
        elif "$ref" in schema:
            target = schema["$ref"].rpartition("/")[2]
            yield from self.alternatives(self.definitions[target], target)
        elif "allOf" in schema:
            (only,) = schema["allOf"]
            yield from self.alternatives(only, name)
        elif "oneOf" in schema or ("anyOf" in schema and not _is_choice(schema)):
            several = schema.get("oneOf") or schema["anyOf"]
            common = schema if "properties" in schema else None
            for one in several:
                # The name of the definition does not apply to a variant of its union.
                yield from self.alternatives(one if common is None else _merged(common, one))
        else:
            yield name, schema

    def name(self, schema: Schema) -> str | None:
        """Return the definition that a schema refers to, possibly as nullable."""
        for part in (
            (schema, *schema.get("allOf", ()), *schema.get("anyOf", ())) if schema is not True else ()
        ):
            if "$ref" in part:
                return str(part["$ref"].rpartition("/")[2])
        return None

    def object(self, name: str | None, schema: Schema) -> _Object:
        """Parse an object; a choice between properties makes them optional."""
        properties = dict(schema.get("properties", {}))
        for choice in schema.get("anyOf", ()):
            properties |= choice.get("properties", {})
        return _Object(name, properties, frozenset(schema.get("required", ())))


def _is_choice(schema: Mapping[str, Any]) -> bool:
    """Return whether ``anyOf`` is a choice between properties of one object rather than between values."""
    return schema.get("type") == "object" and all(
        "properties" in one and "$ref" not in one for one in schema["anyOf"]
    )


def _merged(common: Mapping[str, Any], variant: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the properties beside the ``oneOf`` to a variant."""
    return {
        **variant,
        "properties": {**common["properties"], **variant.get("properties", {})},
        "required": [*common.get("required", ()), *variant.get("required", ())],
    }


def _parts(type_: Any) -> tuple[Any, ...]:
    return get_args(type_) if get_origin(type_) in (Union, UnionType) else (type_,)


def _label(cls: type[Wire]) -> str:
    """Name a union member as on the wire: by its tag, else by its only key, else by its class."""
    return _tag(cls) or cls.__wire__.key or cls.__name__


def _tag(cls: type[Wire]) -> str | None:
    return next((str(field.default) for field in cls.__attrs_attrs__ if field.name == cls.__wire__.tag), None)


def _names(cls: type[Wire]) -> frozenset[str]:
    if cls.__wire__.key is not None:
        return frozenset({cls.__wire__.key})
    return frozenset(wire_name(cls, field.name) for field in cls.__attrs_attrs__)


def _pairs(classes: Sequence[type[Wire]], others: Sequence[_Object]) -> Iterator[tuple[type[Wire], _Object]]:
    """Match each class to an object in the schema: by tag, else by name, else by common properties."""
    left = list(others)
    if len(classes) == len(left) == 1 and _tag(classes[0]) is None:
        yield classes[0], left[0]
        return
    untagged = list[type[Wire]]()
    for cls in classes:
        tag, attribute = _tag(cls), cls.__wire__.tag
        if tag is None or attribute is None:
            untagged.append(cls)
            continue
        name = wire_name(cls, attribute)
        for other in left:
            if tag in _constants(other.properties.get(name)):
                left.remove(other)
                yield cls, other
                break
    likeness = [
        (cls.__name__ == other.name, len(shared) / len(_names(cls) | other.properties.keys()), cls, other)
        for cls in untagged
        for other in left
        if (shared := _names(cls) & other.properties.keys()) or cls.__name__ == other.name
    ]
    taken = list[Any]()
    for _, _, cls, other in sorted(likeness, key=lambda row: row[:2], reverse=True):
        if not any(one is cls or one is other for one in taken):
            taken += [cls, other]
            yield cls, other


def _label_of(other: _Object) -> str:
    constants = [value for schema in other.properties.values() for value in _constants(schema)]
    return (
        constants[0] if constants else other.name or ", ".join(sorted(other.properties)) or "an empty object"
    )


def _constants(schema: Mapping[str, Any] | bool | None) -> Sequence[str]:
    """Return the only string that a property allows, or nothing if it allows several."""
    values: Sequence[str] = schema.get("enum", ()) if isinstance(schema, abc.Mapping) else ()
    return values if len(values) == 1 else ()
