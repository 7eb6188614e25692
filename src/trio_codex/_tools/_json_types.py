"""What a Python type is to JSON: an object of fields, an array, a choice, …. Read by what writes schemas and what reads values.

Owns the questions that both must answer alike. What is none of these is a leaf, and both leave it to msgspec.
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

from trio_codex._tools._docstring import Docstring, parse_docstring

Type: TypeAlias = Any
"""A type as an annotation has it: a class, a union, ``list[str]``, …"""

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
"""Types that are arrays, and what is made of one."""

MAPPINGS: Final = (dict, abc.Mapping, abc.MutableMapping)
PATHS: Final = (Path, PurePath)
_ALIASES: Final = getattr(typing, "TypeAliasType", ())


@attrs.frozen
class Notes:
    """What ``Annotated`` adds to a type.

    Attributes:
        description: A text among it, or the description of a ``msgspec.Meta``; the last one counts.
        metas: Its ``msgspec.Meta`` values: bounds, patterns, examples.
    """

    description: str | None
    metas: tuple[msgspec.Meta, ...]


@attrs.frozen
class Field:
    """A field of an object.

    Attributes:
        name: Its name, in Python and in JSON.
        type: Its type.
        required: Whether it must be there.
        default: Its default; ``attrs.NOTHING`` if there is none, or it is made anew each time.
        description: What the docstring of its class says of it.
    """

    name: str
    type: Type
    required: bool
    default: object
    description: str | None = None

    @property
    def absent_as_null(self) -> bool:
        """Whether null stands for its absence, because it is no value of it."""
        return not self.required and not takes_null(self.type)


def origin(type_: Type) -> Type:
    """Give what a type is made by, such as ``list`` for ``list[str]``; the type itself if it is plain."""
    return typing.get_origin(type_) or type_


def unwrapped(type_: Type) -> tuple[Type, Notes]:
    """Take ``Annotated``, ``NewType``, aliases and the qualifiers of ``TypedDict`` off a type."""
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
    """Put ``Annotated`` on a type."""
    return Annotated[(type_, *metas)]


def members(type_: Type) -> tuple[Type, ...] | None:
    """Give the members of a union; ``None`` for what is none."""
    return get_args(type_) if origin(type_) in (Union, UnionType) else None


def choices(type_: Type) -> dict[tuple[type, Scalar], object] | None:
    """Give the members of an enum or a ``Literal`` by the JSON that stands for each; ``None`` for what is neither.

    The kind of JSON is part of the key: to Python, ``1`` equals ``True``.

    Raises:
        TypeError: A member is no scalar of JSON.
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
            raise TypeError(f"{value!r} cannot be told by a scalar of JSON")
        found[json.__class__, json] = value
    return found


def is_typed_dict(type_: Type) -> bool:
    """Whether it is a ``TypedDict``."""
    return typing.is_typeddict(type_)


def is_named_tuple(type_: Type) -> bool:
    """Whether it is a named tuple. It is an object, too: a model should not have to count."""
    return isinstance(type_, type) and tuple in type_.__mro__ and hasattr(type_, "_field_defaults")


def is_object(type_: Type) -> bool:
    """Whether it is a class that stands for an object with fields."""
    if not isinstance(type_, type):
        return False
    return (
        attrs.has(type_) or dataclasses.is_dataclass(type_) or is_typed_dict(type_) or is_named_tuple(type_)
    )


def fields_of(cls: Type) -> list[Field]:
    """Give the fields of a class, those that its constructor takes.

    Raises:
        TypeError: A type that it mentions cannot be found.
    """
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as exc:
        raise TypeError(f"{cls.__name__} mentions {exc.name}, which cannot be found at run time") from None
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
    # With postponed annotations, the class itself does not see the qualifiers.
    while origin(hint) is Annotated:
        hint = hint.__origin__
    if origin(hint) in (Required, NotRequired):
        return origin(hint) is Required
    return name in cls.__required_keys__


def docstring_of(cls: type) -> Docstring:
    """Read what was written about a class; what a dataclass or a named tuple writes itself does not count."""
    doc = cls.__doc__ or ""
    return parse_docstring("" if cls is object or doc.startswith(f"{cls.__name__}(") else doc)


def takes_null(type_: Type) -> bool:
    """Whether null is a value of it."""
    type_, _ = unwrapped(type_)
    if type_ in (None, NoneType, Any, object):
        return True
    parts = members(type_)
    if parts is not None:
        return any(takes_null(part) for part in parts)
    return (NoneType, None) in (choices(type_) or ())
