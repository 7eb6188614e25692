"""One recorded request from the server to the mock model: parses its body and headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SECRET_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "api-key", "x-api-key"})
"""Headers whose values are not stored."""

WRITTEN_BY_SERVER: Final = re.compile(r"\s*<([a-z_]+)>.*</\1>\s*", re.DOTALL)
"""User messages that the server writes itself, such as ``<environment_context>…</environment_context>``."""

GOAL_CONTINUES: Final = '<codex_internal_context source="goal">'
"""The start of the message that the server writes in each turn of a goal."""


def without_secrets(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Decode HTTP headers, with lower-case names and without the values of ``SECRET_HEADERS``."""
    decoded = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
    return {name: "[redacted]" if name in SECRET_HEADERS else value for name, value in decoded}


def _texts(content: object) -> Iterator[str]:
    """Yield the texts of a message's content or a tool's output, either of which may be a plain string."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in cast("list[Mapping[str, Any]]", content):
            if isinstance(text := part.get("text"), str):
                yield text


@attrs.define(eq=False)
class ModelRequest:
    """A request from the server to the model, and how the response to it ended.

    Attributes:
        number: Number of the request, starting at 0.
        method: The HTTP method.
        path: The path: ``/v1/responses`` for every request that can be scripted.
        headers: The headers, with lower-case names and without secrets.
        body: The JSON body; empty if there was none.
        closed: Set once the response has ended, completely or not.
        completed: Whether the whole scripted response was sent. False while it is being sent, and stays false if the
            client disconnects before the end, as it does when a turn is interrupted.
    """

    number: int
    method: str
    path: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: Mapping[str, Any] = attrs.field(repr=False)
    closed: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)
    completed: bool = attrs.field(default=False, init=False)

    @property
    def model(self) -> str | None:
        """Name of the requested model."""
        model: str | None = self.body.get("model")
        return model

    @property
    def thread_id(self) -> str | None:
        """Id of the requesting thread; a child agent has its own."""
        return self.headers.get("thread-id")

    @property
    def turn_id(self) -> str | None:
        """Id of the requesting turn."""
        metadata: Mapping[str, str] = self.body.get("client_metadata") or {}
        return metadata.get("turn_id")

    @property
    def input(self) -> list[Mapping[str, Any]]:
        """The items of the conversation so far."""
        items: list[Mapping[str, Any]] = self.body.get("input", [])
        return items

    @property
    def input_texts(self) -> list[str]:
        """All texts of the conversation's messages, in order, from all roles."""
        messages = (item for item in self.input if item.get("type") == "message")
        return [text for item in messages for text in _texts(item.get("content"))]

    @property
    def last_user_text(self) -> str | None:
        """The last user message, ignoring those that the server writes itself.

        In a turn of a goal, it contains the objective.
        """
        for number, item in reversed([*enumerate(self.input)]):
            if item.get("type") == "message" and item.get("role") == "user":
                text = "\n".join(_texts(item.get("content")))
                if text.startswith(GOAL_CONTINUES):
                    return "\n".join([*self._objective(number), text])
                if not WRITTEN_BY_SERVER.fullmatch(text):
                    return text
        return None

    def _objective(self, end: int) -> Iterator[str]:
        """Yield the objective of the goal, which servers since 0.171.0 send as a separate item."""
        for item in reversed(self.input[:end]):
            if item.get("name") == "goal_objective":
                yield from _texts(item.get("output"))
                return

    @property
    def function_outputs(self) -> dict[str, str]:
        """The outputs of the conversation's tool calls, by call id."""
        outputs = (item for item in self.input if str(item.get("type")).endswith("_call_output"))
        return {
            item["call_id"]: "\n".join(_texts(item.get("output"))) for item in outputs if "call_id" in item
        }

    @property
    def tools(self) -> list[str]:
        """Names of the available tools, as ``namespace.name`` within a namespace, or the type if there is no name."""
        names: list[str] = []
        for tool in self.body.get("tools", []):
            name = tool.get("name") or tool.get("type")
            if tool.get("type") == "namespace":
                names += [f"{name}.{each['name']}" for each in tool.get("tools", [])]
            else:
                names.append(name)
        return names

    @property
    def text_format(self) -> Mapping[str, Any] | None:
        """The format required of the final answer, if the turn has one."""
        text: Mapping[str, Any] = self.body.get("text") or {}
        return text.get("format")

    @property
    def output_schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema of the final answer, if the turn has one."""
        return None if self.text_format is None else self.text_format.get("schema")
