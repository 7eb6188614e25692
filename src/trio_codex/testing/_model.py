"""A mock model: a Responses endpoint on loopback that sends scripted responses.

Matches requests to responses, records requests, and plays responses. ``_items`` and ``_response`` define the contents of
a response, ``_queue`` the order of responses, and ``_serve`` the HTTP server.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self, cast

import attrs
import trio

from ._queue import Match, Route, Script
from ._request import ModelRequest, without_secrets
from ._response import Response
from ._serve import HOST, Receive, Send, serve
from ._steps import Cut, Frame, HTTPFailure, Step

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
    from types import TracebackType

PATH: Final = "/v1/responses"

CHUNK_BYTES: Final = 1 << 16
"""Maximum size of one write. Many deltas then need few writes, and a dropped stream is noticed soon."""


@attrs.define(eq=False)
class MockModel(Script):
    """A scripted model for the real codex binary, served on loopback.

    ::

        async with MockModel() as model:
            model.run_command("echo hi")
            model.say("It says ", "hi.", phase="final_answer")
            with offline_home(model) as home:
                ...  # run codex with ``home.env`` in ``home.workspace``
            model.assert_all_used()

    Each request to ``POST /v1/responses`` takes the next response from the script. For several concurrent
    conversations, give each one its own script with :meth:`script`. Once the script is used up, requests are answered
    with ``default``; without a default they are refused with HTTP 400 and kept in ``unexpected``.

    It needs hypercorn, which the ``testing`` extra installs. It can be entered only once. Leaving the scope drops open
    streams; exceptions from the body propagate unchanged.

    Attributes:
        default: The response to send once the script is used up.
        requests: The requests for a response, in order of arrival.
        unexpected: Requests after the end of the script, and requests for any other resource.
    """

    requests: list[ModelRequest] = attrs.field(factory=list[ModelRequest], init=False)
    unexpected: list[ModelRequest] = attrs.field(factory=list[ModelRequest], init=False)
    _routes: list[Route] = attrs.field(factory=list[Route], init=False)
    _arrivals: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _lifetime: AbstractAsyncContextManager[None] | None = attrs.field(default=None, init=False)
    _port: int | None = attrs.field(default=None, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    async def __aenter__(self) -> Self:
        """Start serving.

        A checkpoint.

        Raises:
            ModuleNotFoundError: hypercorn is not installed.
            OSError: No port is available to listen on.
            RuntimeError: It was entered before.
        """
        if self._lifetime is not None:
            raise RuntimeError("a MockModel can be entered only once")
        self._lifetime = self._serving()
        await self._lifetime.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Drop open streams and stop serving.

        A checkpoint.

        Raises:
            RuntimeError: The HTTP server failed, which cancelled the body.
            Exception: Whatever a custom predicate or step raised, which cancelled the body.
        """
        assert self._lifetime is not None
        leave = self._lifetime.__aexit__
        return await leave(exc_type, exc_value, traceback)  # noqa: ASYNC102  # it cancels the tasks it waits for

    @property
    def base_url(self) -> str:
        """The URL to use as the ``base_url`` of a model provider.

        Raises:
            RuntimeError: The model has not been entered.
        """
        if self._port is None:
            raise RuntimeError("the MockModel has no address before it is entered: use `async with` first")
        return f"http://{HOST}:{self._port}/v1"

    def respond(self, *steps: Step, when: Match | None = None) -> None:
        """Answer the next request with these steps.

        Args:
            steps: The steps of the response.
            when: Answer the next request that this matches, instead of the very next one (see :meth:`script`).

        Raises:
            ValueError: A step follows one that ends the response, or anything but a pause precedes an
                ``HTTPFailure``.
        """
        if when is None:
            super().respond(*steps)
            return
        route = Route(match=when)
        route.respond(*self._hold(steps))
        self._routes.append(route)

    def script(
        self, match: Match | None = None, *, thread_id: str | None = None, default: Response | None = None
    ) -> Script:
        """Create a separate script for the conversations that match.

        Requests that match such a script are never answered from the common one. If several scripts match, the first
        one with a response left answers.

        Args:
            match: Text that the last user message must contain, or a predicate on the request.
            thread_id: The id of the thread that must send the request.
            default: The response to send once the script is used up, instead of the model's own ``default``.
        """
        route = Route(match=match, thread_id=thread_id, default=default)
        self._routes.append(route)
        return route

    async def wait_for_requests(self, count: int) -> list[ModelRequest]:
        """Wait until at least ``count`` requests have arrived, and return all of them.

        A checkpoint, and cancel-safe.

        Raises:
            trio.ClosedResourceError: The model's scope exited first.
        """
        await trio.lowlevel.checkpoint()
        while len(self.requests) < count:
            if self._closed:
                raise trio.ClosedResourceError(
                    f"the model was closed after {len(self.requests)} of {count} requests"
                )
            await self._arrivals.park()
        return list(self.requests)

    def assert_all_used(self) -> None:
        """Check that every scripted response was requested, and nothing else.

        Raises:
            AssertionError: A response is unused, or a request was unexpected.
        """
        left = self.left + sum(route.left for route in self._routes)
        problems = [f"{left} scripted responses were never requested"] if left else []
        problems += [f"unexpected: {_describe(request)}" for request in self.unexpected]
        if problems:
            raise AssertionError("; ".join(problems))

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None]:
        async with serve(self._app) as self._port:
            try:
                yield
            finally:
                self._closed = True
                self._arrivals.unpark_all()

    async def _app(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            body = await _read_body(receive)
            if body is not None:
                await self._answer(scope, body, receive, send)

    async def _answer(self, scope: Any, body: bytes, receive: Receive, send: Send) -> None:
        request = ModelRequest(
            number=len(self.requests),
            method=scope["method"],
            path=scope["path"],
            headers=without_secrets(scope["headers"]),
            body=_parse(body),
        )
        try:
            response = self._choose(request)
            frames = list(response.frames(request.number))
            await _play(frames, request, receive, send)
        finally:
            request.closed.set()

    def _choose(self, request: ModelRequest) -> Response:
        if (request.method, request.path) != ("POST", PATH):
            self.unexpected.append(request)
            return Response(HTTPFailure(404, body=f"the mock model answers only POST {PATH}"))
        self.requests.append(request)
        self._arrivals.unpark_all()
        response = self._take_for(request)
        if response is None:
            self.unexpected.append(request)
            return Response(HTTPFailure(400, body=f"nothing is scripted for {_describe(request)}"))
        return response

    def _take_for(self, request: ModelRequest) -> Response | None:
        claiming = [route for route in self._routes if route.claims(request)]
        if not claiming:
            return self.take()
        with_responses = (route for route in claiming if route.left)
        with_default = (route for route in claiming if route.default is not None)
        route = next(with_responses, None) or next(with_default, None)
        return self.default if route is None else route.take()


def _describe(request: ModelRequest) -> str:
    text = request.last_user_text
    return f"request {request.number}, {request.method} {request.path}, last user text {text!r:.200}"


def _parse(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


async def _live(receive: Receive, send: Send) -> None:
    """Implement the ASGI lifespan protocol, which hypercorn requires of every application."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body of a request, or ``None`` if the client disconnected before the end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _play(frames: Iterable[Frame], request: ModelRequest, receive: Receive, send: Send) -> None:
    """Play a response until it ends or the client disconnects."""
    player = _Player(send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
        for frame, is_last in _marked(_merged(frames)):
            # Set before the last write, which makes the server end the turn: a test may then read this flag at once.
            request.completed = is_last and isinstance(frame, bytes)
            try:
                await player.play(frame)
            except BaseException:
                request.completed = False
                raise
        request.completed = True
        nursery.cancel_scope.cancel()
    if request.completed:
        # Outside the scope: hypercorn reports a disconnect while it closes the connection for us.
        await player.finish()


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _marked(frames: Iterator[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Pair each item with whether it is the last."""
    frame = next(frames, None)
    while frame is not None:
        following = next(frames, None)
        yield frame, following is None
        frame = following


def _merged(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Join adjacent bytes, up to ``CHUNK_BYTES``."""
    chunk = bytearray()
    for frame in frames:
        if isinstance(frame, bytes) and len(chunk) + len(frame) <= CHUNK_BYTES:
            chunk += frame
            continue
        if chunk:
            yield bytes(chunk)
            chunk.clear()
        if isinstance(frame, bytes):
            chunk += frame
        else:
            yield frame
    if chunk:
        yield bytes(chunk)


@attrs.define(eq=False)
class _Player:
    """Sends one HTTP response, in the order ASGI requires."""

    _send: Send
    _is_started: bool = attrs.field(default=False, init=False)
    _is_cut: bool = attrs.field(default=False, init=False)

    async def play(self, frame: Frame) -> None:  # noqa: ASYNC910  # nothing to wait for at a cut
        """Send the frame, or pause for it. It is a checkpoint if sending a frame is."""
        if isinstance(frame, bytes):
            await self._start(200, "text/event-stream", {})
            await self._write(frame)
        elif isinstance(frame, HTTPFailure):
            await self._start(frame.status, frame.content_type, frame.headers)
            await self._write(frame.payload())
        elif isinstance(frame, Cut):
            self._is_cut = not frame.clean
        else:
            await frame.take()

    async def finish(self) -> None:  # noqa: ASYNC910  # nothing to wait for after a cut
        """Send the end of the body; without it, hypercorn closes the connection mid-body."""
        if not self._is_cut:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        if self._is_started:
            return  # noqa: ASYNC910  # the write follows
        self._is_started = True
        # One connection per request: a keep-alive connection may close just as the client reuses it, and codex
        # would report that as a failed turn.
        fields = {"content-type": content_type, "connection": "close", **headers}
        encoded = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
