"""Convert Inspect's messages to the input of a turn, and the events of a turn to messages."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    ContentText,
    ModelOutput,
)
from inspect_ai.tool import ToolCall, ToolCallError
from inspect_ai.util import LimitExceededError

from trio_codex import ImageInput, TextInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inspect_ai.agent import AgentState
    from inspect_ai.model import ChatMessage, Content

    from trio_codex import Event, TokenUsage
    from trio_codex.inspect._record import Record

SPOKEN: Final = frozenset({"agentMessage", "plan"})
"""Items that are text from the model."""

SILENT: Final = frozenset(
    {"contextCompaction", "enteredReviewMode", "exitedReviewMode", "hookPrompt", "reasoning", "userMessage"}
)
"""Items that are neither text from the model nor tool calls."""


CUT_SECONDS: Final = 5.0
"""How long recording the rest of a turn may take. It calls no model, so only a log that cannot be written delays it."""


@attrs.frozen
class Prompt:
    """The instructions and history of a thread, and the input of its turn."""

    instructions: str
    history: list[Any]
    input: list[TextInput | ImageInput]


def prompt_of(messages: Sequence[ChatMessage]) -> Prompt:
    """Return the prompt of a sample.

    Raises:
        ValueError: The last message is not from the user, or a message contains content that cannot be sent.
    """
    instructions = "\n\n".join(message.text for message in messages if isinstance(message, ChatMessageSystem))
    rest = [message for message in messages if not isinstance(message, ChatMessageSystem)]
    first = len(rest)
    while first and isinstance(rest[first - 1], ChatMessageUser):
        first -= 1
    parts = [part for message in rest[first:] for part in _parts(message)]
    if not parts:
        raise ValueError("the last message of the sample is not from the user")
    history = [item for message in rest[:first] for item in _items(message)]
    return Prompt(instructions, history, parts)


def _parts(message: ChatMessage) -> list[TextInput | ImageInput]:
    content: Sequence[Content] = (
        [ContentText(text=message.content)] if isinstance(message.content, str) else message.content
    )
    parts: list[TextInput | ImageInput] = []
    for part in content:
        if isinstance(part, ContentText):
            parts.append(TextInput(part.text))
        elif isinstance(part, ContentImage):
            parts.append(ImageInput(_url(part.image)))
        elif not isinstance(part, ContentReasoning):
            raise ValueError(
                f"a message of the sample has content of type {part.type!r}, which Codex does not accept"
            )
    return parts


def _url(image: str) -> str:
    if image.startswith(("data:", "http://", "https://")):
        return image
    kind = mimetypes.guess_type(image)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(Path(image).read_bytes()).decode()}"


def _items(message: ChatMessage) -> list[Any]:
    """Return a message as items of the Responses API."""
    if isinstance(message, ChatMessageTool):
        output = message.text if message.error is None else f"{message.error.message}\n{message.text}"
        return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": output}]
    mine = "output_text" if isinstance(message, ChatMessageAssistant) else "input_text"
    content = [
        {"type": mine, "text": part.text}
        if isinstance(part, TextInput)
        else {"type": "input_image", "image_url": part.url}
        for part in _parts(message)
    ]
    items: list[Any] = [{"type": "message", "role": message.role, "content": content}] if content else []
    for call in (message.tool_calls or ()) if isinstance(message, ChatMessageAssistant) else ():
        arguments = json.dumps(call.arguments)
        items.append(
            {"type": "function_call", "call_id": call.id, "name": call.function, "arguments": arguments}
        )
    return items


class Conversation:
    """Appends the content of a turn to the messages of a sample.

    The server reports usage after each response from the model, before or after its calls have ended. The text and calls
    since the previous response are one message. The result of a call follows the message with the call.

    Args:
        state: The state of the agent.
        record: Where responses are recorded.
    """

    def __init__(self, state: AgentState, record: Record) -> None:
        self._state = state
        self._record = record
        self._content: list[Content] = []
        self._calls: dict[str, ToolCall] = {}
        self._known: set[str] = set()
        self._results: list[ChatMessageTool] = []

    async def feed(self, event: Event, usage: TokenUsage | None) -> None:
        """Process an event of the turn, with the turn's usage so far.

        Raises:
            LimitExceededError: An Inspect limit is exceeded.
        """
        await trio.lowlevel.checkpoint()
        if event.method == "thread/tokenUsage/updated":
            await self._flush(usage)
        elif event.method in ("item/started", "item/completed"):
            item: Any = event.raw.get("item") if isinstance(event.raw, Mapping) else None
            if isinstance(item, Mapping):
                self._take(cast("Mapping[str, Any]", item), is_done=event.method == "item/completed")

    async def finish(self, final_response: str | None, usage: TokenUsage | None) -> None:
        """Record the rest, and set the output.

        Raises:
            LimitExceededError: An Inspect limit is exceeded.
        """
        await self._flush(usage)
        self._append_results()
        output = self._state.output
        if final_response is not None and output.completion != final_response:
            self._state.output = ModelOutput.from_content(output.model, final_response)

    async def cut(self, usage: TokenUsage | None) -> None:  # noqa: ASYNC910  # must not be cancelled
        """Record the rest of a turn that was cut short, whether or not it exceeds a limit."""
        with trio.move_on_after(CUT_SECONDS, shield=True), suppress(LimitExceededError):
            await self._flush(usage)

    def _take(self, item: Mapping[str, Any], *, is_done: bool) -> None:
        kind, identity = str(item.get("type")), str(item.get("id"))
        if kind in SPOKEN:
            if is_done:
                self._content.append(ContentText(text=str(item.get("text", ""))))
        elif kind == "reasoning":
            text = "\n\n".join(map(str, item.get("content") or item.get("summary") or ()))
            if is_done and text:
                self._content.append(ContentReasoning(reasoning=text))
        elif kind not in SILENT:
            if identity not in self._known:
                self._known.add(identity)
                self._calls[identity] = _call_of(identity, kind, item)
            if is_done:
                self._results.append(_result_of(identity, kind, item))
                if identity not in self._calls:
                    self._append_results()

    async def _flush(self, usage: TokenUsage | None) -> None:
        """Record a response from the model, if there was one."""
        await trio.lowlevel.checkpoint()
        messages, message = self._state.messages, self._message()
        if message is not None:
            try:
                self._state.output = await self._record.response(list(messages), message, usage)
            except LimitExceededError:
                with suppress(LimitExceededError):  # of messages
                    messages.append(message)
                raise
            messages.append(self._state.output.message)
        self._append_results()

    def _message(self) -> ChatMessageAssistant | None:
        """Return the model's text and calls since the last message as a message, or ``None`` if there are none."""
        content, calls = self._content, list(self._calls.values())
        self._content, self._calls = [], {}
        if not content and not calls:
            return None
        said: str | list[Content] = content or ""
        if len(content) == 1 and isinstance(content[0], ContentText):
            said = content[0].text
        return ChatMessageAssistant(
            content=said, tool_calls=calls or None, source="generate", model=self._record.model
        )

    def _append_results(self) -> None:
        results, self._results = self._results, []
        self._state.messages.extend(results)


