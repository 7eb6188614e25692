"""The client's log: a logger that keeps errors in the host's handlers and filters from failing an operation.

Handlers and filters are the host's code, and most records are logged where an exception would end the session: in the
reader, in a callback, or in cleanup.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class SafeLogger:
    """A logger whose methods never raise an :class:`Exception`.

    An exception from a handler or filter is printed to ``sys.stderr``, as :meth:`logging.Handler.handleError` does,
    unless ``logging.raiseExceptions`` is off.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
        stacklevel: int = 1,
    ) -> None:
        try:
            self._logger.log(level, message, *args, exc_info=exc_info, extra=extra, stacklevel=stacklevel + 1)
        except Exception as exc:
            _report(exc)

    def debug(self, message: str, *args: object) -> None:
        self.log(logging.DEBUG, message, *args, stacklevel=2)

    def info(self, message: str, *args: object) -> None:
        self.log(logging.INFO, message, *args, stacklevel=2)

    def warning(self, message: str, *args: object) -> None:
        self.log(logging.WARNING, message, *args, stacklevel=2)

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self.log(logging.ERROR, message, *args, exc_info=exc_info, stacklevel=2)


def _report(error: Exception) -> None:
    """Print an exception from a handler or filter."""
    if not logging.raiseExceptions:
        return
    with suppress(Exception):  # without a working stderr there is nowhere to report it
        sys.stderr.write("--- Error in a handler or filter of the log ---\n")
        traceback.print_exception(error)


logger: Final = SafeLogger(logging.getLogger("trio_codex"))
"""The client's own log."""
