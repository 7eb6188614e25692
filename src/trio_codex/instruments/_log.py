"""An instrument that logs what a client does, without any content.

It logs ids, methods, counts, durations and the names of error classes. It never logs text from the server, the model or
the user, nor error messages, which may quote such text.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trio_codex._core.log import SafeLogger
from trio_codex.errors import ConnectionClosed, RpcError, ServerExited, describe_exit

from ._base import Instrument, decision_name

if TYPE_CHECKING:
    from trio_codex._link.hooks import RequestRecord, ServerRequestRecord
    from trio_codex._values.metadata import ServerMetadata
    from trio_codex.errors import CodexError, SubscriptionOverflow

    from ._base import DecisionRecord, GenerationRecord, ProcessRecord, TurnRecord


class LogInstrument(Instrument):
    """Logs what a client does, but no content: no prompts, output, credentials or paths.

    Processes, connections and turns are logged at ``INFO``, client and server requests at ``DEBUG``, and failures at
    ``WARNING``.

    Args:
        logger: The logger to use; by default ``trio_codex.activity``.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = SafeLogger(logger or logging.getLogger("trio_codex.activity"))

    def handshake_completed(self, connection: int, metadata: ServerMetadata) -> None:
        version = metadata.server_version or "unknown"
        self._logger.info("connection %d opened; server version %s", connection, version)

    def connection_ended(self, connection: int, error: CodexError) -> None:
        if isinstance(error, ConnectionClosed):
            self._logger.info("connection %d closed", connection)
        else:
            self._logger.warning("connection %d ended: %s", connection, _name(error))

    def process_spawned(self, process: ProcessRecord) -> None:
        self._logger.info("server process %d of connection %d started", process.pid, process.connection)

    def process_exited(self, process: ProcessRecord) -> None:
        how = "unknown exit status" if process.returncode is None else describe_exit(process.returncode)
        self._logger.info("server process %d exited: %s", process.pid, how)

    def generation_started(self, generation: GenerationRecord) -> None:
        """See :class:`Instrument`."""
        server = "attached" if generation.pid is None else f"server process {generation.pid}"
        self._logger.info("generation %d is ready; %s", generation.number, server)

    def generation_ended(self, generation: GenerationRecord) -> None:
        """See :class:`Instrument`."""
        if isinstance(generation.cause, Exception):
            cause = _name(generation.cause)
            self._logger.warning("generation %d was lost: %s", generation.number, cause)
        else:
            self._logger.info("generation %d has ended as planned", generation.number)

    def thread_awaited(self, thread_id: str, seconds: float) -> None:
        """See :class:`Instrument`."""
        self._logger.warning(
            "thread %s is open in another server; waiting up to %g s for it", thread_id, seconds
        )

    def line_discarded(self, connection: int, reason: str, size: int) -> None:
        self._logger.warning("connection %d: discarded a line of %d bytes: %s", connection, size, reason)

    def request_ended(self, request: RequestRecord) -> None:
        seconds = request.duration or 0.0
        if request.outcome in ("answered", "unsent"):
            self._logger.debug(
                "%s (%s) was %s after %.3f s", request.method, request.id, request.outcome, seconds
            )
        else:
            why = "" if request.error is None else f", {_name(request.error)}"
            self._logger.warning(
                "%s (%s) was %s after %.3f s%s", request.method, request.id, request.outcome, seconds, why
            )

    def request_retried(self, method: str, attempt: int, delay: float) -> None:
        self._logger.info("%s will be retried in %.3f s, after failed attempt %d", method, delay, attempt)

    def server_request_ended(self, request: ServerRequestRecord) -> None:
        self._logger.debug(
            "the server's %s (%s) was %s after %.3f s",
            request.method,
            request.id,
            request.outcome,
            request.duration or 0.0,
        )

    def decision_made(self, record: DecisionRecord) -> None:
        self._logger.info(
            "%s (%s): %s, decided by %s", record.method, record.id, decision_name(record), record.decided_by
        )

    def turn_started(self, turn: TurnRecord) -> None:
        self._logger.info("thread %s: turn started", turn.thread_id)

    def turn_ended(self, turn: TurnRecord) -> None:
        level = logging.WARNING if turn.status in ("failed", "lost", "refused") else logging.INFO
        self._logger.log(
            level,
            "thread %s: turn %s %s after %.3f s",
            turn.thread_id,
            turn.id,
            turn.status,
            turn.duration or 0.0,
        )

    def buffer_overflowed(self, connection: int, error: SubscriptionOverflow) -> None:
        self._logger.warning("connection %d: a subscription overflowed: %s", connection, error)


def _name(error: Exception) -> str:
    if isinstance(error, RpcError):
        return f"{type(error).__name__} ({error.code})"
    if isinstance(error, ServerExited) and error.returncode is not None:
        return f"{type(error).__name__} ({describe_exit(error.returncode)})"
    return type(error).__name__
