"""The output items of a scripted response: messages, reasoning, and tool calls.

These are all values: nothing here sends or waits.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs

from ._steps import Cut, Delay, Frame, Pause, Slot, Step, sse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Phase: TypeAlias = Literal["commentary", "final_answer"]
"""The phase of an agent message; the client sees it as the item's ``phase``."""

Part: TypeAlias = str | Pause | Cut
"""A delta of a streamed item, or a pause or cut between deltas."""

PlanStatus: TypeAlias = Literal["pending", "in_progress", "completed"]
"""Status of a step of a plan."""

COMMAND_YIELD_MS: Final = 10_000
"""How long the server waits for a command, in milliseconds; a slower one becomes a background terminal."""


def _item_added(slot: Slot, item: Mapping[str, Any]) -> bytes:
    return sse("response.output_item.added", output_index=slot.index, item=item)


def _item_done(slot: Slot, item: Mapping[str, Any]) -> bytes:
    return sse("response.output_item.done", output_index=slot.index, item=item)


def _ends(part: Part) -> bool:
    return not isinstance(part, str) and part.ends


def _check_parts(instance: Step, attribute: Any, parts: tuple[Part, ...]) -> None:
    if any(_ends(part) for part in parts[:-1]):
        raise ValueError("nothing can follow a part that ends the response")


@attrs.frozen(init=False)
class _Streamed(Step):
    """An item whose text is streamed in parts.

    Attributes:
        parts: The deltas, and pauses between them. A part that ends the response leaves the item unfinished.
        delay: Seconds between deltas.
    """

    parts: tuple[Part, ...] = attrs.field(validator=_check_parts)
    delay: float = 0.0

    if TYPE_CHECKING:
        # attrs generates it for classes with ``init=False``; type checkers do not know that
        def __attrs_init__(self, *values: Any) -> None: ...

    @property
    def ends(self) -> bool:
        """Whether the last part ends the response."""
        return bool(self.parts) and _ends(self.parts[-1])

    @property
    def text(self) -> str:
        """All deltas together."""
        return "".join(part for part in self.parts if isinstance(part, str))

    def _deltas(self, slot: Slot, event_type: str, **fields: Any) -> Iterator[Frame]:
        for position, part in enumerate(self.parts):
            if not isinstance(part, str):
                yield part
                continue
            if position and self.delay:
                yield Delay(self.delay)
            yield sse(event_type, output_index=slot.index, delta=part, **fields)


@attrs.frozen(init=False)
class Text(_Streamed):
    """An agent message that is streamed in deltas.

    ``Text("he", Gate(), "llo")`` pauses in the middle of the message; ``Text("he", Cut())`` never finishes it.

    Attributes:
        phase: The message's phase, if the model reports one.
    """

    phase: Phase | None = None

    def __init__(self, *parts: Part, phase: Phase | None = None, delay: float = 0.0) -> None:
        self.__attrs_init__(parts, delay, phase)

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the message's start, its deltas and, unless a part ends the response, the whole message."""
        item: dict[str, Any] = {
            "type": "message",
            "role": "assistant",
            "id": slot.make_id("msg"),
            "content": [],
        }
        if self.phase is not None:
            item["phase"] = self.phase
        yield _item_added(slot, item)
        yield from self._deltas(slot, "response.output_text.delta", item_id=item["id"], content_index=0)
        if not self.ends:
            yield _item_done(slot, {**item, "content": [{"type": "output_text", "text": self.text}]})


@attrs.frozen(init=False)
class Reasoning(_Streamed):
    """A reasoning item whose summary is one part, streamed in deltas."""

    def __init__(self, *parts: Part, delay: float = 0.0) -> None:
        self.__attrs_init__(parts, delay)

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the item's start, the summary's deltas and, unless a part ends the response, the whole item."""
        item: dict[str, Any] = {"type": "reasoning", "id": slot.make_id("rs"), "summary": []}
        place = {"item_id": item["id"], "summary_index": 0}
        yield _item_added(slot, item)
        yield sse(
            "response.reasoning_summary_part.added",
            output_index=slot.index,
            part={"type": "summary_text", "text": ""},
            **place,
        )
        yield from self._deltas(slot, "response.reasoning_summary_text.delta", **place)
        if not self.ends:
            yield _item_done(slot, {**item, "summary": [{"type": "summary_text", "text": self.text}]})


@attrs.frozen
class ToolCall(Step):
    """A call to a function tool: built-in, dynamic, or from an MCP server.

    Attributes:
        name: The tool's name.
        arguments: Its arguments; a ``str`` is sent unchanged, valid JSON or not.
        namespace: Namespace of a dynamic tool, or ``mcp__<server>`` for a tool of an MCP server.
        call_id: Id of the call; by default one that is unique within this mock model.
    """

    name: str
    arguments: Mapping[str, Any] | str = attrs.field(factory=dict[str, Any])
    namespace: str | None = attrs.field(default=None, kw_only=True)
    call_id: str | None = attrs.field(default=None, kw_only=True)

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the finished call."""
        arguments = self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)
        item = {
            "type": "function_call",
            "id": slot.make_id("fc"),
            "call_id": self.call_id or slot.make_id("call"),
            "name": self.name,
            "arguments": arguments,
        }
        if self.namespace is not None:
            item["namespace"] = self.namespace
        yield _item_done(slot, item)


