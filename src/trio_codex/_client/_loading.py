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

NEEDED: Final = ("json", "trio_codex._requests._asking")
"""What the reader needs, and what modules that are held import."""

OFTEN_ASKED: Final = (
    "item/commandExecution/requestApproval", "item/fileChange/requestApproval", "item/permissions/requestApproval",
    "item/tool/requestUserInput", "item/tool/call", "mcpServer/elicitation/request",
)  # fmt: skip
"""Server requests whose types are built at startup. The others are rare, so their modules are only held."""

HELD: Final = (
    *(f"trio_codex.wire.{module}" for module in sorted(set(HOME.values()))),
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
"""Modules needed by user calls and rare messages. A session uses few of them."""


def load() -> None:
    """Import what the reader and the close sequence need, and hold the other modules that a session may use.

    Raises:
        ImportError, OSError: A module is missing or cannot be read.
    """
    for name in NEEDED:
        importlib.import_module(name)
    _convert.preload()
    _convert.preload(OFTEN_ASKED)
    hold(HELD)
    if "trio_codex._runtime._proctree" in sys.modules:
        with suppress(ImportError):  # optional: without it, closing ends the process group only
            importlib.import_module("psutil")
