"""From JSON Schema definitions to the intermediate form. Every construct is handled by name, or is an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import attrs

from wiregen import WiregenError, ir, names, tables

if TYPE_CHECKING:
    from wiregen.schema import Bundle

_PLAIN = {"string": ir.STR, "integer": ir.INT, "number": ir.FLOAT, "boolean": ir.BOOL, "null": ir.NONE}
_SILENT = frozenset(
    {"$schema", "title", "description", "default", "format", "minimum", "minLength", "x-clears"}
)
"""Keywords that do not change the Python type. (The server checks bounds; we send what we are given.)"""


def lower(bundle: Bundle, methods: ir.Methods) -> dict[str, ir.Definition]:
    """Lower every definition that is a value.

    Raises:
        WiregenError: A definition has a form that is not handled, or two want one name.
    """
    skipped = tables.ENVELOPES | tables.NULLABLE
    if unknown := (skipped | tables.LITERALS) - bundle.definitions.keys():
        raise WiregenError(
            f"wiregen.tables speaks of {', '.join(sorted(unknown))}, which the schema does not have"
        )
    context = _Context(
        definitions=bundle.definitions,
        stable=bundle.stable,
        sent_only=_sent_only(bundle.definitions, methods),
    )
    lowered: dict[str, ir.Definition] = {}
    for name, schema in bundle.definitions.items():
        if name in skipped:
            continue
        for definition in context.definition(name, schema):
            if lowered.setdefault(definition.name, definition) is not definition:
                raise WiregenError(f"two definitions want the name {definition.name}")
    for alias, (target, doc) in names.EXTRA_ALIASES.items():
        if alias in lowered or target not in lowered:
            raise WiregenError(f"cannot make {alias} an alias of {target}")
        lowered[alias] = ir.Alias(name=alias, doc=doc, type=ir.Ref(target), parent=lowered[target].parent)
    return lowered


def _is_object(schema: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a schema says anything: ``true`` is one that does not."""
    return isinstance(schema, Mapping)


