"""Row types of the generated method tables in :mod:`trio_codex.wire._registry`."""

from __future__ import annotations

from typing import NamedTuple


class RequestSpec(NamedTuple):
    """A request from the client."""

    params: str | None
    """The wire type of ``params``; ``None`` if the method has no params."""
    result: str
    """The wire type of the result."""
    experimental: bool = False
    """Available only to clients that declare ``experimentalApi``."""
    deferred: bool = False
    """The response arrives when an operation completes. The request does not count toward the window and has no timeout."""
    control: bool = False
    """It stops a running operation or sends it input, and must not wait for a free slot in the request window."""
    since: str | None = None
    """The first release of the server that has it; ``None`` if all tested releases do."""


class ServerRequestSpec(NamedTuple):
    """A request from the server."""

    params: str
    """The wire type of ``params``."""
    response: str
    """The wire type of the response."""
    experimental: bool = False
    """Sent only to clients that declare ``experimentalApi``."""


class TextDelta(NamedTuple):
    """A notification that carries a chunk of text. Adjacent ones with the same key can be merged."""

    text: str
    """The wire name of the chunk."""
    key: tuple[str, ...]
    """The wire names that identify the text it belongs to."""
