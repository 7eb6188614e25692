"""The life cycle of a client: the start of its server, the handshake, and the close sequence.

This is the only module where the process, the connection and the session meet.
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from trio_codex._api.options import check_given
from trio_codex._core.log import logger
from trio_codex._core.secrets import Secrets
from trio_codex._link.channel import LineChannel
from trio_codex._link.connection import DIAGNOSIS_SECONDS, Connection, Limits
from trio_codex._link.hooks import Instruments
from trio_codex._link.timeouts import Timeouts
from trio_codex._session.approvals import Defaults
from trio_codex._session.left_behind import NullReceiver, describe, end_left_turns
from trio_codex._session.server import Server
from trio_codex._session.session import Session
from trio_codex._tools.toolbox import Toolbox
from trio_codex._values.config import CodexConfig
from trio_codex._values.paths import PathBase
from trio_codex.errors import (
    CodexError,
    ConnectionBroken,
    ConnectionClosed,
    SpawnError,
    StartError,
    StartTimeout,
)
from trio_codex.instruments._base import Instrument, ProcessRecord

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from trio_codex._launch._binary import Binary
    from trio_codex._link.channel import Channel
    from trio_codex._link.dial import Address
    from trio_codex._link.services import Services
    from trio_codex._process.server import ServerProcess
    from trio_codex._session.budget import Budget
    from trio_codex._session.left_behind import LeftTurn
    from trio_codex._tools.tool import AnyTool
    from trio_codex._values.auth import Auth
    from trio_codex._values.config import ClientConfig
    from trio_codex.policies import Policy

StartErrorT = TypeVar("StartErrorT", bound=StartError)

FAILED_START_GRACE: Final = 0.5
"""Grace period for a server whose handshake failed. The real server exits within 65 ms."""

FLUSH_SECONDS: Final = 0.5
"""How long closing waits for queued replies to be written. A server that does not read would block it forever."""

_HINTS: Final = (
    (r"CODEX_HOME", "Create that directory, or set codex_home to one that exists."),
    (
        r"failed to initialize (sqlite )?state runtime",
        "Check that this user may write to that directory and that its disk is not full, or set codex_home to another.",
    ),
    (
        r"approval_policy|config\.toml|unknown configuration",
        "Correct config.toml in the CODEX_HOME of this server.",
    ),
    (
        r"unexpected argument|unrecognized subcommand|Usage:",
        "This client cannot use the app-server of this binary; run trio-codex doctor.",
    ),
)


LINES_HINT: Final = "A server that was started with --listen speaks WebSocket: use attach_codex() for it."


class ClientLifecycle:
    """The startup and shutdown of one client."""

    def __init__(
        self,
        config: ClientConfig,
        policy: Policy | None = None,
        tools: Iterable[AnyTool] = (),
        budget: Budget | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        check_given({"policy": policy, "budget": budget})
        self._config = config
        self._defaults = Defaults(policy, Toolbox(tools), budget)
        if self._defaults.tools:
            config.need_experimental_api("tools")
        self._instruments = Instruments(instruments, Instrument)
        self._secrets = Secrets(config.env if isinstance(config, CodexConfig) else {})
        self._limits = Limits(config.request_window, config.request_timeout)
        self._timeouts = Timeouts()
        self._binary: Binary | None = None
        self._process: ServerProcess | None = None
        self._process_record: ProcessRecord | None = None
        self._channel: Channel | None = None
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._rescued: trio.Event | None = None
        """Set once the turns of a lost connection have ended on the server, or cannot be ended."""
        self._hint: str | None = None
        self._closing = False
        self._closed = trio.Event()

    @property
    def pid(self) -> int | None:
        """The process id of the server; ``None`` if this client did not start it."""
        return None if self._process is None else self._process.pid

    # -- startup -----------------------------------------------------------------------------------------------

    async def spawn(self, services: Services, config: CodexConfig) -> Session:
        """Start the server and perform the handshake."""
        try:
            return await self._spawn(services, config)
        except OSError as exc:  # no file descriptor is free, not even one for an import
            binary = None if self._binary is None else self._binary.path
            hint = "Check the limits on descriptors and processes."
            raise SpawnError(f"the server cannot be started: {exc}", "spawn", hint, binary) from exc

    async def _spawn(self, services: Services, config: CodexConfig) -> Session:
        from trio_codex._launch._binary import find_binary
        from trio_codex._process.channel import ProcessChannel
        from trio_codex._process.spawn import spawn_server
        from trio_codex._process.start_gate import start_gate

        services.start_service(self._timeouts.watch)
        environment = config.environment()
        if config.launch_args_override is None:
            self._binary = find_binary(config.codex_bin, environment.get("PATH"))
        argv = config.command_line("" if self._binary is None else self._binary.path)
        with self._timeouts.move_on_after(config.start_timeout):
            async with start_gate(config.state_home()):
                # No checkpoint in between, so that relative paths have the same base as in the process.
                paths = PathBase.now(config.cwd, environment.get("HOME"))
                process = self._process = spawn_server(
                    argv,
                    env=environment,
                    cwd=config.cwd,
                    guarded=None if config.guard else False,
                    guard_python=None if config.guard_python is None else os.fspath(config.guard_python),
                )
                # Load modules while the server boots.
                from trio_codex._api.loading import load

                load()
                pid = await process.started()
                self._note_spawned(pid)
                services.start_service(process.drain_stderr)
                channel = ProcessChannel(process, config.max_line_bytes, self._timeouts, self._secrets)
                session = self._attach(services, channel, paths)
                services.start_service(self._watch, process, session.connection)
                await self._shake_hands(session)
                return session
        raise self._timeout()

    async def connect(self, services: Services, stream: trio.abc.Stream) -> Session:
        """Perform the handshake over a stream."""
        return await self.use(services, LineChannel(stream, stream, self._config.max_line_bytes))

    async def use(self, services: Services, channel: Channel) -> Session:
        """Perform the handshake over a channel."""
        from trio_codex._api.loading import load

        config = self._config
        self._hint = LINES_HINT
        self._channel = channel
        try:
            if isinstance(config, CodexConfig):
                paths = PathBase.now(config.cwd, config.environment().get("HOME"))
            else:
                paths = PathBase.now(None, os.environ.get("HOME"))
            services.start_service(self._timeouts.watch)
            load()
            session = self._attach(services, channel, paths)
            with self._timeouts.move_on_after(config.start_timeout):
                await self._shake_hands(session)
                return session
            raise self._timeout()
        except BaseException:
            await services.finish(self.close_with, services)  # noqa: ASYNC102  # shielded and bounded inside
            raise

    async def attach(
        self, services: Services, address: Address, auth: Auth | None, ssl_context: ssl.SSLContext | None
    ) -> Session:
        """Connect to a server that somebody else started, and perform the handshake."""
        from trio_codex._link.dial import WRONG_SERVER_HINT, Dialer

        config = self._config
        services.start_service(self._timeouts.watch)
        self._hint = WRONG_SERVER_HINT

        def dialer() -> Dialer:
            # A signed token is valid for a minute, so each connection gets its own.
            token = None if auth is None else auth.mint()
            dialer = Dialer(address, token, config.max_line_bytes, ssl_context)
            self._secrets = dialer.secrets
            return dialer

        paths = PathBase.now(None, os.environ.get("HOME"))
        attempt = dialer()
        with self._timeouts.move_on_after(config.start_timeout):
            channel = self._channel = await attempt.dial()
            session = self._attach(services, channel, paths)
            await self._shake_hands(session)
            self._rescued = trio.Event()
            services.start_service(self._rescue, services, session, paths, lambda: dialer().dial())
            return session
        raise attempt.timed_out(config.start_timeout) if self._channel is None else self._timeout()

    async def _rescue(
        self, services: Services, session: Session, paths: PathBase, redial: Callable[[], Awaitable[Channel]]
    ) -> None:
        """Once the connection is lost, open a new one to end the turns left running on the server."""
        reason = (await session.connection.wait_ended()).exception()
        turns = session.threads.left_behind()
        try:
            if turns and not isinstance(reason, ConnectionClosed):
                await self._end_left(services, paths, redial, turns)
        finally:
            if self._rescued is not None:
                self._rescued.set()

    async def _end_left(
        self,
        services: Services,
        paths: PathBase,
        redial: Callable[[], Awaitable[Channel]],
        turns: list[LeftTurn],
    ) -> None:
        problem = "interrupt_grace has passed"
        await trio.lowlevel.checkpoint()
        with self._timeouts.move_on_after(self._config.interrupt_grace):
            try:
                channel = await redial()
                connection = Connection(services, channel, self._limits, self._timeouts, self._secrets)
                connection.start(NullReceiver())
                try:
                    server = Server(self._config, services, connection, paths)
                    await server.shake_hands()
                    await end_left_turns(server, turns)
                    return
                finally:
                    connection.end(ConnectionClosed())
                    await services.finish(channel.close)  # noqa: ASYNC102  # shielded and bounded inside
            except CodexError as exc:
                problem = _reason(exc)
        logger.error("left running on the server, because %s: %s", problem, describe(turns))

    def _attach(self, services: Services, channel: Channel, paths: PathBase) -> Session:
        config = self._config
        connection = self._connection = Connection(
            services, channel, self._limits, self._timeouts, self._secrets, self._instruments
        )
        session = self._session = Session(Server(config, services, connection, paths), self._defaults)
        connection.start(session.router)
        return session

    async def _shake_hands(self, session: Session) -> None:
        try:
            await session.server.shake_hands()
        except StartError:
            raise
        except CodexError as exc:
            raise self._start_error(StartError, f"the server did not start: {_reason(exc)}") from exc

    def _timeout(self) -> StartTimeout:
        seconds = self._config.start_timeout
        if self._process is None and self._channel is None:
            problem = f"timed out after {seconds:g} s waiting for another first start on the same CODEX_HOME"
            return self._start_error(StartTimeout, problem)
        if self._process is not None and self._process.pid is None:
            problem = f"{self._process.starter} did not start the server within {seconds:g} s"
            return self._start_error(StartTimeout, problem)
        junk = 0 if self._connection is None else self._connection.junk_lines
        noise = f"; it printed {junk} lines that are not JSON-RPC messages" if junk else ""
        return self._start_error(
            StartTimeout, f"the server did not answer initialize within {seconds:g} s{noise}"
        )

    def _start_error(self, cls: type[StartErrorT], problem: str) -> StartErrorT:
        process, binary = self._process, self._binary
        tail = "" if process is None else process.stderr.tail(log_records=cls is not StartTimeout)
        tail = self._secrets.hide_in_tail(tail)
        hint = next(
            (hint for pattern, hint in _HINTS if re.search(pattern, tail)),
            "Run trio-codex doctor to see why.",
        )
        return cls(
            problem,
            "connect" if process is None else "handshake",
            self._hint if process is None else hint,
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

    @property
    def is_closed(self) -> bool:
        """Whether the close sequence is complete."""
        return self._closed.is_set()

    async def close_with(self, services: Services) -> None:
        """Run the close sequence, then stop the client's tasks."""
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
        connection, session = self._connection, self._session
        was_up = connection is not None and connection.is_established
        if connection is not None and session is not None and connection.close_reason is None:
            connection.refuse_new()
            grace = min(self._config.interrupt_grace, self._stop_grace)
            with self._timeouts.move_on_after(grace):
                async with trio.open_nursery() as nursery:
                    for turn in session.threads.open_turns():
                        if turn.is_ours:
                            nursery.start_soon(session.ender.end_turn, turn)
                            continue
                        # The rejoin has imported this module.
                        from trio_codex._session.rejoining import end_rejoined

                        nursery.start_soon(end_rejoined, session, turn)
                    for sequence in session.threads.open_sequences():
                        nursery.start_soon(sequence.finish)
            with self._timeouts.move_on_after(FLUSH_SECONDS):
                await connection.flush()
            connection.end(ConnectionClosed("the client was closed"))
        if self._rescued is not None:
            await self._rescued.wait()
        await trio.lowlevel.checkpoint()
        if self._process is not None:
            # The reader keeps draining stdout meanwhile, because a server whose stdout is full does not exit on EOF.
            # A server that never finished the handshake has nothing to clean up, so it gets less time.
            grace = self._stop_grace if was_up else min(self._stop_grace, FAILED_START_GRACE)
            try:
                await self._process.stop(grace)
            finally:
                self._note_exited(self._process.returncode)
        elif self._channel is not None:
            await self._channel.close()

    @property
    def _stop_grace(self) -> float:
        return self._config.stop_grace if isinstance(self._config, CodexConfig) else math.inf

    async def _watch(self, process: ServerProcess, connection: Connection) -> None:
        """End the connection once the process has exited, even if another process still holds its stdout open."""
        try:
            returncode = await process.wait()
        except trio.ClosedResourceError:
            # Closing timed out. The process tree ends in the background, and the close reason is already set.
            await trio.lowlevel.checkpoint()
            return
        self._note_exited(returncode)
        with self._timeouts.move_on_after(DIAGNOSIS_SECONDS):
            await connection.wait_drained()
        await connection.lose("the server exited")

    def _note_spawned(self, pid: int) -> None:
        path, version = (None, None) if self._binary is None else (self._binary.path, self._binary.version)
        self._process_record = ProcessRecord(self._instruments.connection, pid, path, version)
        self._instruments.emit("process_spawned", self._process_record)

    def _note_exited(self, returncode: int | None) -> None:
        record, self._process_record = self._process_record, None
        if record is not None:
            record.returncode = returncode
            self._instruments.emit("process_exited", record)


def _reason(error: CodexError) -> str:
    match error:
        case ConnectionBroken():
            return error.reason
        case StartError():
            return error.problem
        case _:
            return str(error)
