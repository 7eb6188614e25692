"""Typed requests to one server, including requests that are undone if their caller is cancelled."""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import trio

from trio_codex._core.json import UNREADABLE
from trio_codex._core.log import logger
from trio_codex._session.retry import STARTING, note_asked, note_refused, note_started
from trio_codex._values.metadata import ServerMetadata
from trio_codex._values.versions import missing_methods
from trio_codex.errors import (
    CodexError,
    DecodeError,
    RpcError,
    ServerBusyError,
    UnsupportedMethod,
)
from trio_codex.wire import _convert
from trio_codex.wire._registry import CLIENT_REQUESTS

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Mapping

    from trio_codex import wire
    from trio_codex._link.call import Call, RequestClass
    from trio_codex._link.connection import Connection
    from trio_codex._link.services import Services
    from trio_codex._link.timeouts import Timeouts
    from trio_codex._values.config import ClientConfig
    from trio_codex._values.paths import PathBase

METHOD_REJECTED: Final = -32600
"""The code with which the server itself rejects a method that it lacks."""

_parse: Final = msgspec.json.Decoder().decode


class Server:
    """Typed requests to one server.

    Args:
        config: The configuration of the client.
        services: The client's tasks.
        connection: The connection.
        paths: Resolves relative paths.

    Attributes:
        config: The configuration of the client.
        services: The client's tasks.
        connection: The connection.
    """

    def __init__(
        self, config: ClientConfig, services: Services, connection: Connection, paths: PathBase
    ) -> None:
        self.config: ClientConfig = config
        self.services: Services = services
        self.connection: Connection = connection
        self._paths = paths
        self._numbers = itertools.count(1)
        self._metadata: ServerMetadata | None = None
        self._missing: Mapping[str, str] = {}

    @property
    def timeouts(self) -> Timeouts:
        """The timeouts for the server's responses."""
        return self.connection.timeouts

    @property
    def metadata(self) -> ServerMetadata:
        """The metadata that the server reported in the handshake."""
        assert self._metadata is not None
        return self._metadata

    def next_number(self) -> int:
        """Return a number that is unique on this connection, for ids that the client generates."""
        return next(self._numbers)

    def absolute(self, path: str | os.PathLike[str]) -> str:
        """Return an absolute path, which most methods of the server require.

        A relative path is resolved against the working directory in which the server was started, even if this
        process has changed its own since. ``~`` is the server's home directory.

        Raises:
            ValueError: The base of the path is unknown.
        """
        return self._paths.absolute(path)

    async def shake_hands(self) -> None:
        """Perform the handshake. The caller sets the timeout.

        Raises:
            CodexError: As for any request, and ``DecodeError``.
        """
        config, connection = self.config, self.connection
        capabilities: dict[str, Any] = {"experimentalApi": config.experimental_api}
        if config.opt_out_notifications:
            capabilities["optOutNotificationMethods"] = list(config.opt_out_notifications)
        info = {"name": config.client_name, "title": config.client_title, "version": config.client_version}
        params = {"clientInfo": info, "capabilities": capabilities}
        # Deferred: ``start_timeout`` is the limit here, and a shorter ``request_timeout`` must not preempt it.
        raw = await connection.calls.request("initialize", params, "deferred")
        self._metadata = ServerMetadata.of(decode_result("initialize", raw))
        self._missing = missing_methods(self._metadata.server_version)
        connection.established()
        connection.instruments.emit("handshake_completed", connection.instruments.connection, self._metadata)

    async def request(
        self,
        method: str,
        params: wire.Wire | Mapping[str, Any] | None = None,
        *,
        request_class: RequestClass | None = None,
        decode: Callable[[str, msgspec.Raw], Any] | None = None,
        has_timeout: bool = True,
    ) -> Any:
        """Send a request and return its typed result.

        Args:
            method: The method.
            params: The parameters.
            request_class: The request class, if not the default of the method.
            decode: As in :meth:`acquire`.
            has_timeout: Whether ``request_timeout`` applies.

        Raises:
            CodexError: As :meth:`Calls.request <trio_codex._link.calls.Calls.request>`, or
                ``DecodeError``, or ``UnsupportedMethod`` if the version of the server does not have the method.
        """
        # An untyped request is always sent: the server decides whether it has the method.
        if method in self._missing and decode is not parse_result:
            await self._reject(method)
        connection = self.connection
        note_asked(method, connection.instruments)
        may_start = method in STARTING
        if may_start:
            note_started()
        try:
            raw = await connection.calls.request(
                method,
                _convert.encode(params),
                request_class or request_class_of(method),
                has_timeout=has_timeout,
            )
        except RpcError:
            if may_start:
                note_refused()
            raise
        return (decode or decode_result)(method, raw)

    async def _reject(self, method: str) -> NoReturn:
        """Raise the error for a method that this server is too old for."""
        await trio.lowlevel.checkpoint()
        since = self._missing[method]
        message = f"needs codex {since} or later; this server is {self.metadata.server_version}"
        raise UnsupportedMethod(METHOD_REJECTED, message, None, method, since)

    async def request_json(self, method: str, params: wire.Wire | Mapping[str, Any] | None) -> Any:
        """Send a request and return its result as plain JSON.

        Raises:
            CodexError: As in :meth:`request`.
        """
        return await self.request(method, params, decode=parse_result)

    async def insist(
        self,
        method: str,
        params: Mapping[str, Any],
        decode: Callable[[str, msgspec.Raw], Any] | None = None,
    ) -> Any:
        """Send a request that helps to end something, even while the client is closing. The caller sets the timeout.

        The request waits, and is retried while the server is overloaded, even if ``request_timeout`` is shorter.

        Raises:
            CodexError: As in :meth:`request`, except ``ServerBusyError`` and ``RequestTimeout``.
        """
        while True:
            await trio.lowlevel.checkpoint()
            try:
                return await self.request(
                    method, params, request_class="control", decode=decode, has_timeout=False
                )
            except ServerBusyError as exc:
                logger.debug("%s: %s", method, exc)

    async def end(self, method: str, params: Mapping[str, Any]) -> bool:
        """Send a request that ends something on the server, even while the client is closing.

        If the server is overloaded, the request is retried within ``interrupt_grace``. A failure is logged.

        Returns:
            Whether the server accepted the request. A rejection usually means that there was nothing left to end.
        """
        error: CodexError | None = None
        with self.timeouts.move_on_after(self.config.interrupt_grace) as scope:
            await trio.lowlevel.checkpoint()
            try:
                await self.insist(method, params)
            except CodexError as exc:
                error = exc
        if scope.cancelled_caught:
            logger.warning(
                "%s %s was not answered within interrupt_grace and may have had no effect", method, params
            )
        elif error is not None:
            logger.debug("%s %s: %s", method, params, error)
        return error is None and not scope.cancelled_caught

    async def begin(self, method: str, params: wire.Wire | Mapping[str, Any] | None) -> Call:
        """Queue a request whose response is awaited elsewhere."""
        note_asked(method, self.connection.instruments)
        return await self.connection.calls.begin(method, _convert.encode(params), request_class_of(method))

    @trio.lowlevel.enable_ki_protection
    async def acquire(
        self,
        method: str,
        params: wire.Wire,
        undo: Callable[[msgspec.Raw], Awaitable[object]],
    ) -> msgspec.Raw:
        """Send a request that creates something on the server. If the caller is cancelled, undo the request.

        The result is raw, so that the request can be undone even if the result cannot be structured.

        Args:
            method: The method.
            params: The parameters.
            undo: Removes what was created, given the result. Called if the caller was cancelled after sending.

        Raises:
            CodexError: As in :meth:`request`.
        """
        call = await self.begin(method, params)
        answer = None
        timeout = math.inf if request_class_of(method) == "deferred" else self.config.request_timeout
        try:
            answer = await call.answer_within(timeout)
            return answer
        except RpcError:
            # The server responded with an error, so there is nothing to undo.
            answer = msgspec.Raw()
            raise
        finally:
            # Do not check ``call.answered``: the response may arrive after the cancellation but before this task runs.
            if answer is None and not call.take_back():
                # Shielded and bounded internally.
                await self.services.finish(self._undo_late, call, undo)  # noqa: ASYNC102

    async def _undo_late(self, call: Call, undo: Callable[[msgspec.Raw], Awaitable[object]]) -> None:
        await trio.lowlevel.checkpoint()
        grace = self.config.interrupt_grace
        with self.timeouts.move_on_after(grace), suppress(CodexError):
            # If the request failed or the connection ended, there is nothing to undo.
            await undo(await call.answer())
            return
        if self.connection.close_reason is None and not call.answered:
            logger.warning(
                "%s was not answered within interrupt_grace, so it could not be undone", call.method
            )
        call.give_up()


@lru_cache(maxsize=512)
def request_class_of(method: str) -> RequestClass:
    """Return the request class of a method. Unknown methods are assumed to be answered immediately."""
    spec = CLIENT_REQUESTS.get(method)
    if spec is None:
        return "window"
    return "control" if spec.control else "deferred" if spec.deferred else "window"


def parse_result(method: str, raw: msgspec.Raw) -> Any:
    """Parse the result of a method.

    Raises:
        DecodeError: It is not JSON.
    """
    try:
        return _parse(raw)
    except UNREADABLE as exc:
        raise DecodeError(method, "$", str(exc)) from None


def decode_result(method: str, raw: msgspec.Raw) -> Any:
    """Structure the result of a method.

    Raises:
        DecodeError: It does not match the schema.
    """
    return _convert.decode_result(method, parse_result(method, raw))
