"""A command on the server as a scope.

The server responds to the request when the command has ended; output arrives before that, as notifications. The only
way to end a command is SIGKILL to its process group, and only the response proves that the command has ended.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from trio_codex import wire
from trio_codex._api.exec_streams import RemoteInput, RemoteOutput
from trio_codex._api.options import sandbox_policy
from trio_codex._core.arguments import as_tuple
from trio_codex._core.json import UNREADABLE
from trio_codex._link.call import CloseReason
from trio_codex._session.server import decode_result
from trio_codex._values.sink import EventSink
from trio_codex.errors import (
    CodexError,
    DecodeError,
    InvalidRequestError,
    RequestTimeout,
    RpcError,
    ServerBusyError,
)
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from trio_codex._api.options import Sandbox
    from trio_codex._link.call import Call
    from trio_codex._session.session import Session
    from trio_codex._values.event import Event

METHOD: Final = "command/exec"
OUTPUT_METHOD: Final = "command/exec/outputDelta"

RESEND_SECONDS: Final = 0.02
"""Interval between checks of whether a command that an overloaded server rejected has been sent again."""


class _Output(msgspec.Struct):
    stream: str
    deltaBase64: bytes


class RemoteProcess:
    """A command running on the server, inside ``async with codex.exec(…)``. Resembles :class:`trio.Process`.

    Attributes:
        stdin: The standard input. Closing it sends end of file.
        stdout: The standard output; with a terminal, everything printed. Unread output is buffered up to the size of
            ``event_buffer``, and anything beyond that is lost. The buffered part can still be read, and then reading
            raises :class:`trio.BrokenResourceError`, caused by :class:`~trio_codex.errors.SubscriptionOverflow`. The
            process and its other stream are not affected. Closing the stream discards any further output.
        stderr: The same for the standard error; ``None`` with a terminal.
    """

    stdin: trio.abc.SendStream
    stdout: trio.abc.ReceiveStream
    stderr: trio.abc.ReceiveStream | None

    def __init__(self, session: Session, process_id: str, *, tty: bool) -> None:
        self._session = session
        self._process_id = process_id
        self._call: Call | None = None
        self._returncode: int | None = None
        self._failure: CloseReason | None = None
        self._ended = trio.Event()
        limit = session.config.event_buffer.size
        self._stdin = RemoteInput(self._begin_write)
        self._outputs = {name: RemoteOutput(limit) for name in (("stdout",) if tty else ("stdout", "stderr"))}
        self.stdin = self._stdin
        self.stdout = self._outputs["stdout"]
        self.stderr = self._outputs.get("stderr")

    def __repr__(self) -> str:
        state = "running" if not self.has_ended else "lost" if self._failure else f"exit {self._returncode}"
        return f"<RemoteProcess {self._process_id}, {state}>"

    @property
    def returncode(self) -> int | None:
        """The exit status, ``128 + n`` for signal ``n``; ``None`` while the process runs, or if none was reported."""
        return self._returncode

    async def wait(self) -> int:
        """Wait for the process to exit, and return its exit status. Its output can be read before or after.

        Raises:
            ConnectionBroken: The connection ended first.
            ConnectionClosed: You closed the connection.
        """
        await self._ended.wait()
        self.raise_failure()
        assert self._returncode is not None
        return self._returncode

    async def terminate(self) -> None:
        """Kill the process group. Returns once the server has accepted; use :meth:`wait` to wait for the exit.

        The server supports only SIGKILL. A child in its own session (``setsid``) escapes unless the sandbox contains it.

        Raises:
            CodexError: As for any request.
        """
        await trio.lowlevel.checkpoint()
        if not self.has_ended:
            # A rejection means that the process has just ended, so the response to the first request is about to arrive.
            with suppress(InvalidRequestError):
                await self._request("terminate", {})

    async def kill(self) -> None:
        """Kill the process group. An alias of :meth:`terminate`, as in :class:`trio.Process`."""
        await self.terminate()

    async def resize(self, cols: int, rows: int) -> None:
        """Resize the terminal of the process.

        Args:
            cols: Width in characters.
            rows: Height in characters.

        Raises:
            InvalidRequestError: The process has no terminal, or has ended.
            CodexError: As for any request.
        """
        await self._request("resize", {"size": {"cols": cols, "rows": rows}})

    async def _request(self, verb: str, params: dict[str, object]) -> None:
        await self._session.server.request(f"{METHOD}/{verb}", {"processId": self._process_id, **params})

    async def _begin_write(self, params: dict[str, object]) -> Call:
        return await self._session.server.begin(f"{METHOD}/write", {"processId": self._process_id, **params})

    # -- for its scope -----------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, or its end will not be observed."""
        return self._ended.is_set()

    def raise_failure(self) -> None:
        """Raise a new exception if the end of the process was not observed."""
        if self._failure is not None:
            raise self._failure.exception()

    async def start(self, params: wire.CommandExecParams, *, stdin: bool) -> None:
        """Start the process, and wait until it is running or has ended."""
        session = self._session
        self._call = await session.server.begin(METHOD, params)
        session.services.start_service(self._watch, self._call)
        write = {"deltaBase64": ""} if stdin else {"closeStdin": True}
        with session.timeouts.move_on_after(session.config.request_timeout):
            while not await self._is_confirmed(self._call, {"processId": self._process_id, **write}):
                # An overloaded server rejected the command, but not the write. Both are sent again.
                while self._call.waits and not self.has_ended:
                    await session.timeouts.sleep(RESEND_SECONDS)
            self.raise_failure()
            return
        raise session.connection.calls.overdue(self._call, session.config.request_timeout)

    async def _is_confirmed(self, call: Call, write: dict[str, object]) -> bool:
        """Wait until the process is running or has ended; return whether the server has accepted the command.

        The server responds to the command only at the end, but to a subsequent write immediately; it rejects the write if
        the process does not exist. Both must use the same queue, or the write could be sent first.
        """
        refusals = call.refusals
        running = await self._session.connection.calls.begin(
            f"{METHOD}/write", _convert.encode(write), "deferred"
        )
        try:
            await running.answer()
        except ServerBusyError:
            raise
        except RpcError:
            if call.refusals != refusals and not self.has_ended:
                return False
            # The process failed to start or has already ended; the response to the command shows which.
            await self._ended.wait()
        finally:
            running.give_up()
        return True

    async def finish(self) -> None:
        """End the process on the server and wait for confirmation, within ``interrupt_grace``."""
        await trio.lowlevel.checkpoint()
        call, grace = self._call, self._session.config.interrupt_grace
        if call is None or call.take_back():
            return
        with self._session.timeouts.move_on_after(grace):
            # Even if this request fails, the response to the first one shows whether the process has ended.
            await self._session.server.end(f"{METHOD}/terminate", {"processId": self._process_id})
            await self._ended.wait()
            return
        what = f"the process {self._process_id} did not end within interrupt_grace"
        self._session.ender.give_up_server(what)
        self._end(
            None,
            self._session.connection.close_reason
            or CloseReason(RequestTimeout(f"{METHOD}/terminate", grace)),
        )
        call.give_up()

    async def _watch(self, call: Call) -> None:  # noqa: ASYNC910  # runs as a separate task
        try:
            response: wire.CommandExecResponse = decode_result(METHOD, await call.answer())
        except CodexError as exc:
            self._end(None, CloseReason(exc))
        else:
            self._end(response.exit_code, None)

    def _end(self, returncode: int | None, failure: CloseReason | None) -> None:
        if self.has_ended:
            return
        self._returncode, self._failure = returncode, failure
        self._ended.set()
        self._stdin.end()
        for output in self._outputs.values():
            output.end(None if failure is None else failure.exception)

    def take_output(self, stream: str, data: bytes) -> None:
        """Handle a piece of output. Called by the reader."""
        self._outputs.get(stream, self._outputs["stdout"]).put(data)

    def lose_output(self, error: DecodeError) -> None:
        """End the output with an error because a piece was unreadable. Called by the reader."""
        lost = CloseReason(error)
        for output in self._outputs.values():
            output.end(lost.exception)


