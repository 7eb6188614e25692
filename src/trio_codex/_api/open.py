"""Open a client, with its own server or over a stream."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from trio_codex._api.codex import Codex
from trio_codex._api.lifecycle import ClientLifecycle
from trio_codex._core.arguments import check_type
from trio_codex._link.services import Services, open_services
from trio_codex._values.config import ClientConfig, CodexConfig

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from trio_codex._session.budget import Budget
    from trio_codex._tools.tool import AnyTool
    from trio_codex.instruments._base import Instrument
    from trio_codex.policies import Policy

CONFIG_HINT: Final = "pass settings as CodexConfig(…), and choose a model with thread_start(model=…)"


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

    When the scope exits, open turns end and the server is stopped. No task, process or file descriptor remains,
    even after an error or a cancellation. Exceptions raised by the body propagate unchanged.

    Args:
        config: The configuration of the client and its server; by default, the user's own Codex setup.
        policy: Handles requests from turns, unless the policy of the turn or its thread does.
        tools: Tools declared on every new thread for its agent to call, created with :func:`~trio_codex.tools.tool`.
        budget: The joint budget of all of its turns.
        instruments: Observers that are notified of what happens, for logging, metrics and tracing.

    Raises:
        StartError: The server could not be started (``SpawnError``), did not answer in time (``StartTimeout``), exited, or
            rejected the handshake.
        ValueError: Two tools have the same name, ``experimental_api`` is off, or a text of ``config`` cannot be passed to
            a program; nothing was started.
        TypeError: An argument has the wrong type, or a tool has no valid schema; nothing was started.
        RuntimeError: This was not called from a Trio task.
        InternalError: A bug in trio-codex; the body was cancelled because of it.
    """
    check_in_trio("open_codex()")
    config = CodexConfig() if config is None else config
    check_type("config", config, CodexConfig, CONFIG_HINT)
    client = ClientLifecycle(config, policy, tools, budget, instruments)
    async with open_services(client.close_with) as services:
        session = await client.spawn(services, config)
        yield Codex(session, client)


async def connect_codex(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    *,
    config: ClientConfig | None = None,
    policy: Policy | None = None,
    tools: Iterable[AnyTool] = (),
    budget: Budget | None = None,
    instruments: Sequence[Instrument] = (),
) -> Codex:
    """Connect a client over a byte stream that is already open, such as the pipes of a process that you started.

    Both ends write one JSON message per line. A server that was started with ``--listen`` speaks WebSocket instead, even
    on a Unix socket: use :func:`attach_codex` for it.

    The client's tasks run in ``nursery`` and keep it open. When the nursery is cancelled, or on
    :meth:`Codex.aclose`, open turns end and the stream is closed. The server was not started by this client and is
    never killed.

    Args:
        nursery: The nursery for the client's tasks.
        stream: A stream of newline-delimited JSON in both directions.
        config: The configuration. The fields of a :class:`CodexConfig` about the process have no effect.
        policy: As in :func:`open_codex`.
        tools: As in :func:`open_codex`.
        budget: As in :func:`open_codex`.
        instruments: As in :func:`open_codex`.

    Raises:
        StartError: The server did not answer ``initialize``, or rejected it.
        ValueError: As in :func:`open_codex`.
        TypeError: As in :func:`open_codex`.
        RuntimeError: As in :func:`open_codex`.
    """
    check_in_trio("connect_codex()")
    check_type("nursery", nursery, trio.Nursery, "write async with trio.open_nursery() as nursery")
    check_type(
        "stream", stream, trio.abc.Stream, "pass a trio.SocketStream, or a trio.StapledStream of two streams"
    )
    config = ClientConfig() if config is None else config
    check_type("config", config, ClientConfig, CONFIG_HINT)
    client = ClientLifecycle(config, policy, tools, budget, instruments)
    services = Services(nursery)
    nursery.start_soon(client.sentinel, services)
    return Codex(await client.connect(services, stream), client)


def check_in_trio(function: str) -> None:
    """Raise ``RuntimeError`` unless this is a Trio task."""
    # Check this here, because otherwise the first wait would fail inside Trio and look like a bug in trio-codex.
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(
            f"{function} needs Trio: run your program with trio.run(main). Without Trio, use trio_codex.blocking in"
            " a script or a notebook, or trio_codex.aio under asyncio"
        )
