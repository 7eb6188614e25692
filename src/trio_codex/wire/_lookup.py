"""Looks up types of :mod:`trio_codex.wire` by name, importing only the modules that define them.

The modules of the package import this one where they need a type by its name. They never import the package itself,
which imports them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from trio_codex.wire._index import HOME

if TYPE_CHECKING:
    from trio_codex.wire._base import Wire

_WORD: Final = re.compile(r"\w+")
_GENERICS: Final = {"Literal": Literal, "Mapping": Mapping, "Sequence": Sequence}
_PACKAGE: Final = __name__.rpartition(".")[0]
_HAND_WRITTEN: Final = {
    "_convert": (
        "decode", "decode_notification", "decode_notification_json", "decode_result", "decode_server_request",
        "encode", "preload",
    ),
    "_specs": ("RequestSpec", "ServerRequestSpec", "TextDelta"),
    "_unknown": ("UnknownNotification", "UnknownServerRequest", "UnknownVariant"),
}  # fmt: skip

MODULES: Final = {**HOME, **{name: module for module, names in _HAND_WRITTEN.items() for name in names}}
"""The module that defines each name."""


def look_up(name: str) -> Any:
    """Return the object that a name of the package refers to. Raise ``KeyError`` if the package has no such name."""
    return getattr(import_module(f"{_PACKAGE}.{MODULES[name]}"), name)


def name_of(value: object) -> str | None:
    """Return the name of an alias such as ``ThreadItem``; ``None`` if no loaded module defines it."""
    for name, module in HOME.items():
        loaded = sys.modules.get(f"{_PACKAGE}.{module}")
        if loaded is not None and vars(loaded).get(name) is value:
            return name
    return None


def fields_of(cls: type[Wire]) -> tuple[attrs.Attribute[Any], ...]:
    """Return the attributes of a class with resolved types. This imports every module whose types they mention."""
    words = set(_WORD.findall(" ".join(str(field.type) for field in cls.__attrs_attrs__)))
    # `eval` would accept a mapping that looks names up on demand, but `typing` may copy it.
    names = {word: look_up(word) for word in words & HOME.keys()}
    attrs.resolve_types(cls, localns={**_GENERICS, **names})
    return cls.__attrs_attrs__
