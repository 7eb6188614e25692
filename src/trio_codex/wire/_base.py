"""What every wire type is made of: :class:`Wire`, its :class:`Shape`, raw JSON, and ``NULL``.

This module knows nothing of any particular type, and nothing of cattrs (:mod:`trio_codex.wire._convert` does).
The rules that hold for all of them:

**Names.** Attributes are snake_case. The name on the wire is generated data (:attr:`Shape.names`), never computed: 83
names of the schema do not survive a computed renaming.

**What is left out.** On sending, a field is left out if, and only if, its default is ``None`` and its value is
``None``. So a tag is always sent, a schema default that we know is sent explicitly, and a required field that may be
null has no default and is sent as null.

**What is missing.** On reading, an absent field takes its default: that of the schema, else ``None``. A type that is
only ever sent has ``None`` where the schema has a default, so that the server's own default decides. Null for a field
that cannot be null takes the field's default, too. A field without a default must be there and must fit, unless it may
be null: then it is null, because it may be one that an older server does not know yet.

**Null.** Where the server tells null from absence ("null clears it, leaving it out keeps it"), the field also takes
:data:`NULL`, which is sent as null, and is what a null is read as.

**Open enums.** A known value is a member of its :class:`enum.StrEnum`; an unknown one stays the plain ``str`` it is,
and is sent unchanged. Hence ``TurnStatus | str``: members equal their text, and either may be passed. (A dictionary
look-up that falls back to the text costs 0.36 µs; pseudo-members made by ``_missing_`` cost 1.6 µs each time.)

**Unknown fields** are ignored. They are still in the raw value of the event.
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
    Fields = tuple  # evaluated when types are read; `Attribute` is generic for type checkers only

JSON: TypeAlias = Any
"""Raw JSON, as ``json.loads`` gives it, where the schema says no more than that."""


class Null(enum.Enum):
    """The type of :data:`NULL`. (An enum, so that type checkers can narrow by ``is NULL``.)."""

    NULL = "null"

    def __repr__(self) -> str:
        return "NULL"

    def __bool__(self) -> bool:
        return False


NULL: Final = Null.NULL
"""Send null, where null means something else than leaving the field out: it clears or disables."""


class Shape(NamedTuple):
    """How the object on the wire differs from the plain one that the attributes suggest. Generated data."""

    names: Mapping[str, str] = MappingProxyType({})
    """The wire name of each attribute whose own name is another."""
    tag: str | None = None
    """The attribute that tells this variant of a union from its siblings."""
    key: str | None = None
    """The object has this single key, and the fields are those of its value."""
    closed: bool = False
    """The schema allows no other fields. It tells untagged variants apart; extra fields never make a value unreadable."""
    open: bool = False
    """Fields that are not in the schema carry data: they are kept in the attribute ``additional``."""
    elided: frozenset[str] = frozenset()
    """Attributes whose value never shows in a ``repr``: prompts, secrets, output."""
    clears: frozenset[str] = frozenset()
    """Attributes that take :data:`NULL`."""


class Wire:
    """A value of the protocol: frozen, slotted, compared by value, not hashable (it may hold lists).

    The attrs classes below it are built without their own ``__eq__`` and ``__repr__``: the generic ones here halve the
    import time of 600 classes.
    """

    __slots__ = ()
    __attrs_attrs__: ClassVar[Fields] = ()
    __wire__: ClassVar[Shape] = Shape()

    # `__eq__` without `__hash__`: Python sets `__hash__` to None.
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
        """Give a copy of this value with some fields changed.

        Args:
            **changes: New values by attribute name.

        Returns:
            The new value, of the same class.

        Raises:
            TypeError: There is no such field.
        """
        return attrs.evolve(self, **changes)  # type: ignore[misc]  # a subclass is an attrs class


class Page(Wire):
    """A page of a list: its items, and where the next page begins. It has the length of ``data`` and iterates over it."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __getitem__(self, index: int) -> Any:
        return self._items()[index]

    def __bool__(self) -> bool:
        # A response without items is a response.
        return True

    def _items(self) -> Sequence[Any]:
        items: Sequence[Any] = cast("Any", self).data  # a field of each subclass
        return items


def empty_list() -> list[Any]:
    """Make the default of a list field. (A bare ``list`` has an element type that type checkers do not know.)."""
    return []


def empty_dict() -> dict[str, Any]:
    """Make the default of a mapping field."""
    return {}


def wire_name(cls: type[Wire], attribute: str) -> str:
    """Give the name that an attribute of ``cls`` has on the wire."""
    return cls.__wire__.names.get(attribute, attribute)


def _elide(value: object) -> str:
    """Show that there is a value, and how long it is, and nothing else."""
    if value is None or value is NULL:
        return repr(value)
    if isinstance(value, (str, bytes)):
        return f"<elided: {len(value)} characters>"
    if isinstance(value, (list, tuple, dict)):
        size = len(value)  # pyright: ignore[reportUnknownArgumentType]
        return f"<elided: {size} {'item' if size == 1 else 'items'}>"
    return "<elided>"
