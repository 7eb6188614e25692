"""Client startup and shutdown: spawn, handshake, the close sequence, and the reason a connection ended.

This is the only module where the process, the connection and the API meet.
"""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from trio_codex._api.codex import Codex, ServerMetadata
from trio_codex._api.options import check_given
from trio_codex._core.arguments import check_type
from trio_codex._link.connection import DIAGNOSIS_SECONDS, Connection
from trio_codex._link.dispatch import Dispatcher
from trio_codex._link.hooks import Instruments
from trio_codex._link.services import Services, open_services
from trio_codex._link.timeouts import Timeouts
from trio_codex._session.approvals import Approvals
from trio_codex._session.ending import end_orphan, end_turn, interrupt_soon
from trio_codex._session.router import Router
from trio_codex._session.session import Session, decode_result
from trio_codex._tools.toolbox import Toolbox
from trio_codex._values.config import CodexConfig
from trio_codex._values.paths import PathBase
from trio_codex.errors import (
    CodexError,
    ConnectionBroken,
    ConnectionClosed,
    ServerExited,
    SpawnError,
    StartError,
    StartTimeout,
    describe_exit,
)
from trio_codex.instruments._base import Instrument, ProcessRecord

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from trio_codex import wire
    from trio_codex._process.binary import Binary
    from trio_codex._process.server import ServerProcess
    from trio_codex._session.budget import Budget
    from trio_codex._tools.toolbox import AnyTool
    from trio_codex.policies import Policy

StartErrorT = TypeVar("StartErrorT", bound=StartError)

FAILED_START_GRACE: Final = 0.5
"""How long a server that never answered may take to exit by itself. The real one needs 65 ms."""

FLUSH_SECONDS: Final = 0.5
"""How long closing waits for queued replies to be written, which a server that does not read would block."""

LAST_WORDS_SECONDS: Final = 5.0
"""How long before the signal that killed the server a line on its stderr may still be related."""

MIN_SECRET_LENGTH: Final = 8
"""Minimum length of an environment value to redact. Shorter ones are flags and occur inside ordinary words."""

MIN_REST_LENGTH: Final = 4
"""Minimum length of a partial value, where the text was truncated, to redact. Shorter ones reveal nothing."""

_PLAIN_NAMES: Final = frozenset(
    {"CODEX_HOME", "HOME", "LANG", "LC_ALL", "PATH", "PWD", "RUST_LOG", "TERM", "TMPDIR"}
)

_HINTS: Final = (
    (r"CODEX_HOME", "Create that directory, or set codex_home to one that exists."),
    (
        r"approval_policy|config\.toml|unknown configuration",
        "Correct config.toml in the CODEX_HOME of this server.",
    ),
    (
        r"unexpected argument|unrecognized subcommand|Usage:",
        "This binary has no app-server of the known kind; run trio-codex doctor.",
    ),
)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_codex(
    config: CodexConfig | None = None,
    *,
    policy: Policy | None = None,
    tools: Iterable[AnyTool] = (),
    budget: Budget | None = None,
    instruments: Sequence[Instrument] = (),
) -> AsyncGenerator[Codex]:
    """Start a server and connect a client to it, as a scope.

    However the scope exits, open turns are ended, the server is stopped, and nothing of it remains: no task, process
    or file descriptor. Exceptions raised by the body propagate unchanged.

    Args:
        config: The configuration of the client and its server; the default follows the user's own Codex setup.
        policy: Handles requests from turns, unless the policy of the turn or its thread does.
        tools: Tools declared on every new thread for its agent to call, created with :func:`~trio_codex.tools.tool`.
        budget: The joint budget of all of its turns.
        instruments: Observers that are notified of what happens, for logging, metrics and tracing.

    Raises:
        StartError: The server did not start: ``SpawnError``, ``StartTimeout``, or it refused or exited.
        ValueError: Two tools have the same name, or ``experimental_api`` is off; nothing was started.
        TypeError: An argument has the wrong type, or a tool has no valid schema; nothing was started.
        RuntimeError: It was not called from a Trio task.
        InternalError: A bug in trio-codex; the body was cancelled because of it.
    """
    _check_in_trio("open_codex()")
    opening = ClientLifecycle(CodexConfig() if config is None else config, policy, instruments, budget, tools)
    async with open_services(opening.close_with) as services:
        yield await opening.spawn(services)


