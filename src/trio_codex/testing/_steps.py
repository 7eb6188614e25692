"""The ground on which scripted responses stand: steps, pauses, endings and the encoding of events.

Owns what a step is (``Step``) and the steps that are not events (``Gate``, ``Delay``, ``Hang``, ``Cut``,
``HTTPFailure``). Knows nothing of sockets, HTTP servers or queues: somebody else plays the frames that a step yields.
"""

from __future__ import annotations

import abc
import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


FAILURE_MESSAGE: Final = "the model stand-in was told to fail"


def sse(event_type: str, **fields: Any) -> bytes:
    """Encode one server-sent event as the Responses API does: the type is in the data, too.

    Args:
        event_type: The event's name, such as `response.completed`.
        fields: The other members of the event's JSON object.
    """
    data = json.dumps({"type": event_type, **fields}, separators=(",", ":"))
    return f"event: {event_type}\ndata: {data}\n\n".encode()


@attrs.frozen
class Slot:
    """The place of a step in the conversation, from which the ids of its items are made.

    Attributes:
        response: Number of the response; no two responses of one stand-in share it.
        index: Index of the output item in the response.
    """

    response: int
    index: int = 0

    def make_id(self, prefix: str) -> str:
        """Make an id that no other slot of this stand-in makes."""
        return f"{prefix}_{self.response}_{self.index}"


class Step(abc.ABC):
    """One step of a scripted response; subclass it to script what is not here."""

    __slots__ = ()

    @property
    def ends(self) -> bool:
        """Whether the response is over with this step, so that nothing may follow it."""
        return False

    @abc.abstractmethod
    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield what is to be sent, and the pauses in between."""


class Pause(Step):
    """A step that sends nothing: the response waits."""

    __slots__ = ()

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the pause itself."""
        yield self

    @abc.abstractmethod
    async def take(self) -> None:
        """Wait as long as the pause lasts: for whoever plays the response."""


@attrs.frozen
class Delay(Pause):
    """Wait for some seconds before going on."""

    seconds: float

    async def take(self) -> None:
        """Sleep. A checkpoint, and cancel-safe."""
        await trio.sleep(self.seconds)


@attrs.define(eq=False)
class Gate(Pause):
    """Wait until the test opens the gate.

    A gate may stand in several responses: once open, it stays open.
    """

    _reached: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    _opened: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    def open(self) -> None:
        """Let the response go on. Idempotent."""
        self._opened.set()

    async def reached(self) -> None:
        """Wait until a response has come to this gate; whatever stands before the gate has been sent then.

        A checkpoint, and cancel-safe.
        """
        await self._reached.wait()

    async def take(self) -> None:
        """Report that a response got here, and wait until the gate is open. A checkpoint, and cancel-safe."""
        self._reached.set()
        await self._opened.wait()


@attrs.frozen
class Hang(Pause):
    """Send nothing more, and keep the stream open until the client goes away."""

    @property
    def ends(self) -> bool:
        """Always true."""
        return True

    async def take(self) -> None:
        """Wait to be cancelled. A checkpoint."""
        await trio.sleep_forever()


@attrs.frozen
class Cut(Step):
    """End the stream without ``response.completed``.

    Attributes:
        clean: End the body as HTTP asks for; otherwise the connection is closed in the middle of it.
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

    Only pauses may stand before it in a response.

    Attributes:
        status: The HTTP status.
        error: ``type`` and ``code`` of the error object in the body, such as ``"usage_limit_reached"``.
        message: ``message`` of the error object in the body.
        body: The whole body, instead of an error object: JSON, or text that is sent as it is.
        headers: Further headers, such as ``retry-after``.
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
        """Encode the body as it is sent."""
        if isinstance(self.body, str):
            return self.body.encode()
        body = self.body
        if body is None:
            body = {"error": {"type": self.error, "code": self.error, "message": self.message}}
        return json.dumps(body).encode()


Frame: TypeAlias = bytes | Pause | Cut | HTTPFailure
"""What a response is played from: bytes to send, a pause to take, or an end that HTTP has to make."""
