"""Hypothesis strategies for wire values and whole turns. Needs ``hypothesis``.

Importing this module registers every protocol type with hypothesis, so that ``st.from_type(wire.ThreadItem)`` works,
and so do strategies inferred from annotations, as in ``@given(...)`` or ``st.builds(mine)``.
"""

from __future__ import annotations

from collections import abc
from enum import EnumMeta, StrEnum
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args

from hypothesis import strategies as st

from trio_codex import wire
from trio_codex.wire import JSON, NULL, Null, UnknownVariant, Wire
from trio_codex.wire._base import wire_name
from trio_codex.wire._index import HOME
from trio_codex.wire._lookup import fields_of
from trio_codex.wire._unions import is_wire, origin

from ._build import CHOICES, THREAD_ID, TURN_ID
from ._transcript import Transcript  # noqa: TC001  # the documentation evaluates annotations
from ._transcripts import turns

W = TypeVar("W", bound=Wire)

TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
"""Strings without lone surrogates, which JSON cannot represent, and never empty, because some fields must not be."""

INTEGERS: Final = st.integers(0, 2**63 - 1)
"""Integers that every integer field of the schema accepts: most fields are unsigned, and none is wider than 64 bits."""

UNKNOWN_TEXT: Final = TEXT.map(lambda text: f"~{text}")
"""Text that is not a tag, key or enum value of the schema."""

_STRATEGIES: Final[dict[tuple[type[Wire], bool], st.SearchStrategy[Any]]] = {}
"""One shared strategy for each class: hypothesis examines every new one, and many classes have members in common."""

_GIVEN: Final = {
    # Without this field, the JSON is the same as that of a sibling class.
    "McpElicitationLegacyTitledEnumSchema": frozenset({"enum_names"}),
    **{name: fields - {"file_id"} for name, fields in CHOICES.items()},
}
"""Optional fields that are always set."""


def json_values() -> st.SearchStrategy[JSON]:
    """Return a strategy for raw JSON: every kind, nested, small."""
    scalars = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
        max_leaves=4,
    )


def wire_values(cls: type[W], *, unknown: bool = True) -> st.SearchStrategy[W]:
    """Return a strategy for values of a protocol class.

    Args:
        cls: The class.
        unknown: Whether to include enum values and variants that this version does not know.
    """
    if (cls, unknown) not in _STRATEGIES:
        _STRATEGIES[cls, unknown] = st.deferred(lambda: _instances(cls, unknown=unknown))
    return _STRATEGIES[cls, unknown]


def union_values(union: Any, *, unknown: bool = True) -> st.SearchStrategy[Any]:
    """Return a strategy for values of any protocol type, such as ``wire.ThreadItem`` or ``Sequence[wire.UserInput]``.

    Args:
        union: The type.
        unknown: Whether to include enum values and variants that this version does not know.
    """
    return _of_type(union, unknown=unknown)


def transcripts(thread_id: str = THREAD_ID, turn_id: str = TURN_ID) -> st.SearchStrategy[Transcript]:
    """Return a strategy for turns as a correct server reports them, with the expected result.

    Notifications are ordered and their ids are consistent. Items overlap, and some are cut off; texts are streamed;
    there are retried errors, plans and diffs. There are no agents and no reviews.

    Args:
        thread_id: The id of the thread.
        turn_id: The id of the turn.
    """

    def values_of(cls: type[Wire]) -> st.SearchStrategy[Wire]:
        return wire_values(cls, unknown=False)

    return turns(values_of, TEXT, thread_id, turn_id)


def _instances(cls: type[W], *, unknown: bool) -> st.SearchStrategy[W]:
    given = _GIVEN.get(cls.__name__, frozenset())
    arguments: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields_of(cls):
        values = _of_type(field.type, unknown=unknown)
        if cls.__wire__.open and field.name == "additional":
            values = st.dictionaries(UNKNOWN_TEXT, json_values(), max_size=2)
        elif field.default is None and field.name not in given:
            # Mostly omitted: generating every optional field of the larger types takes too long.
            values = st.none() | st.none() | values
        elif field.default is None:
            values = values.filter(lambda value: value is not None)
        arguments[field.name] = values
    return st.builds(cls, **arguments)


def _of_type(type_: Any, *, unknown: bool) -> st.SearchStrategy[Any]:
    match origin(type_) or type_:
        case abc.Sequence:
            (item,) = get_args(type_)
            return st.lists(_of_type(item, unknown=unknown), max_size=2)
        case abc.Mapping:
            _, value = get_args(type_)
            return st.dictionaries(TEXT, _of_type(value, unknown=unknown), max_size=2)
        case _:
            pass
    if origin(type_) is Literal:
        return st.sampled_from(get_args(type_))
    if origin(type_) in (Union, UnionType):
        return _of_union(get_args(type_), unknown=unknown)
    return wire_values(type_, unknown=unknown) if is_wire(type_) else _SCALARS[type_]


_SCALARS: Final[dict[Any, st.SearchStrategy[Any]]] = {
    str: TEXT,
    int: INTEGERS,
    float: st.floats(allow_nan=False, allow_infinity=False) | INTEGERS,
    bool: st.booleans(),
    NoneType: st.none(),
    Null: st.just(NULL),
    Any: json_values(),
}


def _of_union(members: tuple[Any, ...], *, unknown: bool) -> st.SearchStrategy[Any]:
    enums = [member for member in members if isinstance(member, EnumMeta) and issubclass(member, StrEnum)]
    choices: list[st.SearchStrategy[Any]] = []
    for member in members:
        if member in enums:
            choices.append(st.sampled_from(list(member)))
        elif member is UnknownVariant:
            if unknown:
                choices.append(_unknown_variants(members))
        elif member is not str or unknown or not enums:
            choices.append(_of_type(member, unknown=unknown))
    return st.one_of(choices)


def _unknown_variants(members: tuple[Any, ...]) -> st.SearchStrategy[UnknownVariant]:
    """Generate objects that match no member of the union: with another tag, another key, or neither."""
    tags = {
        wire_name(cls, cls.__wire__.tag) for cls in members if is_wire(cls) and cls.__wire__.tag is not None
    }
    rest = st.dictionaries(UNKNOWN_TEXT, json_values(), max_size=2)
    if tags:
        (tag,) = tags

        def tagged(name: str, more: dict[str, JSON]) -> UnknownVariant:
            return UnknownVariant(tag=name, raw={**more, tag: name})

        return st.builds(tagged, UNKNOWN_TEXT, rest)
    if any(isinstance(member, EnumMeta) for member in members):

        def keyed(key: str, value: JSON) -> UnknownVariant:
            return UnknownVariant(tag=key, raw={key: value})

        return st.builds(keyed, UNKNOWN_TEXT, json_values())
    return rest.map(lambda raw: UnknownVariant(tag=None, raw={"~": None, **raw}))


def _register() -> None:
    """Register every class with hypothesis, so that it can resolve annotations that mention one."""
    for name in HOME:
        cls = getattr(wire, name)
        if isinstance(cls, type) and is_wire(cls):
            st.register_type_strategy(cls, wire_values)
    # The class itself does not know the tag of its union; this one is the most common.
    unknown = st.builds(_tagged, UNKNOWN_TEXT, st.dictionaries(UNKNOWN_TEXT, json_values(), max_size=2))
    st.register_type_strategy(UnknownVariant, unknown)


def _tagged(name: str, more: dict[str, JSON]) -> UnknownVariant:
    return UnknownVariant(tag=name, raw={**more, "type": name})


_register()
