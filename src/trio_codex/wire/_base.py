"""The base of all wire types: :class:`Wire`, :class:`Shape`, raw JSON, and ``NULL``.

This module is independent of any particular type, and of cattrs (:mod:`trio_codex.wire._converter` is not). The rules
for all types are:

**Names.** Attributes use snake_case. The name on the wire is generated data (:attr:`Shape.names`) and never computed,
because 83 names in the schema would not survive the conversion.

**Omitted fields.** A field is omitted on sending if and only if both its default and its value are ``None``. A tag is
therefore always sent, a default from the schema is sent explicitly, and a required nullable field, which has no
default, is sent as null.

**Absent fields.** An absent field gets its default on reading: the default from the schema, or else ``None``. A type
that is only sent has ``None`` instead of the schema's default, so the server's own default applies. Null counts as
absent for a field that is not nullable. A field without a default is required. If it is nullable, absence is read as
null, because an older server may not have the field.

**Null.** Where the server distinguishes null from absence (null clears a setting, omitting it keeps it), the field also
accepts :data:`NULL`. It is sent as null, and null is read as :data:`NULL`.

**Open enums.** A known value is a member of its :class:`enum.StrEnum`. An unknown value stays a plain ``str`` and is
sent unchanged. Hence ``TurnStatus | str``: members equal their string value, and either may be passed. (A dictionary
lookup with the string as fallback takes 0.36 µs. Pseudo-members created by ``_missing_`` take 1.6 µs each time.)

**Unknown fields** are ignored. The raw value of the event still has them.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self, TypeAlias, cast

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Fields: TypeAlias = tuple[attrs.Attribute[Any], ...]
else:
    Fields = tuple  # evaluated at run time, when `Attribute` is not generic

JSON: TypeAlias = Any
"""Raw JSON, as returned by ``json.loads``, where the schema does not specify a type."""


class Null(enum.Enum):
    """The type of :data:`NULL`. It is an enum so that type checkers narrow it by ``is NULL``."""

    NULL = "null"

    def __repr__(self) -> str:
        return "NULL"

    def __bool__(self) -> bool:
        return False


NULL: Final = Null.NULL
"""Pass this to send null, which clears or disables a setting; ``None`` omits the field."""


class Shape(NamedTuple):
    """How the JSON object of a class differs from a plain mapping of its attributes. Generated data."""

    names: Mapping[str, str] = MappingProxyType({})
    """The wire name of each attribute that is named differently."""
    tag: str | None = None
    """The attribute that distinguishes the members of a union."""
    key: str | None = None
    """The only key of the object. Its value has the fields."""
    closed: bool = False
    """The schema allows no other fields. This distinguishes untagged members of a union; extra fields are never an error."""
    open: bool = False
    """Fields that are not in the schema carry data and are kept in the attribute ``additional``."""
    elided: frozenset[str] = frozenset()
    """Attributes whose value never appears in a ``repr``: prompts, secrets, output."""
    clears: frozenset[str] = frozenset()
    """Attributes that accept :data:`NULL`."""


class Wire:
    """A value of the protocol: frozen, slotted and compared by value. It may contain lists, so it is not hashable.

    Subclasses are attrs classes without an ``__eq__`` and a ``__repr__`` of their own. Inheriting them from this class
    halves the import time of 600 classes.
    """

    __slots__ = ()
    __attrs_attrs__: ClassVar[Fields] = ()
    __wire__: ClassVar[Shape] = Shape()

    # Python sets `__hash__` to None for a class that defines only `__eq__`.
    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in self.__attrs_attrs__)

    def __repr__(self) -> str:
        elided = self.__wire__.elided
        shown: list[str] = []
        for field in self.__attrs_attrs__:
            name, value = field.name, getattr(self, field.name)
            if value is field.default:
                continue
            shown.append(f"{name}={_elide(value) if name in elided else repr(value)}")
        return f"{self.__class__.__name__}({', '.join(shown)})"

    def evolve(self, **changes: object) -> Self:
        """Return a copy of this value with some fields changed.

        Args:
            **changes: New values by attribute name.

        Returns:
            The new value, of the same class.

        Raises:
            TypeError: The class has no such field.
        """
        return attrs.evolve(self, **changes)  # type: ignore[misc]  # a subclass is an attrs class


class Page(Wire):
    """A page of a list: the items in ``data``, and a cursor for the next page. It is a sequence of its items."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __getitem__(self, index: int) -> Any:
        return self._items()[index]

    def __bool__(self) -> bool:
        # A page is true even without items, as any other response is.
        return True

    def _items(self) -> Sequence[Any]:
        items: Sequence[Any] = cast("Any", self).data  # a field of each subclass
        return items


def empty_list() -> list[Any]:
    """Return the default of a list field. Type checkers do not know the element type of a bare ``list``."""
    return []


def empty_dict() -> dict[str, Any]:
    return {}


def wire_name(cls: type[Wire], attribute: str) -> str:
    """Return the wire name of an attribute of ``cls``."""
    return cls.__wire__.names.get(attribute, attribute)


def _elide(value: object) -> str:
    """Replace a value by a placeholder that shows only its length."""
    if value is None or value is NULL:
        return repr(value)
    if isinstance(value, (str, bytes)):
        return f"<elided: {len(value)} characters>"
    if isinstance(value, (list, tuple, dict)):
        size = len(value)  # pyright: ignore[reportUnknownArgumentType]
        return f"<elided: {size} {'item' if size == 1 else 'items'}>"
    return "<elided>"