def _is_array(schema: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(schema, list)


def _sent_only(definitions: Mapping[str, Any], methods: ir.Methods) -> frozenset[str]:
    """Find what is only ever sent by us: there, an absent field leaves the default to the server."""
    sent = [request.params for request in methods.requests if request.params is not None]
    sent += [request.response for request in methods.server_requests]
    read = [request.result for request in methods.requests]
    read += [request.params for request in methods.server_requests]
    read += [notification.params for notification in methods.notifications if notification.params is not None]
    return frozenset(_closure(sent, definitions) - _closure(read, definitions))


def _closure(roots: Iterable[str], definitions: Mapping[str, Any]) -> set[str]:
    seen: set[str] = set()
    open_ = list(roots)
    while open_:
        name = open_.pop()
        if name not in seen:
            seen.add(name)
            open_.extend(_schema_refs(definitions[name]))
    return seen


def _schema_refs(schema: Any) -> Iterator[str]:
    if _is_object(schema):
        for key, value in schema.items():
            if key == "$ref":
                yield value.rpartition("/")[2]
            else:
                yield from _schema_refs(value)
    elif _is_array(schema):
        for item in schema:
            yield from _schema_refs(item)


@attrs.frozen(kw_only=True)
class _Context:
    """What lowering one definition may have to know of the others."""

    definitions: Mapping[str, Any]
    stable: Mapping[str, Any]
    sent_only: frozenset[str]

    # -- definitions -----------------------------------------------------------------------------------------------

    def definition(self, name: str, schema: Mapping[str, Any]) -> Iterator[ir.Definition]:
        """Give the definition and, if it is a union, the classes that are its variants."""
        doc, experimental = schema.get("description", ""), name not in self.stable
        alternatives = schema.get("oneOf") or schema.get("anyOf")
        values = _enum_members(name, alternatives or [schema])
        if values is not None and name in tables.LITERALS:
            literal = ir.Const(tuple(member.value for member in values))
            yield ir.Alias(name=name, doc=doc, type=literal, experimental=experimental)
        elif values is not None:
            yield ir.Enum(name=name, doc=doc, members=values, experimental=experimental)
        elif alternatives is not None:
            yield from self._union(name, schema, alternatives)
        elif schema.get("type") == "object":
            yield self._class(name, schema, owner=name)
        elif schema.get("type") == "string":
            yield ir.Alias(name=name, doc=doc, type=ir.STR, experimental=experimental)
        else:
            raise WiregenError(f"cannot lower {name}: {schema}")

    def _class(
        self,
        name: str,
        schema: Mapping[str, Any],
        *,
        owner: str,
        common: Mapping[str, Any] | None = None,
        parent: str | None = None,
        tag: str | None = None,
        key: str | None = None,
        doc: str = "",
    ) -> ir.Class:
        """Lower an object. ``owner`` is the definition it belongs to; ``common`` is what all variants of it share."""
        schema = _merge_alternatives(name, _merge(common, schema))
        required = frozenset(schema.get("required", ()))
        stable = self._stable_properties(owner, name)
        fields: list[ir.Field] = []
        for wire, property_ in schema.get("properties", {}).items():
            field = self._field(owner, name, wire, property_, required=wire in required)
            fields.append(attrs.evolve(field, experimental=stable is not None and wire not in stable))
        open_ = schema.get("additionalProperties") is True
        _check_fields(name, fields, open_=open_)
        return ir.Class(
            name=name,
            doc=schema.get("description", doc),
            # Required fields first, for the reader: with keyword-only fields the order means nothing to Python.
            fields=tuple(sorted(fields, key=lambda field: field.default is not ir.MISSING)),
            parent=parent,
            tag=None if tag is None else names.attribute_name(tag),
            key=key,
            closed=schema.get("additionalProperties") is False,
            open=open_,
            experimental=owner not in self.stable,
        )

    def _stable_properties(self, owner: str, name: str) -> Mapping[str, Any] | None:
        """Give the properties that the stable surface has; None if it does not matter: all or nothing is stable."""
        if owner != name or owner not in self.stable:
            return None
        properties: Mapping[str, Any] = self.stable[owner].get("properties", {})
        return properties

    def _field(self, owner: str, name: str, wire: str, schema: Any, *, required: bool) -> ir.Field:
        clears = _is_object(schema) and "x-clears" in schema
        type_ = self.type(schema, f"{name}.{wire}")
        default: ir.Default = ir.MISSING
        if isinstance(type_, ir.Const) and len(type_.values) == 1:
            (default,) = type_.values  # a tag: nobody should have to write it
        elif not required:
            default = None if owner in self.sent_only else _default(schema)
            if default is None:
                type_ = ir.optional(type_)
        if clears:
            type_ = ir.Union((*_members(type_)[:-1], ir.NULL, ir.NONE))
        return ir.Field(
            name=names.attribute_name(wire),
            wire=wire,
            type=type_,
            default=default,
            doc=schema.get("description", "") if _is_object(schema) else "",
            clears=clears,
        )

    # -- unions ----------------------------------------------------------------------------------------------------

    def _union(
        self, name: str, schema: Mapping[str, Any], alternatives: Sequence[Any]
    ) -> Iterator[ir.Definition]:
        """Lower a union: the classes and the enum that it consists of, then the alias under its own name."""
        experimental = name not in self.stable
        tag = _tag(alternatives)
        common = schema if "properties" in schema else None
        values: list[ir.Member] = []
        members: list[ir.Type] = []
        for index, alternative in enumerate(alternatives):
            if (strings := _enum_members(name, [alternative])) is not None:
                values.extend(strings)
            elif tag is not None:
                (value,) = alternative["properties"][tag]["enum"]
                variant = names.variant_name(name, value, alternative.get("title"))
                yield self._class(variant, alternative, owner=name, common=common, tag=tag, parent=name)
                members.append(ir.Ref(variant))
            elif _is_keyed(alternative):
                variant = names.variant_name(name, alternative["required"][0], alternative.get("title"))
                yield self._keyed_class(variant, alternative, owner=name)
                members.append(ir.Ref(variant))
            elif alternative.get("type") == "object":
                if name not in names.UNTAGGED_VARIANTS:
                    raise WiregenError(f"{name} has nameless variants: name them in names.UNTAGGED_VARIANTS")
                variant = names.UNTAGGED_VARIANTS[name][index]
                yield self._class(variant, alternative, owner=name, parent=name)
                members.append(ir.Ref(variant))
            else:
                members.append(self.type(alternative, name))
        if values:
            enum = names.value_enum_name(name)
            doc = f"The simple values of `{name}`."
            yield ir.Enum(name=enum, doc=doc, members=tuple(values), parent=name, experimental=experimental)
            members.insert(0, ir.Ref(enum))
        if any(isinstance(member, ir.Ref) for member in members):
            members.append(ir.UNKNOWN)
        doc = schema.get("description", "")
        yield ir.Alias(name=name, doc=doc, type=ir.Union(tuple(members)), experimental=experimental)

    def _keyed_class(self, name: str, schema: Mapping[str, Any], *, owner: str) -> ir.Class:
        """Lower ``{"key": value}``. An inline object as the value lends the class its fields."""
        (key,) = schema["required"]
        value = schema["properties"][key]
        doc = schema.get("description", "")
        if _is_object(value) and value.get("type") == "object" and "properties" in value:
            return self._class(name, value, owner=owner, parent=owner, key=key, doc=doc)
        # The schema closes the outer object, because serde does. That says nothing about its fields.
        opened = {key: value for key, value in schema.items() if key != "additionalProperties"}
        return self._class(name, opened, owner=owner, parent=owner, doc=doc)

    # -- types -----------------------------------------------------------------------------------------------------

    def type(self, schema: Any, where: str) -> ir.Type:
        """Lower the schema of a value."""
        if schema is True:
            return ir.ANY
        keywords = schema.keys() - _SILENT
        match {key: schema[key] for key in keywords}:
            case {**nothing} if not nothing:
                return ir.ANY
            case {"$ref": str(ref), **rest} | {"allOf": [{"$ref": str(ref)}], **rest} if not rest:
                return self._ref(ref.rpartition("/")[2])
            case {"anyOf": [*alternatives], **rest} if not rest:
                return _union(self.type(alternative, where) for alternative in alternatives)
            case {"type": "string", "enum": [*values], **rest} if not rest:
                return ir.Const(tuple(values))
            case {"type": [*kinds], **rest}:
                return _union(
                    self.type({**rest, "type": kind} if kind != "null" else {"type": kind}, where)
                    for kind in kinds
                )
            case {"type": "array", "items": items, **rest} if not rest:
                return ir.Seq(self.type(items, where))
            case {"type": "object", "additionalProperties": value, **rest} if not rest:
                return ir.Map(self.type(value, where))
            case {"type": str(kind), **rest} if not rest and kind in _PLAIN:
                return _PLAIN[kind]
            case _:
                raise WiregenError(f"cannot lower the type of {where}: {schema}")

    def _ref(self, name: str) -> ir.Type:
        if name not in self.definitions or name in tables.ENVELOPES:
            raise WiregenError(f"a value refers to {name}, which is no value")
        if name in tables.LITERALS:
            return ir.Const(tuple(self.definitions[name]["enum"]))
        return ir.Ref(name)


def _members(type_: ir.Type) -> tuple[ir.Type, ...]:
    return type_.members if isinstance(type_, ir.Union) else (type_,)


def _union(members: Iterable[ir.Type]) -> ir.Type:
    """Join types: null last, and raw JSON swallows the rest."""
    flat = list(dict.fromkeys(part for member in members for part in _members(member)))
    if ir.ANY in flat:
        return ir.ANY
    flat.sort(key=lambda member: member == ir.NONE)
    return flat[0] if len(flat) == 1 else ir.Union(tuple(flat))


def _default(schema: Any) -> ir.Default:
    default: Any = schema.get("default") if _is_object(schema) else None
    return tuple(default) if _is_array(default) else default


def _enum_members(name: str, alternatives: Sequence[Any]) -> tuple[ir.Member, ...] | None:
    """Give the members if every alternative is a set of strings, else None. Single-valued ones bring a description."""
    members: list[ir.Member] = []
    for alternative in alternatives:
        if not _is_object(alternative) or alternative.get("type") != "string" or "enum" not in alternative:
            return None
        values = alternative["enum"]
        doc = alternative.get("description", "") if len(alternatives) > 1 and len(values) == 1 else ""
        members.extend(ir.Member(name=names.member_name(value), value=value, doc=doc) for value in values)
    if len({member.name for member in members}) != len(members):
        raise WiregenError(f"two values of {name} have one name: use names.MEMBERS")
    return tuple(members)


def _tag(alternatives: Sequence[Any]) -> str | None:
    """Find the property that is constant, and another constant, in every variant."""
    if not all(_is_object(variant) and "properties" in variant for variant in alternatives):
        return None
    for candidate in alternatives[0]["properties"]:
        values = [_constant(variant["properties"].get(candidate)) for variant in alternatives]
        if None in values:
            continue
        if len(set(values)) != len(values):
            raise WiregenError(f"two variants have one tag among {values}")
        return str(candidate)
    return None


def _constant(schema: Any) -> str | None:
    if _is_object(schema) and len(schema.get("enum", ())) == 1:
        return str(schema["enum"][0])
    return None


def _is_keyed(schema: Mapping[str, Any]) -> bool:
    """Whether it is ``{"key": …}`` and nothing else, which is how serde writes a variant with data."""
    return (
        schema.get("additionalProperties") is False
        and len(schema.get("required", ())) == 1
        and schema.get("properties", {}).keys() == set(schema["required"])
    )


def _merge(common: Mapping[str, Any] | None, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add to a variant the properties that stand beside the ``oneOf``."""
    if common is None:
        return schema
    return {
        **schema,
        "properties": {**common["properties"], **schema.get("properties", {})},
        "required": [*common.get("required", ()), *schema.get("required", ())],
    }


def _merge_alternatives(name: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make optional fields of an ``anyOf`` between properties (an image by URL or by file id), and say so."""
    if "anyOf" not in schema:
        return schema
    properties = dict(schema.get("properties", {}))
    choices: list[str] = []
    for alternative in schema["anyOf"]:
        if (
            alternative.keys() - {"properties", "required", "title", "type"}
            or len(alternative["properties"]) != 1
        ):
            raise WiregenError(f"the alternatives inside {name} are more than a choice between properties")
        choices.extend(alternative["properties"])
        properties.update(alternative["properties"])
    doc = schema.get("description", "")
    rule = (
        f"Exactly one of {' and '.join(f'`{names.attribute_name(choice)}`' for choice in choices)} is given."
    )
    return {**schema, "properties": properties, "description": f"{doc}\n\n{rule}".strip()}


def _check_fields(name: str, fields: Sequence[ir.Field], *, open_: bool) -> None:
    taken = {"evolve", "additional"} if open_ else {"evolve"}
    for field in fields:
        if field.name in taken or field.name.startswith("_"):
            raise WiregenError(f"{name}.{field.wire} cannot be named {field.name}")
        taken.add(field.name)
