"""The script of a conversation: a queue of responses, and one line for each thing a model commonly does.

Owns the order in which responses are handed out. Knows requests only to tell whose turn it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import attrs

from ._request import ModelRequest
from ._script import (
    COMMAND_YIELD_MS,
    Command,
    Failed,
    Incomplete,
    Part,
    Patch,
    Permissions,
    Phase,
    Plan,
    PlanStatus,
    Question,
    Response,
    Text,
    ToolCall,
    Usage,
    UserInput,
)
from ._steps import FAILURE_MESSAGE, Cut, Gate, Hang, HTTPFailure, Step

Match: TypeAlias = str | Callable[[ModelRequest], bool]
"""Which requests a script answers: those whose last user message has this text in it, or a predicate."""


@attrs.define(eq=False)
class Script:
    """Responses that wait to be asked for, first come, first served.

    Attributes:
        default: What to answer once the responses are used up; ``None`` makes such a request fail.
    """

    default: Response | None = attrs.field(default=None, kw_only=True)
    _responses: deque[Response] = attrs.field(factory=deque[Response], init=False)
    _held_by: Gate | None = attrs.field(default=None, init=False)

    @property
    def left(self) -> int:
        """How many responses have not been asked for yet."""
        return len(self._responses)

    def respond(self, *steps: Step) -> None:
        """Answer the next request with these steps.

        Raises:
            ValueError: If a step stands behind one that ends the response, or anything but pauses before an
                ``HTTPFailure``.
        """
        self._responses.append(Response(*self._hold(steps)))

    def gate(self) -> Gate:
        """Hold back the next response that is queued here until the returned gate is opened.

        To wait in the middle of a response, put a ``Gate()`` of your own between its steps or deltas.
        """
        self._held_by = Gate()
        return self._held_by

    def say(
        self, *parts: Part, phase: Phase | None = None, delay: float = 0.0, usage: Usage | None = None
    ) -> None:
        """Answer with a message.

        Args:
            parts: Its deltas, and pauses between them.
            phase: What the message is for.
            delay: Seconds between two deltas.
            usage: The tokens that the response claims to have used.
        """
        self.respond(Text(*parts, phase=phase, delay=delay), usage or Usage())

    def run_command(
        self,
        *cmds: str,
        escalate: str | None = None,
        workdir: str | None = None,
        yield_time_ms: int = COMMAND_YIELD_MS,
    ) -> None:
        """Answer with a shell command, or with several at once.

        The server asks the model again with what came out, so queue what the model says then.

        Args:
            cmds: The command lines.
            escalate: Ask the client to let them run outside the sandbox, for this reason.
            workdir: Directory to run them in, if not the thread's.
            yield_time_ms: How long the server waits for each, in milliseconds, before it goes on without it.
        """
        self.respond(
            *(Command(cmd, escalate=escalate, workdir=workdir, yield_time_ms=yield_time_ms) for cmd in cmds)
        )

    def apply_patch(self, patch: str) -> None:
        """Answer with a change of files.

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
            steps: The plan's steps, in order, and how far each has come.
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
            network: Whether to ask for the network.
        """
        self.respond(Permissions(reason, read=tuple(read), write=tuple(write), network=network))

    def call_tool(
        self, name: str, arguments: Mapping[str, Any] | str | None = None, *, namespace: str | None = None
    ) -> None:
        """Answer with a call of a tool: one of the server's own, a dynamic tool or one of an MCP server.

        Args:
            name: The tool's name.
            arguments: Its arguments; a ``str`` is sent as it is, valid JSON or not.
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
        """Refuse with an HTTP status.

        Args:
            status: The HTTP status.
            error: ``type`` and ``code`` of the error object in the body, such as ``"usage_limit_reached"``.
            message: ``message`` of the error object in the body.
            body: The whole body, instead of an error object.
            headers: Further headers, such as ``retry-after``.
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
            clean: End the body as HTTP asks for; otherwise the connection is closed in the middle of it.
        """
        self.respond(Text(*parts, Cut(clean)) if parts else Cut(clean))

    def hang(self, *parts: Part) -> None:
        """Keep the stream open and say nothing more, in the middle of a message if there are ``parts``.

        Args:
            parts: The message's deltas, and pauses between them.
        """
        self.respond(Text(*parts, Hang()) if parts else Hang())

    def take(self) -> Response | None:
        """Hand out the next response: the default one if the others are used up."""
        return self._responses.popleft() if self._responses else self.default

    def _hold(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Put the gate that waits for a response before the steps of one."""
        gate, self._held_by = self._held_by, None
        return steps if gate is None else (gate, *steps)


@attrs.define(eq=False)
class Route(Script):
    """A script for the requests that it claims.

    Attributes:
        match: Text that the last message of the user must contain, or a predicate on the request.
        thread_id: Id of the thread that must be asking.
    """

    match: Match | None = attrs.field(default=None, kw_only=True)
    thread_id: str | None = attrs.field(default=None, kw_only=True)

    def claims(self, request: ModelRequest) -> bool:
        """Tell whether the request is for this script.

        Raises:
            Exception: Whatever a predicate of the test's own raises.
        """
        if self.thread_id is not None and request.thread_id != self.thread_id:
            return False
        if isinstance(self.match, str):
            return self.match in (request.last_user_text or "")
        return self.match is None or self.match(request)