@attrs.frozen
class Command(Step):
    """A shell command.

    Attributes:
        cmd: The command line.
        escalate: Ask the client to let the command run outside the sandbox, for this reason.
        workdir: Directory to run it in, if not the thread's.
        yield_time_ms: How long the server waits for it, in milliseconds, before it continues without it.
        login: Run it in a login shell.
        tty: Run it in a pseudo-terminal.
        call_id: Id of the call, and so of the item; by default a unique one.
    """

    cmd: str
    escalate: str | None = attrs.field(default=None, kw_only=True)
    workdir: str | None = attrs.field(default=None, kw_only=True)
    yield_time_ms: int = attrs.field(default=COMMAND_YIELD_MS, kw_only=True)
    login: bool = attrs.field(default=False, kw_only=True)
    tty: bool = attrs.field(default=False, kw_only=True)
    call_id: str | None = attrs.field(default=None, kw_only=True)

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the call of ``exec_command``."""
        arguments: dict[str, Any] = {
            "cmd": self.cmd,
            "login": self.login,
            "yield_time_ms": self.yield_time_ms,
        }
        if self.tty:
            arguments["tty"] = True
        if self.workdir is not None:
            arguments["workdir"] = self.workdir
        if self.escalate is not None:
            arguments |= {"sandbox_permissions": "require_escalated", "justification": self.escalate}
        return ToolCall("exec_command", arguments, call_id=self.call_id).frames(slot)


@attrs.frozen
class Patch(Step):
    """A file change through ``apply_patch``, which the server offers only to models in its catalog.

    Attributes:
        patch: The patch, from ``*** Begin Patch`` to ``*** End Patch``.
        call_id: Id of the call, and so of the item; by default a unique one.
    """

    patch: str
    call_id: str | None = attrs.field(default=None, kw_only=True)

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the finished call."""
        item = {
            "type": "custom_tool_call",
            "id": slot.make_id("ctc"),
            "call_id": self.call_id or slot.make_id("call"),
            "name": "apply_patch",
            "input": self.patch,
        }
        yield _item_done(slot, item)


@attrs.frozen(init=False)
class Question:
    """A question to the user.

    Attributes:
        key: Key of the answer.
        question: The question itself.
        options: Labels to choose from.
        header: A title of a few words.
    """

    key: str
    question: str
    options: tuple[str, ...]
    header: str

    if TYPE_CHECKING:

        def __attrs_init__(self, *values: Any) -> None: ...

    def __init__(self, key: str, question: str, *options: str, header: str | None = None) -> None:
        self.__attrs_init__(key, question, options or ("Yes", "No"), key if header is None else header)

    def as_json(self) -> dict[str, Any]:
        """Return the question in the form of the tool's arguments."""
        options = [{"label": label, "description": label} for label in self.options]
        return {"id": self.key, "header": self.header, "question": self.question, "options": options}


@attrs.frozen(init=False)
class UserInput(Step):
    """One or more questions to the user, through ``request_user_input``.

    The server offers this tool in Plan mode, or with its feature ``default_mode_request_user_input``.

    Attributes:
        questions: The questions; a mapping is sent unchanged.
        call_id: Id of the call; by default a unique one.
    """

    questions: tuple[Question | Mapping[str, Any], ...]
    call_id: str | None

    if TYPE_CHECKING:

        def __attrs_init__(self, *values: Any) -> None: ...

    def __init__(self, *questions: Question | Mapping[str, Any], call_id: str | None = None) -> None:
        self.__attrs_init__(questions, call_id)

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the call of ``request_user_input``."""
        questions = [each.as_json() if isinstance(each, Question) else each for each in self.questions]
        return ToolCall("request_user_input", {"questions": questions}, call_id=self.call_id).frames(slot)


@attrs.frozen
class Permissions(Step):
    """A request for more permissions. It needs the server feature ``request_permissions_tool``.

    Attributes:
        reason: Why the model wants them.
        read: Absolute paths to read.
        write: Absolute paths to write.
        network: Whether to ask for network access.
        call_id: Id of the call; by default a unique one.
    """

    reason: str
    read: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    write: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    network: bool = attrs.field(default=False, kw_only=True)
    call_id: str | None = attrs.field(default=None, kw_only=True)

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the call of ``request_permissions``."""
        wanted: dict[str, Any] = {}
        paths = {kind: list(each) for kind, each in (("read", self.read), ("write", self.write)) if each}
        if paths:
            wanted["file_system"] = paths
        if self.network:
            wanted["network"] = {"enabled": True}
        arguments = {"reason": self.reason, "permissions": wanted}
        return ToolCall("request_permissions", arguments, call_id=self.call_id).frames(slot)


@attrs.frozen
class Plan(Step):
    """An update of the plan. It needs the server configuration ``tools = {"update_plan": {"enabled": True}}``.

    Attributes:
        steps: The plan's steps, in order, with the status of each.
        explanation: Why the plan changes.
        call_id: Id of the call; by default a unique one.
    """

    steps: Mapping[str, PlanStatus]
    explanation: str | None = attrs.field(default=None, kw_only=True)
    call_id: str | None = attrs.field(default=None, kw_only=True)

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the call of ``update_plan``."""
        arguments: dict[str, Any] = {
            "plan": [{"step": step, "status": how} for step, how in self.steps.items()]
        }
        if self.explanation is not None:
            arguments["explanation"] = self.explanation
        return ToolCall("update_plan", arguments, call_id=self.call_id).frames(slot)


@attrs.frozen
class RawItem(Step):
    """Any finished output item, sent unchanged.

    Attributes:
        item: The item, with its ``type``.
    """

    item: Mapping[str, Any]

    def frames(self, slot: Slot) -> Iterator[Frame]:
        """Yield the item."""
        yield _item_done(slot, self.item)
