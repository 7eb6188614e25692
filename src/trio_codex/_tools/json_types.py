"""Classify Python types by their JSON form: an object with fields, an array, a choice and so on.

Shared by the modules that generate schemas and convert values, so that both agree. Every other type is a leaf, which
both leave to msgspec.
"""

from __future__ import annotations

import dataclasses
import typing
from collections import abc
from enum import Enum
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NotRequired, Required, TypeAlias, Union, cast, get_args

import attrs
import msgspec

from trio_codex._tools.docstring import Docstring, parse_docstring

Type: TypeAlias = Any
"""A type as written in an annotation: a class, a union, ``list[str]``, …"""

Scalar: TypeAlias = str | int | float | bool | None

ARRAYS: Final[dict[Type, Type]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    abc.Collection: list,
    abc.Iterable: list,
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Set: frozenset,
    abc.MutableSet: set,
}
"""Array types, with the type that each is converted to."""

MAPPINGS: Final = (dict, abc.Mapping, abc.MutableMapping)
PATHS: Final = (Path, PurePath)
_ALIASES: Final = getattr(typing, "TypeAliasType", ())


@attrs.frozen
class Notes:
    """The metadata that ``Annotated`` adds to a type: the last description in it, and the ``msgspec.Meta`` values."""

    description: str | None
    metas: tuple[msgspec.Meta, ...]


@attrs.frozen
class Field:
    """A field of an object.

    Attributes:
        default: The default; ``attrs.NOTHING`` if there is none or it comes from a factory.
        description: The description in the docstring of the class.
    """

    name: str
    type: Type
    required: bool
    default: object
    description: str | None = None

    @property
    def absent_as_null(self) -> bool:
        """Whether null means absent, because null is not a value of the field."""
        return not self.required and not takes_null(self.type)


def origin(type_: Type) -> Type:
    """Return the origin of a type, such as ``list`` for ``list[str]``; the type itself if it is not generic."""
    return typing.get_origin(type_) or type_


def unwrapped(type_: Type) -> tuple[Type, Notes]:
    """Strip ``Annotated``, ``NewType``, aliases and ``TypedDict`` qualifiers from a type."""
    found: list[object] = []
    while True:
        if origin(type_) is Annotated:
            found[:0] = type_.__metadata__
            type_ = type_.__origin__
        elif origin(type_) in (Required, NotRequired):
            (type_,) = get_args(type_)
        elif isinstance(type_, typing.NewType):
            type_ = type_.__supertype__
        elif isinstance(type_, _ALIASES):
            type_ = type_.__value__
        else:
            break
    metas = tuple(note for note in found if isinstance(note, msgspec.Meta))
    texts = [
        text
        for note in found
        if (text := note.description if isinstance(note, msgspec.Meta) else note) and isinstance(text, str)
    ]
    return type_, Notes(texts[-1] if texts else None, metas)


def annotated(type_: Type, metas: tuple[msgspec.Meta, ...]) -> Type:
    return Annotated[(type_, *metas)]


def members(type_: Type) -> tuple[Type, ...] | None:
    """Return the members of a union; ``None`` for any other type."""
    return get_args(type_) if origin(type_) in (Union, UnionType) else None


def choices(type_: Type) -> dict[tuple[type, Scalar], object] | None:
    """Return the members of an enum or ``Literal``, keyed by their JSON; ``None`` for any other type.

    The kind of JSON value is part of the key because in Python ``1`` equals ``True``.

    Raises:
        TypeError: A member is not a JSON scalar.
    """
    values: tuple[object, ...]
    if origin(type_) is Literal:
        values = get_args(type_)
    elif isinstance(type_, type) and issubclass(type_, Enum):
        values = tuple(type_)
    else:
        return None
    found: dict[tuple[type, Scalar], object] = {}
    for value in values:
        json: Any = value.value if isinstance(value, Enum) else value
        if json.__class__ not in (str, int, float, bool, NoneType):
            raise TypeError(f"{value!r} is not a JSON scalar")
        found[json.__class__, json] = value
    return found


def is_typed_dict(type_: Type) -> bool:
    """Return whether a type is a ``TypedDict``."""
    return typing.is_typeddict(type_)


def is_named_tuple(type_: Type) -> bool:
    """Return whether a type is a named tuple. In JSON it is an object, so that a model need not count positions."""
    return isinstance(type_, type) and tuple in type_.__mro__ and hasattr(type_, "_field_defaults")


def is_object(type_: Type) -> bool:
    """Return whether a type is a class that maps to a JSON object with fields."""
    if not isinstance(type_, type):
        return False
    return (
        attrs.has(type_) or dataclasses.is_dataclass(type_) or is_typed_dict(type_) or is_named_tuple(type_)
    )


def fields_of(cls: Type) -> list[Field]:
    """Return the fields that the constructor of a class accepts. Raise ``TypeError`` for an unknown annotation."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as exc:
        raise TypeError(f"{cls.__name__} mentions {exc.name}, which is not defined at run time") from None
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        docs |= docstring_of(base).fields

    def field(name: str, default: object, *, required: bool, type_: Type = None) -> Field:
        return Field(name, hints.get(name, type_ or Any), required, default, docs.get(name))

    if attrs.has(cls):
        return [
            field(
                each.name,
                attrs.NOTHING if isinstance(each.default, cast("type", attrs.Factory)) else each.default,
                required=each.default is attrs.NOTHING,
                type_=each.type,
            )
            for each in attrs.fields(cls)
            if each.init
        ]
    if dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        return [
            field(
                each.name,
                attrs.NOTHING if each.default is missing else each.default,
                required=each.default is missing and each.default_factory is missing,
            )
            for each in dataclasses.fields(cls)
            if each.init
        ]
    if is_typed_dict(cls):
        return [field(name, attrs.NOTHING, required=_is_required(cls, name, hints[name])) for name in hints]
    defaults = cls._field_defaults
    return [
        field(name, defaults.get(name, attrs.NOTHING), required=name not in defaults) for name in cls._fields
    ]


def _is_required(cls: Type, name: str, hint: Type) -> bool:
    # With postponed annotations, the class itself does not evaluate the qualifiers.
    while origin(hint) is Annotated:
        hint = hint.__origin__
    if origin(hint) in (Required, NotRequired):
        return origin(hint) is Required
    return name in cls.__required_keys__


def docstring_of(cls: type) -> Docstring:
    """Return the docstring of a class, ignoring those that dataclasses and named tuples generate."""
    doc = cls.__doc__ or ""
    return parse_docstring("" if cls is object or doc.startswith(f"{cls.__name__}(") else doc)


def takes_null(type_: Type) -> bool:
    """Return whether null is a value of a type."""
    type_, _ = unwrapped(type_)
    if type_ in (None, NoneType, Any, object):
        return True
    parts = members(type_)
    if parts is not None:
        return any(takes_null(part) for part in parts)
    return (NoneType, None) in (choices(type_) or ())
