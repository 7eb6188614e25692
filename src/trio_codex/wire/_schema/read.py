"""Read the JSON Schema that a binary prints.

This is the only place that knows JSON Schema, or rather the part of it that the server's generator emits. Reading is
lenient, so that the schema of any binary can be compared: a keyword without a meaning here is recorded in
:attr:`Schema.ignored`, which the code generator treats as an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from trio_codex.wire._schema import ir

BUNDLE: Final = "codex_app_server_protocol.schemas.json"
"""The file with all definitions, among those that ``codex app-server generate-json-schema`` writes."""

PLAIN: Final = {"string": ir.STR, "integer": ir.INT, "number": ir.FLOAT, "boolean": ir.BOOL, "null": ir.NONE}
ANNOTATIONS: Final = frozenset(
    {"$schema", "title", "description", "default", "format", "minimum", "minLength"}
)
"""Keywords that do not change the type. The server checks bounds; the client sends what it is given."""

KEYWORDS: Final = {
    "string": {"enum"},
    "integer": {"enum"},  # an enum of one version number, which is read like any integer
    "array": {"items"},
    "object": {"properties", "required", "additionalProperties", "anyOf"},
}
"""The keywords with a meaning for each kind of value."""


def flatten(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the two levels of definitions of a bundle: those of ``v2`` replace others of the same name."""
    outer = dict(bundle["definitions"])
    inner = outer.pop("v2", {})
    return {**outer, **inner}


