"""Hooks that read scalars, enums and unions. They are plain functions with the signature of a cattrs hook.

A union selects a member by the kind of JSON value first. Among objects, the
:class:`~trio_codex.wire._base.Shape` of each class decides, so no union needs a table:

- by the tag, if the schema has one;
- otherwise as serde does for untagged members: the first one in the order of the schema that accepts the value. All its
  required fields must be present, and a closed one allows no unknown fields.

An object that matches no member becomes an :class:`~trio_codex.wire._unknown.UnknownVariant`, if the union has that.
The hooks of members are created on first use. A union of 19 classes costs nothing until it is read, and may be
recursive.
"""

from __future__ import annotations

import typing
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from enum import EnumMeta, StrEnum
from types import NoneType
from typing import Any, Final, Literal, TypeAlias, TypeGuard, get_args

import attrs
import msgspec

from trio_codex.wire._base import JSON, NULL, Null, Wire, wire_name
from trio_codex.wire._unknown import UnknownVariant

Hook: TypeAlias = Callable[[JSON, Any], Any]
"""Reads a raw value. cattrs passes the type as the second argument, which only the hook of enums uses."""

Type: TypeAlias = Any
"""A type as in an annotation, such as a class, a union or ``Sequence[str]``."""

_KINDS: Final[Mapping[type, str]] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    NoneType: "null",
    list: "an array",
    dict: "an object",
}


def origin(type_: Type) -> Any:
    """Return the generic that a type is made from, such as ``Sequence`` or ``Literal``; ``None`` for any other type."""
    return typing.get_origin(type_)


class Mismatch(Exception):
    """A raw value does not match its type. The message names kinds, never the value, which may be a secret."""

    def __init__(self, expected: str, value: JSON) -> None:
        super().__init__(f"expected {expected}, got {_KINDS.get(value.__class__, value.__class__.__name__)}")


def scalar(*kinds: type) -> Hook:
    """Accept these kinds of JSON without coercion: ``True`` is not an integer, and ``"1"`` is not a number."""
    expected = _KINDS[kinds[-1]]

    def structure(value: JSON, _: Any) -> Any:
        if value.__class__ not in kinds:
            raise Mismatch(expected, value)
        return value

    def structure_one(value: JSON, _: Any) -> Any:
        if value.__class__ is not kind:
            raise Mismatch(expected, value)
        return value

    kind, *more = kinds
    return structure if more else structure_one


def literal_hook(values: Sequence[str]) -> Hook:
    """Accept only these strings."""
    expected = " or ".join(map(repr, values))

    def structure(value: JSON, _: Any) -> Any:
        if value not in values:
            raise Mismatch(expected, value)
        return value

    return structure


def open_enum(kinds: Sequence[type[StrEnum]]) -> Hook:
    """Read a string as the member that it equals. Any other string stays as it is."""
    members: dict[str, str] = {member.value: member for kind in kinds for member in kind}

    def structure(value: JSON, _: Any) -> Any:
        if value.__class__ is not str:
            raise Mismatch("a string", value)
        return members.get(value, value)

    return structure


def union_hook(members: Sequence[Type], hook_for: Callable[[Type], Hook]) -> Hook:
    """Create the hook of a union with these members, none of which is itself a union."""
    enums = [member for member in members if isinstance(member, EnumMeta) and issubclass(member, StrEnum)]
    classes = [member for member in members if is_wire(member) and member is not UnknownVariant]
    by_kind: dict[type, Hook] = {}
    for member in members:
        if member is NoneType:
            by_kind.setdefault(NoneType, _as_null(None))
        elif member is Null:
            by_kind[NoneType] = _as_null(NULL)
        elif member is str:
            by_kind[str] = open_enum(enums) if enums else hook_for(str)
        elif member is float:
            by_kind[int] = by_kind[float] = hook_for(float)
        elif member in (int, bool):
            by_kind[member] = hook_for(member)
        elif origin(member) is Literal:
            by_kind[str] = literal_hook(get_args(member))
        elif origin(member) is abc.Sequence:
            by_kind[list] = hook_for(member)
        elif origin(member) is abc.Mapping:
            by_kind[dict] = hook_for(member)
    if UnknownVariant in members:
        by_kind[dict] = _objects(classes, hook_for, keyed=bool(enums))
    elif classes:
        (only,) = classes
        by_kind[dict] = hook_for(only)
    if len(by_kind) == 2 and NoneType in by_kind and Null not in members:
        (inner,) = (hook for kind, hook in by_kind.items() if kind is not NoneType)
        return _optional(inner)
    expected = " or ".join(_KINDS[kind] for kind in by_kind)

    def structure(value: JSON, _: Any) -> Any:
        hook = by_kind.get(value.__class__)
        if hook is None:
            raise Mismatch(expected, value)
        return hook(value, None)

    return structure


