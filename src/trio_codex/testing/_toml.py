"""Write TOML, limited to the kinds of values used in ``config.toml``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, cast

BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def dump_toml(table: Mapping[str, Any]) -> str:
    """Write a table as a TOML document.

    Args:
        table: ``str``, ``bool``, ``int``, ``float``, lists of those and of tables, and nested tables.

    Raises:
        TypeError: A value is of another kind.
    """
    return "".join(f"{line}\n" for line in _lines(table, ()))


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value, (*path, key))}" for key, value in plain.items()]
    # A table that holds only tables needs no header; an empty one does.
    if path and (lines or not table):
        lines.insert(0, f"[{'.'.join(map(_key, path))}]")
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _lines(cast("Mapping[str, Any]", value), (*path, key))
    return lines


def _key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    # JSON escapes are valid TOML as long as astral characters do not become surrogates, so escape only what TOML
    # forbids.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object, path: tuple[str, ...]) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each, path) for each in cast('list[object]', value))}]"
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        return f"{{{', '.join(f'{_key(key)} = {_value(each, (*path, key))}' for key, each in pairs)}}}"
    raise TypeError(f"{'.'.join(path)}: cannot write a {type(value).__name__} as TOML")