class _OutputSink(EventSink):
    """Passes output on. When the connection ends, the pending call reports it."""

    def __init__(self, process: RemoteProcess) -> None:
        self._process = process

    def put(self, event: Event) -> None:
        try:
            piece = msgspec.json.decode(event.json, type=_Output)
        except UNREADABLE as exc:
            self._process.lose_output(DecodeError(OUTPUT_METHOD, "$", str(exc)))
        else:
            self._process.take_output(piece.stream, piece.deltaBase64)


def exec_params(
    session: Session,
    argv: Sequence[str | os.PathLike[str]],
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str | None] | None,
    permission_profile: str | None,
    sandbox: Sandbox | wire.SandboxPolicy | str | None,
    size: tuple[int, int] | None,
    *,
    tty: bool,
) -> wire.CommandExecParams:
    """Return the parameters of a command whose output is streamed. See :meth:`Codex.exec`."""
    if size is not None and not tty:
        raise ValueError("size requires tty=True")
    return wire.CommandExecParams(
        command=[os.fsdecode(part) for part in as_tuple(argv)],
        process_id=f"process-{session.server.next_number()}",
        cwd=None if cwd is None else os.fsdecode(cwd),
        disable_output_cap=True,
        disable_timeout=True,
        env=env,
        permission_profile=permission_profile,
        sandbox_policy=sandbox_policy(sandbox),
        size=None if size is None else wire.CommandExecTerminalSize(cols=size[0], rows=size[1]),
        stream_stdin=True,
        stream_stdout_stderr=True,
        tty=tty,
    )


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_exec(
    session: Session, params: wire.CommandExecParams, *, stdin: bool
) -> AsyncGenerator[RemoteProcess]:
    """Run a command, and end it on the server if its scope exits early. See :meth:`Codex.exec`."""
    assert params.process_id is not None
    session.connection.check_open()
    process = RemoteProcess(session, params.process_id, tty=bool(params.tty))
    session.listeners.route_key(OUTPUT_METHOD, params.process_id, _OutputSink(process))
    try:
        await process.start(params, stdin=stdin)
        yield process
    finally:
        try:
            if not process.has_ended:
                # Shielded and bounded internally.
                await session.services.finish(process.finish)  # noqa: ASYNC102
        finally:
            session.listeners.unroute_key(OUTPUT_METHOD, params.process_id)
    process.raise_failure()
