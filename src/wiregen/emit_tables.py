"""The generated tables of ``trio_codex.wire``: the module of each name, and the types of each method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_codex.wire._schema import ir
from wiregen import patches, tables
from wiregen.render import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wiregen.protocol import Protocol


def emit_index(protocol: Protocol, header: str) -> str:
    """Emit ``_index.py``: the imports for type checkers, and the lookup table of the lazy package."""
    modules: dict[str, list[str]] = {}
    for name, module in sorted(protocol.home.items()):
        modules.setdefault(module, []).append(name)
    tables_ = ("CLIENT_NOTIFICATIONS", "CLIENT_REQUESTS", "NOTIFICATIONS", "SERVER_REQUESTS", "TEXT_DELTAS")
    modules["_registry"] = list(tables_)
    lines = [
        header,
        '"""The module of each name of the lazy package: as imports for type checkers, and as a table at run time."""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import TYPE_CHECKING",
        "",
        "if TYPE_CHECKING:",
    ]
    for module, found in sorted(modules.items()):
        lines += [f"    from trio_codex.wire.{module} import {name} as {name}" for name in found]
    lines += ["", "_NAMES = {"]
    for module, found in sorted(modules.items()):
        lines.append(f"    {quote(module)}: (")
        lines += [
            f"        {quote(' '.join(found[start : start + 4]) + ' ')}" for start in range(0, len(found), 4)
        ]
        lines.append("    ),")
    lines += [
        "}",
        "HOME: dict[str, str] = {name: module for module, names in _NAMES.items() for name in names.split()}",
        '"""The module that defines each name."""',
        "",
    ]
    return "\n".join(lines)


def emit_registry(protocol: Protocol, header: str) -> str:
    """Emit ``_registry.py``: the method tables."""
    methods = protocol.methods
    unlisted = ", ".join(quote(method) for method in sorted(tables.UNLISTED))
    lines = [
        header,
        '"""The types of each method. They are given by name, so that a lookup imports nothing."""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Mapping",
        "from typing import Final",
        "",
        "from trio_codex.wire._specs import RequestSpec, ServerRequestSpec, TextDelta",
        "",
        f"VERSION: Final = {quote(protocol.version)}",
        '"""The server release whose schema the types are generated from."""',
        "",
        f"OLDER_ONLY: Final = frozenset({{{', '.join(map(quote, sorted(patches.KEPT)))}}})",
        '"""Names that this release no longer has, kept for older servers."""',
        "",
        *_table("CLIENT_REQUESTS", "RequestSpec", "Requests from the client.", _specs("RequestSpec", methods["ClientRequest"])),
        *_table(
            "SERVER_REQUESTS", "ServerRequestSpec", "Requests from the server.",
            _specs("ServerRequestSpec", methods["ServerRequest"]),
        ),
        *_table(
            "NOTIFICATIONS", "str", "Notifications from the server, with the type of their params.",
            {name: _params(method) for name, method in methods["ServerNotification"].items()},
        ),
        f"UNLISTED_NOTIFICATIONS: Final = frozenset({{{unlisted}}})",
        '"""Notifications that the schema has types for, but does not list."""',
        "",
        *_table(
            "CLIENT_NOTIFICATIONS", "str | None",
            "Notifications from the client, with the type of their params; ``None`` if they have no params.",
            {name: _params(method) for name, method in methods["ClientNotification"].items()},
        ),
        *_table(
            "TEXT_DELTAS", "TextDelta", "Notifications that can be merged with adjacent ones of the same key, by concatenating their text.",
            {name: f"TextDelta({quote(text)}, {key!r})" for name, (text, key) in tables.TEXT_DELTAS.items()},
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def _table(name: str, type_: str, doc: str, rows: Mapping[str, str]) -> Iterator[str]:
    yield f"{name}: Final[Mapping[str, {type_}]] = {{"
    for method, row in rows.items():
        yield f"    {quote(method)}: {row},"
    yield from ("}", f'"""{doc}"""', "")


def _specs(type_: str, methods: Mapping[str, ir.Method]) -> dict[str, str]:
    """Write the rows of a table of requests."""
    rows: dict[str, str] = {}
    for name, method in methods.items():
        flags = ["experimental"] if method.experimental else []
        flags += [
            flag
            for flag, table in (("deferred", tables.DEFERRED), ("control", tables.CONTROL))
            if name in table
        ]
        arguments = [_params(method), repr(method.result), *(f"{flag}=True" for flag in flags)]
        if method.since is not None and type_ == "RequestSpec":
            arguments.append(f"since={quote(method.since)}")
        rows[name] = f"{type_}({', '.join(arguments)})"
    return rows


def _params(method: ir.Method) -> str:
    return next(map(quote, ir.refs(method.params)), "None")
