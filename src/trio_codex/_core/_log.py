"""The log of the client: owns the logger behind which no handler or filter of the host can fail an operation.

Handlers and filters are code of the host, and most records are written where an exception would end the session: on the
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
    """A logger whose methods raise no :class:`Exception`.

    An exception of a handler or filter is printed to ``sys.stderr``, as :meth:`logging.Handler.handleError` does, and
    not at all if ``logging.raiseExceptions`` is off.

    Args:
        logger: The logger that takes the records.
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
        """Log a record; see :meth:`logging.Logger.log`."""
        try:
            self._logger.log(level, message, *args, exc_info=exc_info, extra=extra, stacklevel=stacklevel + 1)
        except Exception as exc:
            _report(exc)

    def debug(self, message: str, *args: object) -> None:
        """Log a record at ``DEBUG``."""
        self.log(logging.DEBUG, message, *args, stacklevel=2)

    def info(self, message: str, *args: object) -> None:
        """Log a record at ``INFO``."""
        self.log(logging.INFO, message, *args, stacklevel=2)

    def warning(self, message: str, *args: object) -> None:
        """Log a record at ``WARNING``."""
        self.log(logging.WARNING, message, *args, stacklevel=2)

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        """Log a record at ``ERROR``."""
        self.log(logging.ERROR, message, *args, exc_info=exc_info, stacklevel=2)


def _report(error: Exception) -> None:
    """Print what a handler or filter raised."""
    if not logging.raiseExceptions:
        return
    with suppress(Exception):  # without a stderr that works, nobody is left to tell
        sys.stderr.write("--- Error in a handler or filter of the log ---\n")
        traceback.print_exception(error)


logger: Final = SafeLogger(logging.getLogger("trio_codex"))
"""The client's own log."""
