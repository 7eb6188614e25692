"""The script of a conversation: a queue of responses, with one method for each thing a model commonly does.

Determines the order of responses. A request only selects the script that answers it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import attrs

from ._items import (
    COMMAND_YIELD_MS,
    Command,
    Part,
    Patch,
    Permissions,
    Phase,
    Plan,
    PlanStatus,
    Question,
    Text,
    ToolCall,
    UserInput,
)
from ._request import ModelRequest
from ._response import Failed, Incomplete, Response, Usage
from ._steps import FAILURE_MESSAGE, Cut, Gate, Hang, HTTPFailure, Step

Match: TypeAlias = str | Callable[[ModelRequest], bool]
"""Selects the requests that a script answers: text that the last user message contains, or a predicate."""


@attrs.define(eq=False)
class Script:
    """A queue of responses, sent in order.

    Attributes:
        default: The response to send once the queue is empty; with ``None``, such a request fails.
    """

    default: Response | None = attrs.field(default=None, kw_only=True)
    _responses: deque[Response] = attrs.field(factory=deque[Response], init=False)
    _held_by: Gate | None = attrs.field(default=None, init=False)

    @property
    def left(self) -> int:
        """The number of responses that have not been requested yet."""
        return len(self._responses)

    def respond(self, *steps: Step) -> None:
        """Answer the next request with these steps.

        Raises:
            ValueError: A step follows one that ends the response, or anything but a pause precedes an
                ``HTTPFailure``.
        """
        self._responses.append(Response(*self._hold(steps)))

    def gate(self) -> Gate:
        """Delay the next response that is queued here until the returned gate is opened.

        To pause in the middle of a response, put a ``Gate()`` between its steps or deltas.
        """
        self._held_by = Gate()
        return self._held_by

    def say(
        self, *parts: Part, phase: Phase | None = None, delay: float = 0.0, usage: Usage | None = None
    ) -> None:
        """Answer with a message.

        Args:
            parts: The message's deltas, and pauses between them.
            phase: The message's phase.
            delay: Seconds between deltas.
            usage: The token usage that the response reports.
        """
        self.respond(Text(*parts, phase=phase, delay=delay), usage or Usage())

    def run_command(
        self,
        *cmds: str,
        escalate: str | None = None,
        workdir: str | None = None,
        yield_time_ms: int = COMMAND_YIELD_MS,
    ) -> None:
        """Answer with one or more shell commands.

        The server sends their output to the model in another request, so queue a response for that, too.

        Args:
            cmds: The command lines.
            escalate: Ask the client to let them run outside the sandbox, for this reason.
            workdir: Directory to run them in, if not the thread's.
            yield_time_ms: How long the server waits for each, in milliseconds, before it continues without it.
        """
        self.respond(
            *(Command(cmd, escalate=escalate, workdir=workdir, yield_time_ms=yield_time_ms) for cmd in cmds)
        )

    def apply_patch(self, patch: str) -> None:
        """Answer with a file change.

        Args:
            patch: The patch, from ``*** Begin Patch`` to ``*** End Patch``.
        """
        self.respond(Patch(patch))

    def ask_user(self, *questions: Question | Mapping[str, Any]) -> None:
        """Answer with questions to the user (see ``UserInput`` for what the server needs)."""
        self.respond(UserInput(*questions))

    def update_plan(self, steps: Mapping[str, PlanStatus], *, explanation: str | None = None) -> None:
        """Answer with an update of the plan (see ``Plan`` for what the server needs).

        Args:
            steps: The plan's steps, in order, with the status of each.
            explanation: Why the plan changes.
        """
        self.respond(Plan(steps, explanation=explanation))

    def request_permissions(
        self, reason: str, *, read: Iterable[str] = (), write: Iterable[str] = (), network: bool = False
    ) -> None:
        """Answer with a request for more permissions (see ``Permissions`` for what the server needs).

        Args:
            reason: Why the model wants them.
            read: Absolute paths to read.
            write: Absolute paths to write.
            network: Whether to ask for network access.
        """
        self.respond(Permissions(reason, read=tuple(read), write=tuple(write), network=network))

    def call_tool(
        self, name: str, arguments: Mapping[str, Any] | str | None = None, *, namespace: str | None = None
    ) -> None:
        """Answer with a call to a built-in, dynamic or MCP tool.

        Args:
            name: The tool's name.
            arguments: Its arguments; a ``str`` is sent unchanged, valid JSON or not.
            namespace: Namespace of a dynamic tool, or ``mcp__<server>``.
        """
        self.respond(ToolCall(name, {} if arguments is None else arguments, namespace=namespace))

    def fail(
        self,
        status: int = 500,
        *,
        error: str | None = None,
        message: str = FAILURE_MESSAGE,
        body: Mapping[str, Any] | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Refuse the request with an HTTP status.

        Args:
            status: The HTTP status.
            error: ``type`` and ``code`` of the error object in the body, such as ``"usage_limit_reached"``.
            message: ``message`` of the error object in the body.
            body: The whole body, instead of an error object.
            headers: Additional headers, such as ``retry-after``.
        """
        self.respond(HTTPFailure(status, error=error, message=message, body=body, headers=headers or {}))

    def fail_event(self, code: str = "server_error", message: str = FAILURE_MESSAGE) -> None:
        """Answer with ``response.failed``.

        Args:
            code: The error's code, such as ``"rate_limit_exceeded"`` or ``"context_length_exceeded"``.
            message: The error's text.
        """
        self.respond(Failed(code, message))

    def incomplete(self, *parts: Part, reason: str = "max_output_tokens") -> None:
        """Answer with ``response.incomplete``, after a message if there are ``parts``.

        Args:
            parts: The message's deltas, and pauses between them.
            reason: Why the response is incomplete.
        """
        self.respond(*([Text(*parts)] if parts else []), Incomplete(reason))

    def cut(self, *parts: Part, clean: bool = True) -> None:
        """End the stream without ``response.completed``, in the middle of a message if there are ``parts``.

        Args:
            parts: The message's deltas, and pauses between them.
            clean: Whether to end the body as HTTP requires; otherwise the connection closes mid-body.
        """
        self.respond(Text(*parts, Cut(clean)) if parts else Cut(clean))

    def hang(self, *parts: Part) -> None:
        """Keep the stream open and send nothing more, in the middle of a message if there are ``parts``.

        Args:
            parts: The message's deltas, and pauses between them.
        """
        self.respond(Text(*parts, Hang()) if parts else Hang())

    def take(self) -> Response | None:
        """Return the next response, or the default one if the queue is empty."""
        return self._responses.popleft() if self._responses else self.default

    def _hold(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Put the pending gate, if there is one, before the steps of this response."""
        gate, self._held_by = self._held_by, None
        return steps if gate is None else (gate, *steps)


@attrs.define(eq=False)
class Route(Script):
    """A script for the requests that it claims.

    Attributes:
        match: Text that the last user message must contain, or a predicate on the request.
        thread_id: The id of the thread that must send the request.
    """

    match: Match | None = attrs.field(default=None, kw_only=True)
    thread_id: str | None = attrs.field(default=None, kw_only=True)

    def claims(self, request: ModelRequest) -> bool:
        """Return whether this script claims the request.

        Raises:
            Exception: Whatever a custom predicate raises.
        """
        if self.thread_id is not None and request.thread_id != self.thread_id:
            return False
        if isinstance(self.match, str):
            return self.match in (request.last_user_text or "")
        return self.match is None or self.match(request)
