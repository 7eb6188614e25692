"""The types of the protocol under their schema names, such as ``wire.TurnStartParams`` and ``wire.ThreadItem``.

The package has 600 classes and loads lazily: accessing a name imports only the domain that defines it. The rules for
all types are in :mod:`trio_codex.wire._base`.

``decode`` and ``encode`` convert between raw JSON and values. The package does no I/O and is independent of Trio.
"""

from __future__ import annotations

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
    # Hidden from type checkers, which would take every misspelled name for an `object` instead of an error.

    from trio_codex.wire import _lookup

    def __getattr__(name: str) -> object:
        if name not in _lookup.MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = _lookup.look_up(name)
        return value

    def __dir__() -> list[str]:
        return sorted({name for name in globals() if not name.startswith("_")} | _lookup.MODULES.keys())