async def connect_codex(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    *,
    config: CodexConfig | None = None,
    policy: Policy | None = None,
    tools: Iterable[AnyTool] = (),
    budget: Budget | None = None,
    instruments: Sequence[Instrument] = (),
) -> Codex:
    """Connect a client over a byte stream that is already open, such as a socket or one end of ``memory_stream_pair``.

    The client's tasks run in ``nursery`` and keep it open. When the nursery is cancelled, or on :meth:`Codex.aclose`,
    open turns are ended and the stream is closed. The server was not started by this client and is never killed.

    Args:
        nursery: The nursery for the client's tasks.
        stream: A stream of newline-delimited JSON in both directions.
        config: The configuration. Fields about the process have no effect.
        policy: As in :func:`open_codex`.
        tools: As in :func:`open_codex`.
        budget: As in :func:`open_codex`.
        instruments: As in :func:`open_codex`.

    Raises:
        StartError: The server did not answer ``initialize``, or rejected it.
        ValueError: As in :func:`open_codex`; so are ``TypeError`` and ``RuntimeError``.
    """
    _check_in_trio("connect_codex()")
    opening = ClientLifecycle(CodexConfig() if config is None else config, policy, instruments, budget, tools)
    services = Services(nursery)
    nursery.start_soon(opening.sentinel, services)
    return await opening.connect(services, stream)


def _check_in_trio(function: str) -> None:
    # Check this here: otherwise the first wait fails inside Trio and looks like a bug in trio-codex.
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(
            f"{function} needs Trio: run your program with trio.run(main), not with asyncio.run()"
        )


