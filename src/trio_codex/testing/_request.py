"""What the server asked: one recorded request to the model stand-in.

Owns the reading of a request's body and headers. Knows nothing of scripts and of serving.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SECRET_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "api-key", "x-api-key"})
"""Headers whose values are not kept."""

WRITTEN_BY_SERVER: Final = re.compile(r"\s*<([a-z_]+)>.*</\1>\s*", re.DOTALL)
"""What the server itself says in the user's name, such as ``<environment_context>…</environment_context>``."""


def without_secrets(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Decode HTTP headers, with lower-case names and without the values of ``SECRET_HEADERS``."""
    decoded = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
    return {name: "[redacted]" if name in SECRET_HEADERS else value for name, value in decoded}


def _texts(content: object) -> Iterator[str]:
    """Yield the texts of a message's content or of a tool's output, which may be text already."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in cast("list[Mapping[str, Any]]", content):
            if isinstance(text := part.get("text"), str):
                yield text


@attrs.define(eq=False)
class ModelRequest:
    """A request that the server made to the model, and how the answer to it ended.

    Attributes:
        number: Number of the request, from 0.
        method: The HTTP method.
        path: The path, ``/v1/responses`` for everything that can be scripted.
        headers: The headers, with lower-case names and without secrets.
        body: The JSON body; empty if there was none.
        closed: Set once the answer is over, one way or the other.
        completed: Whether the whole scripted response was sent. False while the answer is going on, and for good
            if the client went away in the middle of it (as it does when a turn is interrupted).
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
        """Name of the model that was asked for."""
        model: str | None = self.body.get("model")
        return model

    @property
    def thread_id(self) -> str | None:
        """Id of the thread that asks; a child agent has one of its own."""
        return self.headers.get("thread-id")

    @property
    def turn_id(self) -> str | None:
        """Id of the turn that asks."""
        metadata: Mapping[str, str] = self.body.get("client_metadata") or {}
        return metadata.get("turn_id")

    @property
    def input(self) -> list[Mapping[str, Any]]:
        """The items of the conversation so far."""
        items: list[Mapping[str, Any]] = self.body.get("input", [])
        return items

    @property
    def input_texts(self) -> list[str]:
        """All texts of the conversation's messages, in order, whoever wrote them."""
        messages = (item for item in self.input if item.get("type") == "message")
        return [text for item in messages for text in _texts(item.get("content"))]

    @property
    def last_user_text(self) -> str | None:
        """The last message of the user, without what the server says in the user's name."""
        for item in reversed(self.input):
            if item.get("type") == "message" and item.get("role") == "user":
                text = "\n".join(_texts(item.get("content")))
                if not WRITTEN_BY_SERVER.fullmatch(text):
                    return text
        return None

    @property
    def function_outputs(self) -> dict[str, str]:
        """What the tool calls of the conversation gave, by call id."""
        outputs = (item for item in self.input if str(item.get("type")).endswith("_call_output"))
        return {
            item["call_id"]: "\n".join(_texts(item.get("output"))) for item in outputs if "call_id" in item
        }

    @property
    def tools(self) -> list[str]:
        """Names of the tools on offer; those in a namespace as ``namespace.name``, those without a name by their type."""
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
        """The format that the final answer must have, if the turn asks for one."""
        text: Mapping[str, Any] = self.body.get("text") or {}
        return text.get("format")

    @property
    def output_schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema of the final answer, if the turn asks for one."""
        return None if self.text_format is None else self.text_format.get("schema")
