"""An instrument that notifies systemd: readiness, status, and keep-alive pings for its watchdog."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from trio_codex.errors import CodexError

from ._base import Instrument

if TYPE_CHECKING:
    from ._base import GenerationRecord


class Systemd(Instrument):
    """Reports the generations of a supervisor to systemd, for a unit with ``Type=notify``.

    The service is ready once the first generation is. With ``WatchdogSec``, a keep-alive ping is sent at half that
    interval while a generation is ready; systemd then restarts a program whose event loop is blocked, or that has no server for
    too long. Elsewhere it does nothing.
    """

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET")
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        is_ours = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        self._interval = int(microseconds) / 2_000_000 if microseconds.isdigit() and is_ours else None
        self._beaten_at = 0.0

    def generation_started(self, generation: GenerationRecord) -> None:
        """See :class:`Instrument`."""
        server = "attached" if generation.pid is None else f"server process {generation.pid}"
        self._send(f"READY=1\nSTATUS=generation {generation.number}, {server}")

    def generation_alive(self, generation: GenerationRecord) -> None:
        """See :class:`Instrument`."""
        # Not on Trio's clock, which a test may replace: systemd uses the system's.
        if self._interval is not None and time.monotonic() - self._beaten_at >= self._interval:
            self._beaten_at = time.monotonic()
            self._send("WATCHDOG=1")

    def generation_ended(self, generation: GenerationRecord) -> None:
        """See :class:`Instrument`."""
        cause = generation.cause
        why = type(cause).__name__ if isinstance(cause, CodexError) else str(cause).partition("\n")[0]
        self._send(f"STATUS=generation {generation.number} has ended: {why}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # systemd may be restarting, or its queue may be full. A lost message is followed by the next one.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.setblocking(False)
            notifier.sendto(message.encode(), address)
