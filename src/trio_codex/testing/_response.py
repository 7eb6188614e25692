"""A scripted response as a whole: a sequence of steps, its token usage, and how it ends.

These are all values: nothing here sends or waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ._steps import FAILURE_MESSAGE, Frame, HTTPFailure, Pause, Slot, Step, sse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _response_id(slot: Slot) -> str:
    return f"resp_{slot.response}"


@attrs.frozen
class RawEvent(Step):
    """Any event of the stream, sent unchanged.

    Attributes:
        type: The event's name.
        fields: Its other members.
    """

    type: str
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the event."""
        yield sse(self.type, **self.fields)


@attrs.frozen
class Usage(Step):
    """The token usage that the response reports; if there are several, the last one counts.

    Attributes:
        input_tokens: Tokens of the request, including cached ones.
        output_tokens: Tokens of the response, including reasoning.
        cached_input_tokens: Tokens of the request that came from the cache.
        reasoning_output_tokens: Tokens of the response that were spent on reasoning.
    """

    input_tokens: int = 10
    output_tokens: int = 5
    cached_input_tokens: int = attrs.field(default=0, kw_only=True)
    reasoning_output_tokens: int = attrs.field(default=0, kw_only=True)

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield nothing: the numbers are sent with the end of the response."""
        yield from ()

    def as_json(self) -> dict[str, Any]:
        """Return the numbers in the form of ``response.completed``."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_input_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_output_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


@attrs.frozen
class Failed(Step):
    """End the response with ``response.failed``.

    Attributes:
        code: The error's code, such as ``"rate_limit_exceeded"`` or ``"context_length_exceeded"``.
        message: The error's text.
    """

    code: str = "server_error"
    message: str = FAILURE_MESSAGE

    @property
    def ends(self) -> bool:
        """Always true."""
        return True

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the event."""
        error = {"code": self.code, "message": self.message}
        response = {"id": _response_id(slot), "status": "failed", "error": error}
        yield sse("response.failed", response=response)


@attrs.frozen
class Incomplete(Step):
    """End the response with ``response.incomplete``.

    Attributes:
        reason: Why it is incomplete, such as ``"max_output_tokens"`` or ``"content_filter"``.
    """

    reason: str = "max_output_tokens"

    @property
    def ends(self) -> bool:
        """Always true."""
        return True

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the event."""
        details = {"reason": self.reason}
        response = {"id": _response_id(slot), "status": "incomplete", "incomplete_details": details}
        yield sse("response.incomplete", response=response)


def _check_steps(instance: Response, attribute: Any, steps: tuple[Step, ...]) -> None:
    if any(step.ends for step in steps[:-1]):
        raise ValueError("nothing can follow a step that ends the response")
    if instance.is_refusal and not all(isinstance(step, Pause) for step in steps[:-1]):
        raise ValueError("only pauses may precede an HTTPFailure")


@attrs.frozen(init=False)
class Response:
    """The model's response to one request: a sequence of steps, ended by ``response.completed`` by default.

    It is immutable: one response can answer any number of requests, each time with new ids.

    Attributes:
        steps: The steps; only the last one may end the response.
    """

    steps: tuple[Step, ...] = attrs.field(validator=_check_steps)

    if TYPE_CHECKING:

        def __attrs_init__(self, *values: Any) -> None: ...

    def __init__(self, *steps: Step) -> None:
        self.__attrs_init__(steps)

    @property
    def is_refusal(self) -> bool:
        """Whether the request is refused with an HTTP status instead of being answered with a stream."""
        return bool(self.steps) and isinstance(self.steps[-1], HTTPFailure)

    @property
    def usage(self) -> Usage:
        """The token usage that the response reports."""
        return next((step for step in reversed(self.steps) if isinstance(step, Usage)), Usage())

    def frames(self, number: int) -> Iterator[Frame]:
        """Yield the bytes to send and the pauses between them.

        Args:
            number: Number of the response, from which its ids are derived.
        """
        start = Slot(number)
        if not self.is_refusal:
            yield sse("response.created", response={"id": _response_id(start), "status": "in_progress"})
        for index, step in enumerate(self.steps):
            yield from step.frames(Slot(number, index))
        if not (self.steps and self.steps[-1].ends):
            response = {"id": _response_id(start), "status": "completed", "usage": self.usage.as_json()}
            yield sse("response.completed", response=response)
