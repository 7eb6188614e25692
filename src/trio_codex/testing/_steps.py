"""The building blocks of scripted responses: steps, pauses, endings and the encoding of events.

Defines ``Step`` and the steps that are not events (``Gate``, ``Delay``, ``Hang``, ``Cut``, ``HTTPFailure``). A step
only yields frames; ``_model`` sends them.
"""

from __future__ import annotations

import abc
import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


FAILURE_MESSAGE: Final = "the mock model was scripted to fail"


def sse(event_type: str, **fields: Any) -> bytes:
    """Encode one server-sent event as the Responses API does, with the type repeated in the data.

    Args:
        event_type: The event's name, such as `response.completed`.
        fields: The other members of the event's JSON object.
    """
    data = json.dumps({"type": event_type, **fields}, separators=(",", ":"))
    return f"event: {event_type}\ndata: {data}\n\n".encode()


@attrs.frozen
class Slot:
    """The position of a step in the conversation, from which the ids of its items are derived.

    Attributes:
        response: Number of the response, unique within a mock model.
        index: Index of the output item in the response.
    """

    response: int
    index: int = 0

    def make_id(self, prefix: str) -> str:
        """Return an id that is unique within this mock model."""
        return f"{prefix}_{self.response}_{self.index}"


class Step(abc.ABC):
    """One step of a scripted response. Subclass it to script other output."""

    __slots__ = ()

    @property
    def ends(self) -> bool:
        """Whether this step ends the response, so that nothing may follow it."""
        return False

    @abc.abstractmethod
    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the frames to send, and the pauses between them."""


class Pause(Step):
    """A step that sends nothing and delays the response."""

    __slots__ = ()

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the pause itself."""
        yield self

    @abc.abstractmethod
    async def take(self) -> None:
        """Wait until the pause is over; called by the player of the response."""


@attrs.frozen
class Delay(Pause):
    """Wait for a number of seconds before continuing."""

    seconds: float

    async def take(self) -> None:
        """Sleep. A checkpoint, and cancel-safe."""
        await trio.sleep(self.seconds)


@attrs.define(eq=False)
class Gate(Pause):
    """Wait until the test opens the gate.

    A gate may be used in several responses; once open, it stays open.
    """

    _reached: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _opened: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    def open(self) -> None:
        """Open the gate, so that the response continues. Idempotent."""
        self._opened.set()

    async def reached(self) -> None:
        """Wait until a response has reached this gate; everything before the gate has then been sent.

        A checkpoint, and cancel-safe.
        """
        await self._reached.wait()

    async def take(self) -> None:
        """Report that a response has reached the gate, and wait until it is open. A checkpoint, and cancel-safe."""
        self._reached.set()
        await self._opened.wait()


@attrs.frozen
class Hang(Pause):
    """Send nothing more, and keep the stream open until the client disconnects."""

    @property
    def ends(self) -> bool:
        """Always true."""
        return True

    async def take(self) -> None:
        """Wait forever. A checkpoint."""
        await trio.sleep_forever()


@attrs.frozen
class Cut(Step):
    """End the stream without ``response.completed``.

    Attributes:
        clean: Whether to end the body as HTTP requires; otherwise the connection closes mid-body.
    """

    clean: bool = True

    @property
    def ends(self) -> bool:
        """Always true."""
        return True

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the cut itself."""
        yield self


@attrs.frozen
class HTTPFailure(Step):
    """Refuse the request with an HTTP status instead of answering with a stream.

    Only pauses may precede it in a response.

    Attributes:
        status: The HTTP status.
        error: ``type`` and ``code`` of the error object in the body, such as ``"usage_limit_reached"``.
        message: ``message`` of the error object in the body.
        body: The whole body, instead of an error object: JSON, or a string that is sent unchanged.
        headers: Additional headers, such as ``retry-after``.
    """

    status: int = 500
    error: str | None = attrs.field(default=None, kw_only=True)
    message: str = attrs.field(default=FAILURE_MESSAGE, kw_only=True)
    body: Mapping[str, Any] | str | None = attrs.field(default=None, kw_only=True)
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], kw_only=True)

    @property
    def ends(self) -> bool:
        """Always true."""
        return True

    @property
    def content_type(self) -> str:
        """Media type of the body."""
        return "text/plain; charset=utf-8" if isinstance(self.body, str) else "application/json"

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the failure itself."""
        yield self

    def payload(self) -> bytes:
        """Encode the body."""
        if isinstance(self.body, str):
            return self.body.encode()
        body = self.body
        if body is None:
            body = {"error": {"type": self.error, "code": self.error, "message": self.message}}
        return json.dumps(body).encode()


Frame: TypeAlias = bytes | Pause | Cut | HTTPFailure
"""An element of a played response: bytes to send, a pause, or an ending that the HTTP layer carries out."""
