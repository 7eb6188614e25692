"""Load all modules that a session may need before its first message.

A running session imports nothing from disk, because an import may fail after the package was upgraded or when no file
descriptor is free. A failed import in the reader or in the close sequence would end the session.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import Final

from trio_codex._process.held_modules import hold
from trio_codex.wire import _convert
from trio_codex.wire._index import HOME

HELD: Final = (
    *(f"trio_codex.wire.{module}" for module in sorted(set(HOME.values()))),
    "trio_codex._values.tool_result",
    "trio_codex._core.user_code",
    "trio_codex.policies",
    "trio_codex.policies._requests",
    "trio_codex.policies._decisions",
    "trio_codex.policies._policy",
    "trio_codex.policies._combine",
    "trio_codex.policies._shell",
    "trio_codex.policies._commands",
    "trio_codex.policies._git",
    "trio_codex.policies._inbox",
    "trio_codex.policies._paths",
    "trio_codex._session.request_kinds",
    "trio_codex._session.asking",
    "trio_codex.tools",
    "trio_codex._tools.answered",
    "trio_codex._tools.calling",
    "trio_codex._tools.docstring",
    "trio_codex._tools.json_schema",
    "trio_codex._tools.json_types",
    "trio_codex._tools.json_values",
    "trio_codex._tools.output",
    "trio_codex._tools.tool",
    "trio_codex._session.rejoining",
    "trio_codex._api.rejoin",
    "trio_codex._api.exec",
    "trio_codex._api.exec_streams",
    "trio_codex._api.watch",
    "trio_codex._api.method_groups",
    "trio_codex._api.generated",
)
"""Modules for server requests, user calls and rare messages. A session uses few of them."""

IMPORTED_BY_HELD: Final = ("json", "shlex")
"""Modules of the standard library that the modules of :data:`HELD` import."""


def load() -> None:
    """Import the modules of the reader and the close sequence, and hold the others that a session may use."""
    for name in IMPORTED_BY_HELD:
        importlib.import_module(name)
    _convert.preload()
    hold(HELD)
    if "trio_codex._process.group" in sys.modules:
        with suppress(ImportError):  # optional: without it, closing ends the process group only
            importlib.import_module("psutil")
