"""Serve an ASGI callable on a loopback port for the duration of a scope, with hypercorn's Trio worker.

Owns the listening socket, the server's settings and its nursery, and lets exceptions propagate unchanged.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from trio_codex._core.exceptions import leaves_of

if TYPE_CHECKING:
    from hypercorn.config import Config

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]
"""An ASGI 3 application: ``await app(scope, receive, send)``."""

HOST: Final = "127.0.0.1"

MAX_HEADER_BYTES: Final = 1 << 20
"""Maximum size of a request's headers. codex repeats a turn's metadata in one of them, which may exceed hypercorn's
default of 16 KiB."""

FIRST_BYTE_TIMEOUT: Final = 60.0
"""How long a new connection may stay silent, in seconds. A client that was stopped for a while may resume."""


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def serve(app: ASGIApp) -> AsyncGenerator[int]:
    """Serve ``app`` on a loopback port that the system chooses, and yield the port.

    The end of the scope drops open connections, whatever is being sent on them. Exceptions from the body propagate
    unchanged. An exception from ``app`` cancels the body and also propagates unchanged, unless the body raises one.

    Raises:
        ModuleNotFoundError: hypercorn is not installed.
        OSError: No port is available to listen on.
        RuntimeError: The HTTP server failed, which cancelled the body.
    """
    body_error: BaseException | None = None
    errors: list[BaseException] = []
    with socket.create_server((HOST, 0)) as listener:
        address = listener.getsockname()
        config = _configure(listener)
        try:
            async with trio.open_nursery() as nursery:
                body_scope = trio.CancelScope()

                def fail(error: Exception) -> None:
                    errors.append(error)
                    body_scope.cancel()

                nursery.start_soon(_run_server, app, config, fail)
                try:
                    with body_scope:
                        # The socket is already listening: early connections wait in its backlog.
                        await trio.lowlevel.checkpoint()
                        yield address[1]
                except BaseException as error:  # noqa: ASYNC103  # raised below, outside the nursery
                    body_error = error
                _drop_connections(address)
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: ASYNC103  # raised below, outside this handler
            errors += leaves_of(error)
    chosen = _choose(body_error, errors)
    try:
        if chosen is not None:
            # Outside the handlers, so that the nursery's exception group does not become its context.
            raise chosen
    finally:
        # Break the reference cycle between an exception and its frame, which would keep sockets open.
        del body_error, chosen
        errors.clear()


@trio.lowlevel.enable_ki_protection
async def _run_server(  # noqa: ASYNC910  # runs as a separate task
    app: ASGIApp, config: Config, fail: Callable[[Exception], None]
) -> None:
    from hypercorn.trio import serve as serve_forever  # pyright: ignore[reportUnknownVariableType]

    async def guarded(scope: Any, receive: Receive, send: Send) -> None:  # noqa: ASYNC910  # runs in hypercorn's task
        try:
            await app(scope, receive, send)
        except Exception as error:  # hypercorn would only log it
            fail(error)

    try:
        await serve_forever(guarded, config, mode="asgi")
    except Exception as error:
        failure = RuntimeError(f"the HTTP server of the MockModel failed: {error!r}")
        failure.__cause__ = error
        fail(failure)


def _configure(listener: socket.socket) -> Config:
    """Configure hypercorn to log nothing and to accept on our socket."""
    try:
        from hypercorn.config import Config, Sockets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "MockModel needs hypercorn, which the testing extra installs: pip install '.[testing]' in the checkout of trio-codex",
            name=error.name,
        ) from error

    class LoopbackConfig(Config):
        # Passing the descriptor as ``bind = "fd://…"`` would make it inheritable, and leak it if we are cancelled
        # before hypercorn takes it over.
        def create_sockets(self) -> Sockets:
            return Sockets(secure_sockets=[], insecure_sockets=[listener], quic_sockets=[])

    config = LoopbackConfig()
    config.accesslog = None
    config.errorlog = None
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.keep_alive_timeout = FIRST_BYTE_TIMEOUT
    return config


def _drop_connections(address: object) -> None:
    """Shut down every connection that was accepted on ``address``.

    Hypercorn shields its writes from cancellation and does not expose its streams. Without this, a client that is
    stopped, or merely not reading, would block the end of the scope forever.
    """
    for descriptor in _sockets():
        with suppress(OSError), socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as connection:
            if connection.getsockname() == address and connection.getpeername():
                connection.shutdown(socket.SHUT_RDWR)


def _sockets() -> list[int]:
    """Return the descriptors of this process's sockets; empty on systems that do not list them."""
    found: list[int] = []
    with suppress(FileNotFoundError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # the descriptor that listed the directory
                if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    found.append(int(name))
    return found


def _is_cancellation(error: BaseException) -> bool:
    return all(isinstance(leaf, trio.Cancelled) for leaf in leaves_of(error))


def _choose(body_error: BaseException | None, errors: list[BaseException]) -> BaseException | None:
    """Choose the exception to raise. The order of precedence is: exit (Ctrl-C), the body's error, a failure, a cancellation."""
    failures = [error for error in errors if not isinstance(error, trio.Cancelled)]
    exits = [error for error in failures if not isinstance(error, Exception)]
    if exits:
        return exits[0]
    if body_error is not None and not _is_cancellation(body_error):
        return body_error
    return next((error for error in (*failures, body_error, *errors) if error is not None), None)
