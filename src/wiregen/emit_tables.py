"""The generated tables of ``trio_codex.wire``: the module of each name, and the types of each method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wiregen import tables
from wiregen.render import quote

if TYPE_CHECKING:
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
        "CLIENT_REQUESTS: Final[Mapping[str, RequestSpec]] = {",
    ]
    for request in methods.requests:
        flags = [name for name in ("experimental", "deferred", "control") if getattr(request, name)]
        arguments = [_or_none(request.params), quote(request.result), *(f"{flag}=True" for flag in flags)]
        lines.append(f"    {quote(request.method)}: RequestSpec({', '.join(arguments)}),")
    lines += ["}", '"""Requests of the client."""', ""]
    lines.append("SERVER_REQUESTS: Final[Mapping[str, ServerRequestSpec]] = {")
    for server_request in methods.server_requests:
        arguments = [quote(server_request.params), quote(server_request.response)]
        arguments += ["experimental=True"] if server_request.experimental else []
        lines.append(f"    {quote(server_request.method)}: ServerRequestSpec({', '.join(arguments)}),")
    lines += ["}", '"""Requests of the server."""', ""]
    lines.append("NOTIFICATIONS: Final[Mapping[str, str]] = {")
    for notification in methods.notifications:
        lines.append(f"    {quote(notification.method)}: {_or_none(notification.params)},")
    lines += ["}", '"""Notifications of the server, with the type of their params."""', ""]
    unlisted = ", ".join(quote(method) for method in sorted(tables.UNLISTED))
    lines += [
        f"UNLISTED_NOTIFICATIONS: Final = frozenset({{{unlisted}}})",
        '"""Notifications that the schema has types for, but does not list."""',
        "",
    ]
    lines.append("CLIENT_NOTIFICATIONS: Final[Mapping[str, str | None]] = {")
    for notification in methods.client_notifications:
        lines.append(f"    {quote(notification.method)}: {_or_none(notification.params)},")
    lines += [
        "}",
        '"""Notifications of the client, with the type of their params; ``None`` if they have no params."""',
        "",
    ]
    lines.append("TEXT_DELTAS: Final[Mapping[str, TextDelta]] = {")
    for method, (text, key) in tables.TEXT_DELTAS.items():
        lines.append(f"    {quote(method)}: TextDelta({quote(text)}, {key!r}),")
    lines += [
        "}",
        '"""Notifications of which adjacent ones with the same key can be merged by concatenating their text."""',
        "",
    ]
    return "\n".join(lines)


def _or_none(name: str | None) -> str:
    return "None" if name is None else quote(name)
