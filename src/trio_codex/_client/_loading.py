"""Modules of a session: the list of those loaded into memory before its first line.

A running session imports nothing from disk. A failed import on the reader or in the close sequence would end the
session. It fails, for example, after an upgrade of the package or when no file descriptor is free.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import Final

from trio_codex._launch._held import hold
from trio_codex.wire import _convert
from trio_codex.wire._index import HOME

HELD: Final = (
    *(f"trio_codex.wire.{module}" for module in sorted(set(HOME.values()))),
    "trio_codex._tools._tool_result",
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
    "trio_codex._requests._unknown",
    "trio_codex._requests._server_requests",
    "trio_codex._requests._asking",
    "trio_codex.tools",
    "trio_codex._tools._calling",
    "trio_codex._tools._docstring",
    "trio_codex._tools._json_schema",
    "trio_codex._tools._json_types",
    "trio_codex._tools._json_values",
    "trio_codex._tools._output",
    "trio_codex._tools._tool",
    "trio_codex._api._base",
    "trio_codex._api._generated",
)
"""Modules needed by requests of the server, user calls and rare messages. A session uses few of them."""

IMPORTED_BY_HELD: Final = ("json", "shlex")
"""Modules of the standard library that held modules import."""


def load() -> None:
    """Import what the reader and the close sequence need, and hold the other modules that a session may use.

    Raises:
        ImportError, OSError: A module is missing or cannot be read.
    """
    for name in IMPORTED_BY_HELD:
        importlib.import_module(name)
    _convert.preload()
    hold(HELD)
    if "trio_codex._runtime._proctree" in sys.modules:
        with suppress(ImportError):  # optional: without it, closing ends the process group only
            importlib.import_module("psutil")
