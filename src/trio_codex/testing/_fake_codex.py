"""A scripted server for the time of a scope: in memory with a client of its own, or as a process that a client starts."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import attrs
import trio
import trio.testing

from trio_codex import Budget, Codex, CodexConfig, Policy, connect_codex, open_codex

from ._fake import DEFAULTS, FakeServer
from ._fake_process import ProcessStream, listening

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from trio_codex._tools._toolbox import AnyTool
    from trio_codex.instruments import Instrument

VERSION: Final = "0.163.0"

DRAIN_SECONDS: Final = 1.0
"""How long what a process has read may take to come once its client has gone: it is on its way already."""


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
    """Connect a client to a :class:`FakeServer` for the time of a scope; give both.

    What the body raises leaves in an exception group of the nursery that this opens.

    Args:
        config: As in :func:`~trio_codex.connect_codex`.
        policy: As there.
        tools: As there.
        budget: As there.
        instruments: As there.
        version: The version that the server claims to be.
        strict: Whether a request that nobody expected, or a fault that no line has met, is an error at the end of the scope.
        validate: Whether what the client sends must fit the protocol. It is looked at as it comes, and ends the scope.
        process: Whether the server is one of :func:`fake_process`, which the client starts, and not one in memory.

    Raises:
        AssertionError: After a body that did not raise: the script was not used up. In a group: it sent
            what the protocol does not have.
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
        serving.start_soon(server.serve)  # noqa: ASYNC113  # what is sent before it runs waits in the stream
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
    """Have a :class:`FakeServer` for clients that start a process; give the configuration that starts it, and the server.

    The process is a small program of this package, whose streams are the script's::

        async with fake_process() as (config, server):
            await server.strike("exit", 3, at_eof=True)
            async with open_codex(config) as codex:
                await codex.thread_start()

    It goes wrong as a process does, by :meth:`FakeServer.strike` and at a line by :meth:`FakeServer.fault`. When its stdin
    ends, so does it. Several clients may start it, one after the other; the script goes on.

    What the body raises leaves in an exception group of the nursery that this opens. Not for Windows.

    Args:
        config: What to start it with, but for ``launch_args_override``. ``codex_home`` is a temporary directory by default.
        version: The version that the server claims to be.
        strict: Whether a request that nobody expected, or a fault that no line has met, is an error at the end of the scope.
        validate: Whether what the client sends must fit the protocol. It is looked at as it comes, and ends the scope.

    Raises:
        AssertionError: After a body that did not raise: the script was not used up. In a group: it sent
            what the protocol does not have.
        OSError: The socket to the process cannot be made, as where the path of the temporary directory is too long for one.
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


def _server(
    stream: trio.abc.Stream, config: CodexConfig | None, version: str, *, validate: bool
) -> FakeServer:
    server = FakeServer(stream, max_line_bytes=(config or CodexConfig()).max_line_bytes, validate=validate)
    user_agent = f"fake/{version} (Fake; none) unknown (fake; 0)"
    server.give("initialize", {**DEFAULTS["initialize"], "userAgent": user_agent})
    return server


async def _serve_processes(server: FakeServer, process: ProcessStream) -> None:
    while True:
        async with process:
            await process.accept()
            await server.serve()
