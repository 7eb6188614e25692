"""Every class, enum and union of the protocol, for the tests in this directory."""

from __future__ import annotations

from enum import StrEnum
from types import UnionType
from typing import Final, get_args

from hypothesis import HealthCheck, settings

from trio_codex import wire
from trio_codex.wire._index import HOME

QUICK: Final = settings(
    max_examples=settings.default.max_examples // 20,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
"""Few examples for each of the 860 classes: 3 by default, 250 in the profile ``long``."""

NAMES: Final = {name: getattr(wire, name) for name in HOME}
CLASSES: Final = [
    found for found in NAMES.values() if isinstance(found, type) and issubclass(found, wire.Wire)
]
ENUMS: Final = sorted(
    {found for found in NAMES.values() if isinstance(found, type) and issubclass(found, StrEnum)},
    key=lambda enum: enum.__name__,
)
UNIONS: Final = {
    name: found
    for name, found in NAMES.items()
    if isinstance(found, UnionType) and wire.UnknownVariant in get_args(found)
}


def name_of(cls: type) -> str:
    return cls.__name__
