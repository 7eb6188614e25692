"""Lower the schema to the protocol that is emitted: apply Python names, defaults, and the tables.

Input and output have the same representation, :mod:`trio_codex.wire._schema.ir`. A nameless object gets its
own class. A form without a rule here is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import attrs

from trio_codex.wire._schema import ir
from wiregen import WiregenError, history, names, patches, tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trio_codex.wire._schema.read import Schema
    from wiregen.protocol import Methods
    from wiregen.schema import Bundle

Part = TypeVar("Part", ir.Field, ir.Member)


def lower(bundle: Bundle, methods: Methods) -> dict[str, ir.Definition]:
    """Lower every definition of a value.

    Raises:
        WiregenError: A definition has a form without a rule, or two definitions have the same name.
    """
    skipped = tables.ENVELOPES | tables.NULLABLE
    if unknown := (skipped | tables.LITERALS) - bundle.definitions.keys():
        raise WiregenError(
            f"wiregen.tables mentions {', '.join(sorted(unknown))}, which the schema does not have"
        )
    context = _Context(
        definitions=bundle.definitions,
        stable=bundle.stable,
        sent_only=_sent_only(bundle.definitions, methods),
        since=bundle.history.since,
    )
    lowered: dict[str, ir.Definition] = {}
    for name in (name for name in bundle.definitions if name not in skipped):
        for found in context.definition(name):
            since = found.since or context.since.get(name)
            definition = attrs.evolve(found, experimental=name not in bundle.stable, since=since)
            if lowered.setdefault(definition.name, definition) is not definition:
                raise WiregenError(f"two definitions have the name {definition.name}")
    for alias, (target, doc) in names.EXTRA_ALIASES.items():
        if alias in lowered or target not in lowered:
            raise WiregenError(f"cannot make {alias} an alias of {target}")
        lowered[alias] = ir.Alias(name=alias, doc=doc, type=ir.Ref(target), parent=lowered[target].parent)
    return lowered


def _sent_only(definitions: Schema, methods: Methods) -> set[str]:
    """Return the definitions that only the client sends: there, an absent field leaves the default to the server."""
    requests, asked = methods["ClientRequest"].values(), methods["ServerRequest"].values()
    sent = [name for request in requests for name in ir.refs(request.params)]
    sent += [request.result for request in asked if request.result is not None]
    read = [request.result for request in requests if request.result is not None]
    read += [
        name for one in (*asked, *methods["ServerNotification"].values()) for name in ir.refs(one.params)
    ]
    return ir.reachable(sent, definitions) - ir.reachable(read, definitions)


@attrs.frozen(kw_only=True)
class _Context:
    """The rest of the protocol, for lowering one definition."""

    definitions: Schema
    stable: Schema
    sent_only: set[str]
    since: Mapping[str, str]

    def definition(self, name: str) -> Iterator[ir.Definition]:
        """Lower one definition: yield it and, if it is a union, the classes and the enum of its members."""
        definition = self.definitions[name]
        if self.definitions.ignored:
            raise WiregenError(
                f"the schema contains forms without a rule: {'; '.join(self.definitions.ignored)}"
            )
        match definition:
            case ir.Enum(members=members) if name in tables.LITERALS:
                literal = ir.Const(tuple(member.value for member in members))
                yield ir.Alias(name=name, doc=definition.doc, type=literal)
            case ir.Enum():
                yield self._enum(definition, name)
            case ir.Alias(type=ir.Union(members)):
                yield from self._union(definition, members)
            case ir.Alias(type=ir.STR):
                yield definition
            case ir.Class():
                yield self._class(name, definition, name)
            case ir.Alias(type=ir.Map(value)):
                yield self._class(name, ir.Class(doc=definition.doc, open=value == ir.ANY), name)
            case _:
                raise WiregenError(f"cannot lower {name}: {definition}")

    def _class(
        self, name: str, class_: ir.Class, label: str, *, union: str | None = None, tag: str | None = None
    ) -> ir.Class:
        """Lower an object: a definition, or a variant of ``union``. ``label`` is its name in the history."""
        since = self.since.get(union or name), self.since.get(label)
        fields = [
            self._marked(self._field(union or name, name, field), f"{label}.{field.wire}", *since)
            for field in class_.fields
        ]
        _check_fields(name, fields, open_=class_.open)
        doc = class_.doc
        if class_.choices:
            choices = " and ".join(f"`{names.attribute_name(choice)}`" for choice in class_.choices)
            doc = f"{doc}\n\nExactly one of {choices} is given.".strip()
        # Required fields first, for the reader: with keyword-only fields the order means nothing to Python.
        fields.sort(key=lambda field: field.default is not ir.MISSING)
        tag = None if tag is None else names.attribute_name(tag)
        class_ = attrs.evolve(class_, name=name, doc=doc, fields=tuple(fields), parent=union, tag=tag)
        return attrs.evolve(class_, since=since[1])

    def _marked(self, part: Part, label: str, *around: str | None) -> Part:
        """Mark a field or a member with the release that added it, unless that release also added its definition."""
        since = self.since.get(label)
        return attrs.evolve(part, since=None if since in around else since)

    def _enum(self, enum: ir.Enum, label: str) -> ir.Enum:
        """Name the members of an enum."""
        around = self.since.get(label)
        named = tuple(
            self._marked(
                attrs.evolve(member, name=names.member_name(member.value)), f"{label}: {member.value}", around
            )
            for member in enum.members
        )
        if len({member.name for member in named}) != len(named):
            raise WiregenError(f"two values of {enum.name} have the same name: use names.MEMBERS")
        return attrs.evolve(enum, members=named)

    def _field(self, owner: str, name: str, field: ir.Field) -> ir.Field:
        where = f"{name}.{field.wire}"
        type_, default = self._type(field.type, where), field.default
        if (constant := ir.constant(type_)) is not None:
            default = constant  # a tag, which callers need not pass
        elif not field.required:
            default = None if owner in self.sent_only else default
            if default is None:
                type_ = ir.optional(type_)
        clears = (owner, field.wire) in patches.CLEARS
        if clears:
            type_ = ir.Union((*ir.members(type_)[:-1], ir.NULL, ir.NONE))
        return attrs.evolve(
            field,
            name=names.attribute_name(field.wire),
            type=type_,
            default=default,
            experimental=self._is_experimental(owner, name, field),
            clears=clears,
        )

    def _is_experimental(self, owner: str, name: str, field: ir.Field) -> bool:
        """Return whether the stable surface has the definition, but not this property of it."""
        if owner != name or owner not in self.stable or f"{name}.{field.wire}" in patches.KEPT:
            return False  # the definition is stable, or experimental, as a whole
        stable = self.stable[owner]
        return not isinstance(stable, ir.Class) or field.wire not in {known.wire for known in stable.fields}

    def _union(self, union: ir.Alias, members: Sequence[ir.Type]) -> Iterator[ir.Definition]:
        """Lower a union: the classes and the enum of its members, then the alias with its own name."""
        name, tag = union.name, _tag(members)
        lowered: list[ir.Type] = []
        for index, member in enumerate(members):
            match member:
                case ir.Const(values):
                    strings = tuple(ir.Member(name=value, value=value) for value in values)
                    enum, doc = names.value_enum_name(name), f"The simple values of `{name}`."
                    yield self._enum(ir.Enum(name=enum, doc=doc, members=strings, parent=name), name)
                    lowered.append(ir.Ref(enum))
                case ir.Class():
                    variant = self._variant(name, index, member, tag)
                    yield variant
                    lowered.append(ir.Ref(variant.name))
                case _:
                    lowered.append(self._type(member, name))
        if any(isinstance(member, ir.Ref) for member in lowered):
            lowered.append(ir.UNKNOWN)
        yield attrs.evolve(union, type=ir.Union(tuple(lowered)))

    def _variant(self, union: str, index: int, class_: ir.Class, tag: str | None) -> ir.Class:
        """Lower a variant: one with a tag, one that is the value of its object's only key, or one named by a table."""
        label = history.label(union, class_)
        if tag is not None:
            constant = ir.constant(next(field.type for field in class_.fields if field.wire == tag))
            name = names.variant_name(union, str(constant), class_.title)
            return self._class(name, class_, label, union=union, tag=tag)
        if not (class_.closed and len(class_.fields) == 1 and class_.fields[0].required):
            if union not in names.UNTAGGED_VARIANTS:
                raise WiregenError(f"{union} has nameless variants: name them in names.UNTAGGED_VARIANTS")
            return self._class(names.UNTAGGED_VARIANTS[union][index], class_, label, union=union)
        (only,) = class_.fields
        name = names.variant_name(union, only.wire, class_.title)
        if isinstance(only.type, ir.Class):  # the fields of the inner object become those of the variant
            value = attrs.evolve(only.type, key=only.wire, doc=only.doc or class_.doc)
            return self._class(name, value, label, union=union)
        # The schema closes the outer object, because serde does. That says nothing about its fields.
        return self._class(name, attrs.evolve(class_, closed=False), label, union=union)

    def _type(self, type_: ir.Type, where: str) -> ir.Type:
        """Lower the type of a value. References to ``tables.LITERALS`` become constants."""
        match type_:
            case ir.Ref(name) if type_ != ir.UNKNOWN:
                if name not in self.definitions or name in tables.ENVELOPES:
                    raise WiregenError(f"{where} refers to {name}, which is not a value")
                target = self.definitions[name]
                if name in tables.LITERALS and isinstance(target, ir.Enum):
                    return ir.Const(tuple(member.value for member in target.members))
                return type_
            case ir.Seq(item):
                return ir.Seq(self._type(item, where))
            case ir.Map(value):
                return ir.Map(self._type(value, where))
            case ir.Union(members):
                return ir.union(self._type(member, where) for member in members)
            case ir.Plain() | ir.Const():
                return type_
            case _:
                raise WiregenError(f"cannot lower the type of {where}: it contains an object without a name")


def _tag(members: Sequence[ir.Type]) -> str | None:
    """Return the property that has a different constant in each variant, if there is one."""
    variants = [member for member in members if isinstance(member, ir.Class)]
    if len(variants) != len(members):
        return None
    for candidate in variants[0].fields:
        values = [
            next((ir.constant(field.type) for field in variant.fields if field.wire == candidate.wire), None)
            for variant in variants
        ]
        if None in values:
            continue
        if len(set(values)) != len(values):
            raise WiregenError(f"two variants have the same tag among {values}")
        return candidate.wire
    return None


def _check_fields(name: str, fields: Sequence[ir.Field], *, open_: bool) -> None:
    taken = {"evolve", "additional"} if open_ else {"evolve"}
    for field in fields:
        if field.name in taken or field.name.startswith("_"):
            raise WiregenError(f"{name}.{field.wire} cannot be named {field.name}")
        taken.add(field.name)