def is_wire(type_: Type) -> TypeGuard[type[Wire]]:
    """Return whether a type is a class of the protocol."""
    return isinstance(type_, type) and issubclass(type_, Wire)


def _as_null(result: Null | None) -> Hook:
    return lambda _value, _type: result


def _optional(inner: Hook) -> Hook:
    """Read null, or one other kind: by far the most frequent union."""

    def structure(value: JSON, _: Any) -> Any:
        return None if value is None else inner(value, None)

    return structure


def _objects(classes: Sequence[type[Wire]], hook_for: Callable[[Type], Hook], *, keyed: bool) -> Hook:
    """Read an object as one of these classes, or as an unknown variant.

    If ``keyed``, members without data are strings, and each of the others is an object whose only key is its name.
    """
    tagged = [cls for cls in classes if cls.__wire__.tag is not None]
    untagged = [_Candidate.of(cls) for cls in classes if cls.__wire__.tag is None]
    tags = {wire_name(cls, cls.__wire__.tag) for cls in tagged if cls.__wire__.tag is not None}
    tag = tags.pop() if tags else None
    if tags:
        raise TypeError("the members of a union have different tags")
    by_tag = {_tag_value(cls): cls for cls in tagged}
    hooks: dict[str, Hook] = {}

    def structure(value: JSON, _: Any) -> Any:
        name = value.get(tag)
        if name.__class__ is str:
            hook = hooks.get(name)
            if hook is not None:
                return hook(value, None)
            cls = by_tag.get(name)
            if cls is not None:
                hook = hooks[name] = hook_for(cls)
                return hook(value, None)
        for candidate in untagged:
            if candidate.may_be(value):
                try:
                    return hook_for(candidate.cls)(value, None)
                except Exception:  # like serde, try the next one
                    continue
        if name.__class__ is not str:
            name = next(iter(value)) if keyed and len(value) == 1 else None
        return UnknownVariant(tag=name, raw=value)

    return structure


def _tag_value(cls: type[Wire]) -> str:
    (value,) = (field.default for field in cls.__attrs_attrs__ if field.name == cls.__wire__.tag)
    return str(value)


class _Candidate(msgspec.Struct, frozen=True, eq=False):
    """A member without a tag, and the fields that an object needs to match it."""

    cls: type[Wire]
    required: frozenset[str]
    known: frozenset[str] | None

    @classmethod
    def of(cls, candidate: type[Wire]) -> _Candidate:
        shape = candidate.__wire__
        fields = candidate.__attrs_attrs__
        if shape.key is not None:
            return cls(candidate, frozenset({shape.key}), frozenset({shape.key}))
        known = frozenset(wire_name(candidate, field.name) for field in fields)
        # A constant has a default to make writing it easier. On the wire, it is required.
        required = frozenset(
            wire_name(candidate, field.name)
            for field in fields
            if field.default is attrs.NOTHING or field.default.__class__ is str
        )
        return cls(candidate, required, known if shape.closed else None)

    def may_be(self, value: Mapping[str, JSON]) -> bool:
        return self.required <= value.keys() and (self.known is None or value.keys() <= self.known)
