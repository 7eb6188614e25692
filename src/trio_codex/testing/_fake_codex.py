"""Run a scripted server for the duration of a scope: in memory with its own client, as a process, or at an address."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import attrs
import trio
import trio.testing

from trio_codex import Budget, ClientConfig, Codex, CodexConfig, Policy, connect_codex, open_codex

from ._fake import DEFAULTS, VERSION, FakeServer
from ._fake_process import ProcessStream, listening
from ._fake_websocket import WebSocketStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from trio_codex._tools.tool import AnyTool
    from trio_codex.instruments import Instrument

DRAIN_SECONDS: Final = 1.0
"""How long to wait, after the client has disconnected, for the input that the process has already read."""


@asynccontextmanager
async def fake_codex(
    config: CodexConfig | None = None,
    *,
    policy: Policy | None = None,
    tools: Iterable[AnyTool] = (),
    budget: Budget | None = None,
    instruments: Sequence[Instrument] = (),
    version: str = VERSION,
    strict: bool = True,
    validate: bool = True,
    process: bool = False,
) -> AsyncGenerator[tuple[Codex, FakeServer]]:
    """Connect a client to a :class:`FakeServer` for the duration of a scope, and yield both.

    Exceptions from the body leave the scope in an exception group, because this opens a nursery.

    Args:
        config: As in :func:`~trio_codex.connect_codex`.
        policy: As there.
        tools: As there.
        budget: As there.
        instruments: As there.
        version: The version that the server reports.
        strict: Whether an unexpected request or an unused fault is an error at the end of the scope.
        validate: Whether to check each message from the client against the protocol; a violation ends the scope.
        process: Whether the client starts the server as a process, as with :func:`fake_process`, instead of in memory.

    Raises:
        AssertionError: The body did not raise, but the script was not used up. In a group: the client sent something
            that the protocol does not define.
    """
    if process:
        async with (
            fake_process(config, version=version, strict=strict, validate=validate) as (started, server),
            open_codex(started, policy=policy, tools=tools, budget=budget, instruments=instruments) as codex,
        ):
            yield codex, server
        return
    client_end, server_end = trio.testing.memory_stream_pair()
    server = _server(server_end, config, version, validate=validate)
    async with trio.open_nursery() as serving:
        serving.start_soon(server.serve)  # noqa: ASYNC113  # whatever is sent before it runs is buffered in the stream
        async with trio.open_nursery() as nursery:
            codex = await connect_codex(
                nursery,
                client_end,
                config=config,
                policy=policy,
                tools=tools,
                budget=budget,
                instruments=instruments,
            )
            yield codex, server
            await codex.aclose()
        serving.cancel_scope.cancel()
    if strict:
        server.assert_all_expected()


@asynccontextmanager
async def fake_process(
    config: CodexConfig | None = None, *, version: str = VERSION, strict: bool = True, validate: bool = True
) -> AsyncGenerator[tuple[CodexConfig, FakeServer]]:
    """Provide a :class:`FakeServer` that clients start as a process; yield its configuration and the server.

    The process is a small program in this package. It relays its streams to and from the script::

        async with fake_process() as (config, server):
            await server.strike("exit", 3, at_eof=True)
            async with open_codex(config) as codex:
                await codex.thread_start()

    Use :meth:`FakeServer.strike` to inject a process fault, and :meth:`FakeServer.fault` to inject one at a line. The
    process exits on EOF on stdin. Several clients may start it, one after another; the script continues.

    Exceptions from the body leave the scope in an exception group, because this opens a nursery. Not available on
    Windows.

    Args:
        config: The configuration of the process, except for ``launch_args_override``. ``codex_home`` is a temporary
            directory by default.
        version: The version that the server reports.
        strict: Whether an unexpected request or an unused fault is an error at the end of the scope.
        validate: Whether to check each message from the client against the protocol; a violation ends the scope.

    Raises:
        AssertionError: The body did not raise, but the script was not used up. In a group: the client sent something
            that the protocol does not define.
        OSError: The socket to the process cannot be created, for example because the path of the temporary directory
            is too long.
    """
    config = config or CodexConfig()
    with listening() as (process, command_line, directory):
        server = _server(process, config, version, validate=validate)
        async with trio.open_nursery() as serving:
            serving.start_soon(_serve_processes, server, process)
            home = config.codex_home or directory
            yield attrs.evolve(config, launch_args_override=command_line, codex_home=home), server
            with trio.move_on_after(DRAIN_SECONDS):
                await process.wait_ended()
            serving.cancel_scope.cancel()
    if strict:
        server.assert_all_expected()


@asynccontextmanager
async def fake_websocket(
    config: ClientConfig | None = None, *, version: str = VERSION, strict: bool = True, validate: bool = True
) -> AsyncGenerator[tuple[str, FakeServer]]:
    """Provide a :class:`FakeServer` that clients attach to; yield its URL and the server. Needs the ``ws`` extra.

    It listens on a loopback port::

        async with fake_websocket() as (url, server):
            async with attach_codex(url) as codex:
                server.fault("close", 1013)
                await codex.thread_start()  # ConnectionBroken

    Use :meth:`FakeServer.fault` to inject a fault at a line. Several clients may attach, one after another; the script
    continues.

    Exceptions from the body leave the scope in an exception group, because this opens a nursery.

    Args:
        config: The configuration of the clients, which sets the length of an ``oversize`` line.
        version: The version that the server reports.
        strict: Whether an unexpected request or an unused fault is an error at the end of the scope.
        validate: Whether to check each message from the client against the protocol; a violation ends the scope.

    Raises:
        AssertionError: The body did not raise, but the script was not used up. In a group: the client sent something
            that the protocol does not define.
        ModuleNotFoundError: The ``ws`` extra is not installed. In a group.
    """
    websocket = WebSocketStream()
    server = _server(websocket, config, version, validate=validate)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as serving:
        serving.start_soon(_serve_websockets, server, websocket, listener)
        yield f"ws://127.0.0.1:{listener.socket.getsockname()[1]}", server
        serving.cancel_scope.cancel()
    if strict:
        server.assert_all_expected()


def _server(
    stream: trio.abc.Stream, config: ClientConfig | None, version: str, *, validate: bool
) -> FakeServer:
    server = FakeServer(stream, max_line_bytes=(config or ClientConfig()).max_line_bytes, validate=validate)
    user_agent = f"fake/{version} (Fake; none) unknown (fake; 0)"
    server.give("initialize", {**DEFAULTS["initialize"], "userAgent": user_agent})
    return server


async def _serve_processes(server: FakeServer, process: ProcessStream) -> None:
    while True:
        async with process:
            await process.accept()
            await server.serve()


async def _serve_websockets(
    server: FakeServer, websocket: WebSocketStream, listener: trio.SocketListener
) -> None:
    while True:
        stream = await listener.accept()
        async with stream:
            with suppress(trio.BrokenResourceError):  # the client may leave at any time
                await websocket.accept(stream)
                await server.serve()
