"""The channel to a server process that this client started. If it ends, the exit status explains why."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_codex._link.channel import LineChannel
from trio_codex._link.connection import DIAGNOSIS_SECONDS
from trio_codex.errors import ConnectionBroken, ServerExited, describe_exit

if TYPE_CHECKING:
    from trio_codex._core.secrets import Secrets
    from trio_codex._link.timeouts import Timeouts
    from trio_codex._process.server import ServerProcess


class ProcessChannel(LineChannel):
    """Newline-delimited messages over the pipes of a server process that has started."""

    def __init__(
        self, process: ServerProcess, max_message_bytes: int, timeouts: Timeouts, secrets: Secrets
    ) -> None:
        super().__init__(process.stdin, process.stdout, max_message_bytes)
        self._process = process
        self._timeouts = timeouts
        self._secrets = secrets

    @property
    def owned(self) -> bool:
        return True

    def explain(self, reason: str, phase: str) -> ConnectionBroken:
        tail = self._secrets.hide_in_tail(self._process.stderr.recent())
        return ConnectionBroken(reason, phase, self._process.pid, None, tail)

    async def diagnose(self, reason: str, phase: str) -> ConnectionBroken:
        """Return ``ServerExited`` if the process exits within a moment, and ``ConnectionBroken`` otherwise."""
        process = self._process
        await trio.lowlevel.checkpoint()
        returncode = None
        with self._timeouts.move_on_after(DIAGNOSIS_SECONDS), suppress(trio.ClosedResourceError):
            returncode = await process.wait()
        if returncode is None:
            return self.explain(reason, phase)
        problem = f"the server exited: {describe_exit(returncode)}"
        # After a signal, leave out the log, which does not say why; keep what a panic printed.
        tail = self._secrets.hide_in_tail(process.stderr.recent(log_records=returncode >= 0))
        return ServerExited(problem, phase, process.pid, returncode, tail)

    def kill(self) -> None:
        self._process.kill()