class ClientLifecycle:
    """The startup and shutdown of one client."""

    def __init__(
        self,
        config: CodexConfig,
        policy: Policy | None,
        instruments: Sequence[Instrument] = (),
        budget: Budget | None = None,
        tools: Iterable[AnyTool] = (),
    ) -> None:
        hint = "pass settings as CodexConfig(…), and choose a model with thread_start(model=…)"
        check_type("config", config, CodexConfig, hint)
        check_given({"policy": policy, "budget": budget})
        self._config = config
        self._tools = Toolbox(tools)
        if self._tools:
            config.need_experimental_api("tools")
        self._instruments = Instruments(instruments, Instrument)
        self._router = Router(config.event_buffer, budget, self._instruments)
        self._approvals = Approvals(self._router, policy, self._tools)
        if "decision_made" in self._instruments:
            self._approvals.audit.tell = partial(self._instruments.emit, "decision_made")
        self._timeouts = Timeouts()
        self._services: Services | None = None
        self._process: ServerProcess | None = None
        self._stream: trio.abc.Stream | None = None
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._binary: Binary | None = None
        # Longest first: if one value is a prefix of another, the remainder of the longer one would stay visible.
        self._secrets = sorted(
            (
                (value, f"<{name}>")
                for name, value in config.env.items()
                if value is not None and len(value) >= MIN_SECRET_LENGTH and name not in _PLAIN_NAMES
            ),
            key=lambda secret: len(secret[0]),
            reverse=True,
        )
        self._paths: PathBase
        self._process_record: ProcessRecord | None = None
        self._phase = "start"
        self._closing = False
        self._closed = trio.Event()

    # -- startup -----------------------------------------------------------------------------------------------

    async def spawn(self, services: Services) -> Codex:
        """Start the server and perform the handshake."""
        try:
            return await self._spawn(services)
        except OSError as exc:  # no file descriptor is free, not even for an import
            binary = None if self._binary is None else self._binary.path
            hint = "Look at the limits on descriptors and processes."
            raise SpawnError(f"the server cannot be started: {exc}", "spawn", hint, binary) from exc

    async def _spawn(self, services: Services) -> Codex:
        from trio_codex._process.binary import find_binary
        from trio_codex._process.server import spawn_server
        from trio_codex._process.start_gate import start_gate

        config = self._config
        services.start_service(self._timeouts.watch)
        environment = config.environment()
        if config.launch_args_override is None:
            self._binary = find_binary(config.codex_bin, environment.get("PATH"))
        argv = config.command_line("" if self._binary is None else self._binary.path)
        with self._timeouts.move_on_after(config.start_timeout):
            async with start_gate(config.state_home()):
                # No checkpoint in between, so that relative paths have the same base as in the process.
                self._paths = PathBase.now(config.cwd, environment.get("HOME"))
                process = self._process = spawn_server(
                    argv,
                    env=environment,
                    cwd=config.cwd,
                    guarded=None if config.guard else False,
                    guard_python=None if config.guard_python is None else os.fspath(config.guard_python),
                )
                # While the server boots.
                from trio_codex._api.loading import load

                load()
                pid = await process.started()
                self._note_spawned(pid)
                services.start_service(process.drain_stderr)
                self._attach(services, process.stdin, process.stdout, process.kill)
                services.start_service(self._watch)
                return Codex(self._session_of(), await self._shake_hands(), pid)
        raise self._timeout()

    async def connect(self, services: Services, stream: trio.abc.Stream) -> Codex:
        """Perform the handshake over a stream."""
        from trio_codex._api.loading import load

        self._stream = stream
        self._paths = PathBase.now(self._config.cwd, self._config.environment().get("HOME"))
        services.start_service(self._timeouts.watch)
        load()
        self._attach(services, stream, stream, None)
        try:
            with self._timeouts.move_on_after(self._config.start_timeout):
                return Codex(self._session_of(), await self._shake_hands(), None)
            raise self._timeout()
        except BaseException:
            await services.finish(self.close_with, services)  # noqa: ASYNC102  # shielded and bounded inside
            raise

    def _attach(
        self, services: Services, send: trio.abc.SendStream, receive: trio.abc.ReceiveStream, kill: Any
    ) -> None:
        config = self._config
        connection = Connection(
            services,
            send,
            receive,
            self._router,
            window=config.request_window,
            request_timeout=config.request_timeout,
            max_line_bytes=config.max_line_bytes,
            diagnose=self._diagnose,
            timeouts=self._timeouts,
            instruments=self._instruments,
            hide=self._hide,
        )
        self._router.dispatcher = Dispatcher(services, connection, self._approvals.resolve)
        self._connection = connection
        self._services = services
        self._session = Session(
            config,
            services,
            connection,
            self._router,
            self._approvals,
            kill,
            self._broken,
            self.close,
            self._closed,
            self._tools,
            self._paths,
        )
        session = self._session
        self._router.audit = self._approvals.audit
        self._router.end_orphan = lambda turn: services.start_service(end_orphan, session, turn)
        self._approvals.is_shared = kill is None
        self._approvals.interrupt = lambda turn: services.start_service(interrupt_soon, session, turn)
        connection.start()

    async def _shake_hands(self) -> ServerMetadata:
        config, connection = self._config, self._connection
        assert connection is not None
        capabilities: dict[str, Any] = {"experimentalApi": config.experimental_api}
        if config.opt_out_notifications:
            capabilities["optOutNotificationMethods"] = list(config.opt_out_notifications)
        info = {"name": config.client_name, "title": config.client_title, "version": config.client_version}
        try:
            # Deferred: ``start_timeout`` is the limit here, and a shorter ``request_timeout`` must not preempt it.
            raw = await connection.calls.request(
                "initialize", {"clientInfo": info, "capabilities": capabilities}, "deferred"
            )
            response: wire.InitializeResponse = decode_result("initialize", raw)
        except StartError:
            raise
        except CodexError as exc:
            raise self._start_error(StartError, f"the server did not come up: {_reason(exc)}") from exc
        connection.notify("initialized")
        self._phase = "running"
        metadata = ServerMetadata.of(response)
        self._instruments.emit("handshake_completed", self._instruments.connection, metadata)
        self._session_of().server_version = metadata.server_version
        return metadata

    def _session_of(self) -> Session:
        assert self._session is not None
        return self._session

    def _timeout(self) -> StartTimeout:
        seconds = self._config.start_timeout
        if self._process is None and self._stream is None:
            problem = (
                f"another first start on the same CODEX_HOME did not come to its end within {seconds:g} s"
            )
            return self._start_error(StartTimeout, problem)
        if self._process is not None and self._process.pid is None:
            problem = f"{self._process.starter}, did not start the server within {seconds:g} s"
            return self._start_error(StartTimeout, problem)
        junk = 0 if self._connection is None else self._connection.junk_lines
        noise = f"; it printed {junk} lines that are no JSON-RPC messages" if junk else ""
        return self._start_error(
            StartTimeout, f"the server did not answer initialize within {seconds:g} s{noise}"
        )

    def _start_error(self, cls: type[StartErrorT], problem: str) -> StartErrorT:
        process, binary = self._process, self._binary
        tail = "" if process is None else self._redact(process.stderr.tail())
        hint = next(
            (hint for pattern, hint in _HINTS if re.search(pattern, tail)),
            "Run trio-codex doctor to see why.",
        )
        return cls(
            problem,
            "connect" if process is None else "handshake",
            None if process is None else hint,
            None if binary is None else binary.path,
            None if binary is None else binary.version,
            None if process is None else process.returncode,
            tail,
        )

    # -- shutdown ----------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def sentinel(self, services: Services) -> None:
        """Run the close sequence when the caller's nursery is cancelled."""
        try:
            await self._closed.wait()
        finally:
            with trio.CancelScope(shield=True):  # bounded inside
                await self.close_with(services)

    async def close_with(self, services: Services) -> None:
        """Close, and stop the tasks that serve the connection. This is the last thing a client does."""
        try:
            await self.close()
        finally:
            services.stop()

    async def close(self) -> None:
        """Run the close sequence once; later callers wait for the first. Bounded, and shielded from cancellation."""
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        try:
            await self._close()
        finally:
            self._closed.set()

    async def _close(self) -> None:
        config, connection = self._config, self._connection
        was_up = self._phase == "running"
        if connection is not None and connection.close_reason is None:
            if was_up:
                self._phase = "close"
            connection.refuse_new()
            with self._timeouts.move_on_after(min(config.interrupt_grace, config.stop_grace)):
                async with trio.open_nursery() as nursery:
                    for turn in self._router.open_turns():
                        nursery.start_soon(end_turn, self._session_of(), turn)
                    for series in self._router.open_sequences():
                        nursery.start_soon(series.finish)
            with self._timeouts.move_on_after(FLUSH_SECONDS):
                await connection.flush()
            connection.end(ConnectionClosed("the client was closed"))
        await trio.lowlevel.checkpoint()
        if self._process is not None:
            # The reader keeps draining stdout meanwhile: a server whose stdout is full does not exit on EOF (PROTOCOL 6).
            # A client that never finished its handshake has nothing to clean up.
            grace = config.stop_grace if was_up else min(config.stop_grace, FAILED_START_GRACE)
            try:
                await self._process.stop(grace)
            finally:
                self._note_exited(self._process.returncode)
        elif self._stream is not None:
            await trio.aclose_forcefully(self._stream)

    async def _watch(self) -> None:
        """End the connection when the process has exited but something else still holds its stdout open."""
        assert self._process is not None
        assert self._connection is not None
        try:
            returncode = await self._process.wait()
        except trio.ClosedResourceError:
            # Closing timed out: the process tree ends in the background, and the reason is already known.
            await trio.lowlevel.checkpoint()
            return
        self._note_exited(returncode)
        with self._timeouts.move_on_after(DIAGNOSIS_SECONDS):
            await self._connection.wait_drained()
        await self._connection.lose("the server exited")

    def _note_spawned(self, pid: int) -> None:
        path, version = (None, None) if self._binary is None else (self._binary.path, self._binary.version)
        self._process_record = ProcessRecord(self._instruments.connection, pid, path, version)
        self._instruments.emit("process_spawned", self._process_record)

    def _note_exited(self, returncode: int | None) -> None:
        record, self._process_record = self._process_record, None
        if record is not None:
            record.returncode = returncode
            self._instruments.emit("process_exited", record)

    async def _diagnose(self, reason: str) -> ConnectionBroken:
        process = self._process
        await trio.lowlevel.checkpoint()
        if process is None:
            return self._broken(reason)
        returncode = None
        with self._timeouts.move_on_after(DIAGNOSIS_SECONDS), suppress(trio.ClosedResourceError):
            returncode = await process.wait()
        if returncode is None:
            return self._broken(reason)
        problem = f"the server exited: {describe_exit(returncode)}"
        # A process killed by a signal did not log a reason, so an old warning would be mistaken for it.
        recent = LAST_WORDS_SECONDS if returncode < 0 else None
        tail = self._redact(process.stderr.tail(seconds=recent))
        return ServerExited(problem, self._phase, process.pid, returncode, tail)

    def _broken(self, reason: str) -> ConnectionBroken:
        process = self._process
        if process is None:
            return ConnectionBroken(reason, self._phase)
        return ConnectionBroken(reason, self._phase, process.pid, None, self._redact(process.stderr.tail()))

    def _hide(self, text: str) -> str:
        """Redact the configured environment values in a complete text."""
        for value, name in self._secrets:
            text = text.replace(value, name)
        return text

    def _redact(self, text: str) -> str:
        """Redact the configured environment values in server output that may begin in the middle of one."""
        for value, name in self._secrets:
            text = _without_rest(text, value, name).replace(value, name)
        return text


def _without_rest(text: str, value: str, name: str) -> str:
    """Redact the end of a value at the beginning of a truncated text."""
    length = _overlap(value[1:], text)
    return text if length < MIN_REST_LENGTH else name + text[length:]


def _overlap(first: str, second: str) -> int:
    """Return the length of the longest suffix of one text that is a prefix of the other.

    Uses Knuth–Morris–Pratt, because comparing every suffix takes quadratic time for a value of one repeated character.
    """
    first = first[-len(second) :] if second else ""
    matched, shorter = 0, [0] * (len(second) + 1)
    for index in range(1, len(second)):
        while matched and second[index] != second[matched]:
            matched = shorter[matched]
        matched += second[index] == second[matched]
        shorter[index + 1] = matched
    matched = 0
    for character in first:
        while matched and (matched == len(second) or character != second[matched]):
            matched = shorter[matched]
        matched += character == second[matched]
    return matched


def _reason(error: CodexError) -> str:
    return error.reason if isinstance(error, ConnectionBroken) else str(error)
