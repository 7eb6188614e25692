"""Compare the protocol of another binary with the built-in one.

Both are compared in one representation, that of :mod:`trio_codex.wire._schema`: one side is read from the imported wire
classes and method tables, the other from the JSON schema that a binary prints. This module is independent of JSON
Schema, processes and terminals.

A difference *matters* if something built in is removed or incompatible: a method, field, enum value or union member
that the binary no longer has; a field that it does not accept or does not send; a kind of value that the client could
not parse or the server would refuse. Additions do not matter: the client has a value for anything unknown.

This can depend on the direction: a new required field is harmless in what the client receives, but not in what it
sends. Each type is compared once for each direction that it is used in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from trio_codex.wire._registry import OLDER_ONLY, UNLISTED_NOTIFICATIONS
from trio_codex.wire._schema import ir
from trio_codex.wire._schema.built_in import BuiltIn
from trio_codex.wire._schema.read import Schema, flatten
from trio_codex.wire._schema.values import Values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Kind: TypeAlias = Literal[
    "request", "server request", "notification", "client notification", "type", "field", "enum value", "member"
]  # fmt: skip
Change: TypeAlias = Literal["added", "gone", "changed"]


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
        comparison = _Comparison(BuiltIn(), Schema(flatten(bundle)))
        comparison.methods()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NotASchema(f"it has an unknown form ({type(error).__name__}: {error})") from error
    return sorted(comparison.found.values())


@attrs.define
class _Comparison:
    ours: BuiltIn
    theirs: Schema
    found: dict[tuple[str, ...], Difference] = attrs.field(factory=dict[tuple[str, ...], Difference])
    seen: set[tuple[object, ...]] = attrs.field(factory=set[tuple[object, ...]])

    # -- methods ---------------------------------------------------------------------------------------------------

    def methods(self) -> None:
        """Compare the four tables, and every type reachable from them."""
        self.table("request", "ClientRequest", sent=True)
        self.table("server request", "ServerRequest", sent=False)
        self.table("notification", "ServerNotification", sent=False)
        self.table("client notification", "ClientNotification", sent=True)

    def table(self, kind: Kind, table: ir.Table, *, sent: bool) -> None:
        """Compare one table: methods, and the types of their params and results."""
        ours, theirs = self.ours.methods(table), self.theirs.methods(table)
        for name in theirs.keys() - {method.name for method in ours}:
            self.note(kind, "added", name)
        for method in ours:
            name, answer, type_ = method.name, method.result, _name(method.params)
            if name not in theirs:
                if name in UNLISTED_NOTIFICATIONS and type_ is not None and type_ in self.theirs:
                    self.value(type_, method.params, method.params, sent=sent)
                else:
                    self.note(kind, "gone", name, matters=True)
                continue
            self.params(kind, name, method.params, theirs[name].params, sent=sent)
            if answer is not None and answer not in self.theirs:
                self.note("type", "gone", answer, f"the answer to {name}", matters=True)
            elif answer is not None:
                self.value(answer, ir.Ref(answer), ir.Ref(answer), sent=not sent)

    def params(self, kind: Kind, method: str, ours: ir.Type, theirs: ir.Type, *, sent: bool) -> None:
        """Compare the params of a method: a type, a nullable type (the client sends an object), or nothing."""
        mine, others = Values.of(ours, self.ours), Values.of(theirs, self.theirs)
        nothing = Values(scalars=frozenset({ir.NONE}))
        if mine != nothing != others:
            where = _name(ours) or method
            self.values(where, mine.without_null(), others.without_null(), sent=sent, name=_name(theirs))
        elif mine != others:
            detail = "without params" if others == nothing else "with params"
            self.note(kind, "changed", method, detail, matters=True)

    # -- values ----------------------------------------------------------------------------------------------------

    def value(self, where: str, ours: ir.Type, theirs: ir.Type, *, sent: bool) -> None:
        """Compare the values allowed in one place."""
        mine, others = Values.of(ours, self.ours), Values.of(theirs, self.theirs)
        self.values(where, mine, others, sent=sent, name=_name(theirs))

    def values(self, where: str, ours: Values, theirs: Values, *, sent: bool, name: str | None) -> None:
        """Compare the kinds of values allowed in one place, and then each kind with its counterpart.

        ``where`` is the place, and ``name`` the schema's definition there, for messages about its members.
        """
        if ours.any:
            return  # any value is passed through
        if theirs.any or ours.kinds() != theirs.kinds():
            needed, offered = (ours, theirs) if sent else (theirs, ours)
            self.note(
                "field" if "." in where else "type",
                "changed",
                where,
                f"{ours.describe()} → {theirs.describe()}",
                matters=not offered.any and (needed.any or not needed.kinds() <= offered.kinds()),
            )
        self.strings(name or where, ours, theirs, sent=sent)
        for mine, other in ((ours.item, theirs.item), (ours.value, theirs.value)):
            if mine is not None and other is not None:
                self.value(f"{where}[]", mine, other, sent=sent)
        self.members(name or where, ours, theirs, sent=sent)

    def strings(self, where: str, ours: Values, theirs: Values, *, sent: bool) -> None:
        """Compare the allowed strings of a value."""
        if ours.strings is None or theirs.strings is None:
            if theirs.closed and ir.STR in ours.scalars and ours.strings is None:
                self.note("type", "changed", where, "any string → enum", matters=sent)
            elif ours.strings is not None and ir.STR in theirs.scalars:
                self.note("type", "changed", where, "enum → any string", matters=ours.closed and not sent)
            return
        for value in theirs.strings - ours.strings:
            self.note("enum value", "added", f"{where}: {value}", matters=ours.closed and not sent)
        if theirs.closed:
            for value in ours.strings - theirs.strings:
                self.note("enum value", "gone", f"{where}: {value}", matters=True)

    def members(self, where: str, ours: Values, theirs: Values, *, sent: bool) -> None:
        """Compare the allowed objects of a value."""
        mine, others = list(ours.objects), list(theirs.objects)
        for class_, other in [*_pairs(mine, others)]:
            mine.remove(class_)
            others.remove(other)
            self.fields(class_, other, sent=sent)
        if theirs.unknown or theirs.value is not None:
            return  # any object is allowed
        for class_ in mine if theirs.objects else ():
            label = _tag(class_) or class_.key or class_.name
            self.note("member", "gone", f"{where}: {label}", matters=True)
        for other in others if ours.objects else ():
            self.note("member", "added", f"{where}: {_label(other)}", matters=not sent and not ours.unknown)

    def fields(self, ours: ir.Class, theirs: ir.Class, *, sent: bool) -> None:
        """Compare a class with an object."""
        row = (ours.name, theirs.name, frozenset(_names(theirs)), sent)
        if row in self.seen:
            return
        self.seen.add(row)
        fields = {field.wire: field for field in theirs.fields}
        if ours.key in fields:
            (theirs,) = Values.of(fields[ours.key].type, self.theirs).objects or (theirs,)
            fields = {field.wire: field for field in theirs.fields}
        for name in fields.keys() - {field.wire for field in ours.fields}:
            must = sent and fields[name].required
            self.note("field", "added", f"{ours.name}.{name}", "required" if must else "", matters=must)
        for field in ours.fields:
            if field.name == ours.tag:
                continue
            where = f"{ours.name}.{field.wire}"
            if field.wire not in fields:
                self.note("field", "gone", where, matters=True)
            else:
                self.field(where, field, fields[field.wire], sent=sent)

    def field(self, where: str, ours: ir.Field, theirs: ir.Field, *, sent: bool) -> None:
        """Compare one field: whether it is required, whether it is nullable, and its values."""
        mine, others = Values.of(ours.type, self.ours), Values.of(theirs.type, self.theirs)
        if ours.required != theirs.required and not isinstance(ours.type, ir.Const):
            detail = "required" if theirs.required else "no longer required"
            # A required nullable field reads as null if it is absent: an older server may not have it.
            excused = not sent and ir.NONE in mine.scalars
            self.note("field", "changed", where, detail, matters=theirs.required == sent and not excused)
        if not (ours.required and theirs.required) and not ours.clears:
            # A null is left out when sent, and read as the default when received.
            mine, others = mine.without_null(), others.without_null()
        self.values(where, mine, others, sent=sent, name=_name(theirs.type))

    def note(self, kind: Kind, change: Change, name: str, detail: str = "", *, matters: bool = False) -> None:
        """Record a difference. It matters if it matters in either direction.

        Names kept only for older servers are expected to be gone, so their removal is not recorded.
        """
        if change == "gone" and name in OLDER_ONLY:
            return
        known = self.found.get((kind, change, name, detail))
        if known is None or matters:
            self.found[kind, change, name, detail] = Difference(kind, change, name, detail, matters)


def _name(type_: ir.Type) -> str | None:
    """Return the definition that a type refers to, possibly as nullable."""
    return next((part.name for part in ir.members(type_) if isinstance(part, ir.Ref)), None)


def _tag(class_: ir.Class) -> str | None:
    return next((ir.constant(field.type) for field in class_.fields if field.name == class_.tag), None)


def _names(class_: ir.Class) -> set[str]:
    return {field.wire for field in class_.fields} if class_.key is None else {class_.key}


def _label(other: ir.Class) -> str:
    """Name a member of a union in the schema: by its tag, else by its definition, else by its properties."""
    constants = (ir.constant(field.type) for field in other.fields)
    return (
        next(filter(None, constants), None)
        or other.name
        or ", ".join(sorted(_names(other)))
        or "an empty object"
    )


def _pairs(ours: Sequence[ir.Class], theirs: Sequence[ir.Class]) -> Iterator[tuple[ir.Class, ir.Class]]:
    """Match each class to an object in the schema: by tag, else by name, else by common properties."""
    left = list(theirs)
    if len(ours) == len(left) == 1 and _tag(ours[0]) is None:
        yield ours[0], left[0]
        return
    untagged = [class_ for class_ in ours if _tag(class_) is None]
    for class_ in ours:
        tag = next(((field.wire, _tag(class_)) for field in class_.fields if field.name == class_.tag), None)
        for other in left if tag is not None else ():
            if tag in {(field.wire, ir.constant(field.type)) for field in other.fields}:
                left.remove(other)
                yield class_, other
                break
    likeness = [
        (class_.name == other.name, len(shared) / len(_names(class_) | _names(other)), class_, other)
        for class_ in untagged
        for other in left
        if (shared := _names(class_) & _names(other)) or class_.name == other.name
    ]
    taken = list[ir.Class]()
    for _, _, class_, other in sorted(likeness, key=lambda row: row[:2], reverse=True):
        if not any(one is class_ or one is other for one in taken):
            taken += [class_, other]
            yield class_, other
