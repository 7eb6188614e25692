"""The intermediate form between JSON Schema and Python text: definitions, types and methods, as attrs values."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from wiregen import WiregenError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# -- types ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Plain:
    """A type that Python has: ``str``, ``int``, ``float``, ``bool``, ``None``; or ``JSON``; or the ``Null`` sentinel."""

    name: str


@attrs.frozen
class Ref:
    """A definition, by its Python name."""

    name: str


@attrs.frozen
class Const:
    """One of these strings and no other."""

    values: tuple[str, ...]


@attrs.frozen
class Seq:
    """An array."""

    item: Type


@attrs.frozen
class Map:
    """An object with arbitrary keys."""

    value: Type


@attrs.frozen
class Union:
    """One of these, in this order."""

    members: tuple[Type, ...]


Type: TypeAlias = Plain | Ref | Const | Seq | Map | Union

STR, INT, FLOAT, BOOL, NONE, ANY, NULL = map(Plain, ("str", "int", "float", "bool", "None", "JSON", "Null"))
UNKNOWN = Ref("UnknownVariant")
"""The hand-written last member of every union that may grow."""


def optional(inner: Type) -> Type:
    """``inner | None``, flat and without repetition. Raw JSON holds null already."""
    if inner == ANY:
        return ANY
    members = inner.members if isinstance(inner, Union) else (inner,)
    return inner if NONE in members else Union((*members, NONE))


def refs(type_: Type) -> Iterator[str]:
    """Give the names of the definitions that a type mentions."""
    match type_:
        case Ref(name):
            yield name
        case Seq(item):
            yield from refs(item)
        case Map(value):
            yield from refs(value)
        case Union(members):
            for member in members:
                yield from refs(member)
        case _:
            pass


# -- definitions ---------------------------------------------------------------------------------------------------


class Missing:
    """The type of :data:`MISSING`."""


MISSING = Missing()
"""A field without a default."""

Default: TypeAlias = Missing | bool | int | str | tuple[str, ...] | None
"""What an absent field is read as. A tuple stands for a list, made anew for each value."""


@attrs.frozen(kw_only=True)
class Field:
    """One attribute of a class."""

    name: str
    wire: str
    type: Type
    default: Default = MISSING
    doc: str = ""
    experimental: bool = False
    clears: bool = False


@attrs.frozen(kw_only=True)
class Class:
    """An object of the protocol."""

    name: str
    doc: str
    fields: tuple[Field, ...] = ()
    parent: str | None = None
    """The union that it is a variant of: they share a module."""
    tag: str | None = None
    """The name of the field that tells it from its siblings."""
    key: str | None = None
    """The single key that its object sits under."""
    closed: bool = False
    open: bool = False
    experimental: bool = False

    def refs(self) -> Iterator[str]:
        """Give the names of the definitions that its fields mention."""
        for field in self.fields:
            yield from refs(field.type)


@attrs.frozen(kw_only=True)
class Member:
    """One value of an enum."""

    name: str
    value: str
    doc: str = ""


@attrs.frozen(kw_only=True)
class Enum:
    """A set of known strings."""

    name: str
    doc: str
    members: tuple[Member, ...]
    parent: str | None = None
    experimental: bool = False

    def refs(self) -> Iterator[str]:
        """Give nothing: an enum mentions no definition."""
        return iter(())


@attrs.frozen(kw_only=True)
class Alias:
    """A name for a type: a union, or a string with a meaning."""

    name: str
    doc: str
    type: Type
    parent: str | None = None
    experimental: bool = False

    def refs(self) -> Iterator[str]:
        """Give the names of the definitions that it stands for."""
        return refs(self.type)


Definition: TypeAlias = Class | Enum | Alias

# -- methods -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Request:
    """A request of the client."""

    method: str
    params: str | None
    result: str
    doc: str = ""
    experimental: bool = False
    deferred: bool = False
    control: bool = False


@attrs.frozen(kw_only=True)
class ServerRequest:
    """A request of the server."""

    method: str
    params: str
    response: str
    experimental: bool = False


@attrs.frozen(kw_only=True)
class Notification:
    """A notification, of either side."""

    method: str
    params: str | None


@attrs.frozen(kw_only=True)
class Methods:
    """All method tables."""

    requests: tuple[Request, ...]
    server_requests: tuple[ServerRequest, ...]
    notifications: tuple[Notification, ...]
    client_notifications: tuple[Notification, ...]


@attrs.frozen(kw_only=True)
class Protocol:
    """Everything that the emitters need."""

    version: str
    digest: str
    definitions: Mapping[str, Definition]
    methods: Methods
    home: Mapping[str, str]
    """The module of each definition."""

    def class_(self, name: str) -> Class:
        """Give a definition that must be a class."""
        found = self.definitions[name]
        if not isinstance(found, Class):
            raise WiregenError(f"{name} is not a class")
        return found