def _call_of(identity: str, kind: str, item: Mapping[str, Any]) -> ToolCall:
    names: tuple[str, ...]
    match kind:
        case "commandExecution":
            function, names = "exec_command", ("command", "cwd")
        case "fileChange":
            function, names = "apply_patch", ("changes",)
        case "webSearch":
            function, names = "web_search", ("query",)
        case "mcpToolCall" | "dynamicToolCall":
            where = item.get("server") or item.get("namespace")
            function = f"{where}.{item.get('tool')}" if where else str(item.get("tool"))
            given = item.get("arguments")
            arguments = (
                dict(cast("Mapping[str, Any]", given)) if isinstance(given, Mapping) else {"input": given}
            )
            return ToolCall(id=identity, function=function, arguments=arguments)
        case _:
            function, names = kind, tuple(name for name in item if name not in ("id", "type"))
    return ToolCall(id=identity, function=function, arguments={name: item.get(name) for name in names})


def _result_of(identity: str, kind: str, item: Mapping[str, Any]) -> ChatMessageTool:
    """Return the result of a call. A failed command is a result; a declined one is an error."""
    status = str(item.get("status"))
    text, error = "", None
    if kind == "commandExecution":
        text = str(item.get("aggregatedOutput") or "")
        if item.get("exitCode"):
            text = f"{text.rstrip()}\nexit status {item['exitCode']}".lstrip()
    elif kind == "mcpToolCall":
        text = _text_of(_members(item.get("result")).get("content"))
    elif kind == "dynamicToolCall":
        text = _text_of(item.get("contentItems"))
    if status == "declined":
        error = ToolCallError("approval", "the client did not allow it")
    elif status == "failed" and kind != "commandExecution":
        error = ToolCallError(
            "unknown", str(_members(item.get("error")).get("message") or text or "it failed")
        )
    function = _call_of(identity, kind, item).function
    return ChatMessageTool(content=text, tool_call_id=identity, function=function, error=error)


def _members(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _text_of(content: object) -> str:
    parts = cast("list[object]", content) if isinstance(content, list) else []
    return "\n".join(str(text) for part in parts if (text := _members(part).get("text")) is not None)
