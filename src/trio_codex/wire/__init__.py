"""The types of the protocol, each by its schema name, such as ``wire.TurnStartParams`` or ``wire.ThreadItem``.

A package of 600 classes that is loaded in parts: asking for a name imports the domain that defines it. The rules that
all types follow are in :mod:`trio_codex.wire._base`.

``decode`` and ``encode`` convert between values and raw JSON. None of this does I/O, or knows Trio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from trio_codex.wire._base import JSON as JSON
from trio_codex.wire._base import NULL as NULL
from trio_codex.wire._base import Null as Null
from trio_codex.wire._base import Wire as Wire

if TYPE_CHECKING:
    from trio_codex.wire._convert import decode as decode
    from trio_codex.wire._convert import decode_notification as decode_notification
    from trio_codex.wire._convert import decode_notification_json as decode_notification_json
    from trio_codex.wire._convert import decode_result as decode_result
    from trio_codex.wire._convert import decode_server_request as decode_server_request
    from trio_codex.wire._convert import encode as encode
    from trio_codex.wire._convert import preload as preload
    from trio_codex.wire._index import *  # noqa: F403
    from trio_codex.wire._specs import RequestSpec as RequestSpec
    from trio_codex.wire._specs import ServerRequestSpec as ServerRequestSpec
    from trio_codex.wire._specs import TextDelta as TextDelta
    from trio_codex.wire._unknown import UnknownNotification as UnknownNotification
    from trio_codex.wire._unknown import UnknownServerRequest as UnknownServerRequest
    from trio_codex.wire._unknown import UnknownVariant as UnknownVariant

else:
    # Hidden from type checkers: with it in sight, every misspelt name would be an `object` instead of an error.

    _HAND_WRITTEN = {
        "_convert": (
            "decode", "decode_notification", "decode_notification_json", "decode_result", "decode_server_request",
            "encode", "preload",
        ),
        "_specs": ("RequestSpec", "ServerRequestSpec", "TextDelta"),
        "_unknown": ("UnknownNotification", "UnknownServerRequest", "UnknownVariant"),
    }  # fmt: skip
    _home = {name: module for module, names in _HAND_WRITTEN.items() for name in names}

    def _home_of(name: str) -> str | None:
        if name in _home:
            return _home[name]
        from trio_codex.wire._index import HOME

        return HOME.get(name)

    def __getattr__(name: str) -> object:
        module = None if name.startswith("_") else _home_of(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return value

    def __dir__() -> list[str]:
        from trio_codex.wire._index import HOME

        return sorted({name for name in globals() if not name.startswith("_")} | set(_home) | set(HOME))