@attrs.frozen
class Schema(Mapping[str, ir.Definition]):
    """The definitions of a schema. Each is read when it is first used, so an odd one fails only where it matters.

    Attributes:
        raw: The JSON of each definition.
        ignored: What reading has ignored so far, and where.
    """

    raw: Mapping[str, Any]
    ignored: list[str] = attrs.field(factory=list[str])
    _read: dict[str, ir.Definition] = attrs.field(factory=dict[str, ir.Definition])

    def __getitem__(self, name: str) -> ir.Definition:
        if name not in self._read:
            self._read[name] = self._definition(name, self.raw[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def methods(self, table: ir.Table) -> dict[str, ir.Method]:
        """Read a table of methods, which is the list of variants of an envelope."""
        found: dict[str, ir.Method] = {}
        for variant in self.raw[table]["oneOf"]:
            properties = variant["properties"]
            for method in properties["method"]["enum"]:
                params = self.type(properties.get("params", {"type": "null"}), method)
                found[method] = ir.Method(name=method, params=params, doc=variant.get("description", ""))
        return found

    def _definition(self, name: str, schema: Mapping[str, Any]) -> ir.Definition:
        doc = schema.get("description", "")
        match self.type(schema, name):
            case ir.Class() as found:
                return attrs.evolve(found, name=name)
            case ir.Const(values):
                # Among alternatives, the description of a single string is not that of the whole.
                several = _alternatives(schema)
                several = several if len(several) > 1 else []
                docs = {
                    one["enum"][0]: one.get("description", "") for one in several if len(one["enum"]) == 1
                }
                members = (ir.Member(name=value, value=value, doc=docs.get(value, "")) for value in values)
                return ir.Enum(name=name, doc=doc, members=tuple(members))
            case found:
                return ir.Alias(name=name, doc=doc, type=found)

    def type(self, schema: Any, where: str) -> ir.Type:
        """Read the schema of a value.

        Args:
            schema: The schema.
            where: Its place, for :attr:`ignored`.
        """
        if schema is True:
            return ir.ANY
        kinds: Any = schema.get("type", ())
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        alternatives = _alternatives(schema)
        if "$ref" in schema:
            self._check(schema, {"$ref"}, where)
            return ir.Ref(schema["$ref"].rpartition("/")[2])
        if "allOf" in schema:
            self._check(schema, {"allOf"}, where)
            several = schema["allOf"]
            return self.type(several[0], where) if len(several) == 1 else self._odd("allOf", where)
        if alternatives:
            self._check(schema, {"oneOf", "anyOf", "type", "properties", "required"}, where)
            shared = "properties" in schema
            variants = (_merged(schema, one) if shared else one for one in alternatives)
            joined = ir.union(self.type(variant, where) for variant in variants)
            # Keep a union of one variant: it may get others.
            return ir.Union((joined,)) if isinstance(joined, ir.Class) else joined
        self._check(schema, {"type"}.union(*(KEYWORDS.get(kind, ()) for kind in kinds)), where)
        return ir.union(self._kind(kind, schema, where) for kind in kinds) if kinds else ir.ANY

    def _kind(self, kind: str, schema: Mapping[str, Any], where: str) -> ir.Type:
        """Read one kind of value that a schema allows."""
        others = schema.get("additionalProperties", False)
        match kind:
            case "string" if "enum" in schema:
                return ir.Const(tuple(value for value in schema["enum"] if value is not None))
            case "array":
                return ir.Seq(self.type(schema.get("items", True), f"{where}[]"))
            case "object" if "properties" in schema or "anyOf" in schema:
                return self._object(schema, where)
            case "object" if others is not False:
                return ir.Map(self.type(others, f"{where}[]"))
            case "object" if isinstance(schema["type"], list):
                return ir.UNKNOWN  # "a string or an object", without further detail
            case "object":
                return self._object(schema, where)
            case _:
                return PLAIN.get(kind) or self._odd(kind, where)

    def _odd(self, form: str, where: str) -> ir.Plain:
        """Record a form that is unknown, and return it as a type that equals no other."""
        self.ignored.append(f"{where}: {form}")
        return ir.Plain(form)

    def _object(self, schema: Mapping[str, Any], where: str) -> ir.Class:
        """Read an object. A choice between properties makes each of them optional."""
        properties = dict(schema.get("properties", {}))
        choices: dict[str, Any] = {}
        for choice in schema.get("anyOf", ()):
            if choice.keys() - {"properties", "required", "title", "type"} or len(choice["properties"]) != 1:
                self.ignored.append(f"{where}: an anyOf that is more than a choice between properties")
            choices |= choice["properties"]
        required = frozenset(schema.get("required", ()))
        return ir.Class(
            doc=schema.get("description", ""),
            title=schema.get("title"),
            fields=tuple(
                self._field(name, inner, f"{where}.{name}", required=name in required)
                for name, inner in (properties | choices).items()
            ),
            choices=tuple(choices),
            closed=schema.get("additionalProperties") is False,
            open=schema.get("additionalProperties") is True,
        )

    def _field(self, name: str, schema: Any, where: str, *, required: bool) -> ir.Field:
        annotations: Mapping[str, Any] = {} if schema is True else schema
        default: Any = annotations.get("default")
        default = tuple(default) if default.__class__ is list else default
        return ir.Field(
            name=name,
            wire=name,
            type=self.type(schema, where),
            required=required,
            default=ir.MISSING if required else default,
            doc=annotations.get("description", ""),
        )

    def _check(self, schema: Mapping[str, Any], known: set[str], where: str) -> None:
        """Record the keywords that have no meaning in this place."""
        if odd := schema.keys() - ANNOTATIONS - known:
            self.ignored.append(f"{where}: {', '.join(sorted(odd))}")


def _alternatives(schema: Mapping[str, Any]) -> list[Any]:
    """Return the alternatives for a value; none for an ``anyOf`` between properties of one object."""
    several: list[Any] = schema.get("oneOf") or schema.get("anyOf") or []
    is_choice = schema.get("type") == "object" and all(
        "properties" in one and "$ref" not in one for one in several
    )
    return several if "oneOf" in schema or not is_choice else []


def _merged(common: Mapping[str, Any], variant: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the properties beside the ``oneOf`` to a variant."""
    properties = {**common["properties"], **variant.get("properties", {})}
    required = [*common.get("required", ()), *variant.get("required", ())]
    return {**variant, "properties": properties, "required": required}
