"""Hypothesis strategies of wire values and of whole turns. Needs ``hypothesis``.

Importing this module makes ``st.from_type(wire.ThreadItem)`` work, and every other type of the protocol: where hypothesis
infers strategies from annotations, as in ``@given(...)`` or ``st.builds(mine)``, wire types are no obstacle.
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
from trio_codex.wire._convert import fields_of
from trio_codex.wire._index import HOME
from trio_codex.wire._unions import is_wire, origin

from ._build import GIVEN, THREAD_ID, TURN_ID
from ._transcript import Transcript  # noqa: TC001  # the documentation evaluates annotations
from ._transcripts import turns

W = TypeVar("W", bound=Wire)

TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
"""Strings that JSON can hold: no lone surrogates. Never empty, as the schema has it for some."""

INTEGERS: Final = st.integers(0, 2**63 - 1)
"""Most integers of the schema are unsigned; none is larger."""

UNKNOWN_TEXT: Final = TEXT.map(lambda text: f"~{text}")
"""Text that is no tag, key or enum value of the schema."""

_GIVEN: Final = {
    # Without it, the value on the wire is that of its sibling.
    "McpElicitationLegacyTitledEnumSchema": frozenset({"enum_names"}),
    **GIVEN,
}
"""Optional fields that are always given, and why."""


def json_values() -> st.SearchStrategy[JSON]:
    """Give raw JSON: every kind, nested, small."""
    scalars = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
        max_leaves=4,
    )


def wire_values(cls: type[W], *, unknown: bool = True) -> st.SearchStrategy[W]:
    """Give values of a class of the protocol.

    Args:
        cls: The class.
        unknown: Include what this version does not know: enum values and variants of a later one.
    """
    return st.deferred(lambda: _instances(cls, unknown=unknown))


def union_values(union: Any, *, unknown: bool = True) -> st.SearchStrategy[Any]:
    """Give values of any type of the protocol, such as ``wire.ThreadItem`` or ``Sequence[wire.UserInput]``.

    Args:
        union: The type.
        unknown: Include what this version does not know: enum values and variants of a later one.
    """
    return _of_type(union, unknown=unknown)


def transcripts(thread_id: str = THREAD_ID, turn_id: str = TURN_ID) -> st.SearchStrategy[Transcript]:
    """Give turns as a legal server tells them: ordered notifications with consistent ids, and what they come to.

    Items overlap, and some are cut off; texts come in pieces; there are errors that are retried, plans and diffs. There are
    no agents, and no reviews.

    Args:
        thread_id: The thread of the turn.
        turn_id: Its id.
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
            # Mostly left out, or the larger types would take for ever.
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
    """Give objects that are none of the members: with another tag, or under another key, or with neither."""
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
    """Tell hypothesis about every class, so that it can resolve whatever mentions one."""
    for name in HOME:
        cls = getattr(wire, name)
        if isinstance(cls, type) and is_wire(cls):
            st.register_type_strategy(cls, wire_values)
    # By itself it does not know the tag of its union; most are told apart by this one.
    unknown = st.builds(_tagged, UNKNOWN_TEXT, st.dictionaries(UNKNOWN_TEXT, json_values(), max_size=2))
    st.register_type_strategy(UnknownVariant, unknown)


def _tagged(name: str, more: dict[str, JSON]) -> UnknownVariant:
    return UnknownVariant(tag=name, raw={**more, "type": name})


_register()
