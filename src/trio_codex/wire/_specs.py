"""The row types of the generated method tables in :mod:`trio_codex.wire._registry`."""

from __future__ import annotations

from typing import NamedTuple


class RequestSpec(NamedTuple):
    """One request of the client."""

    params: str | None
    """The wire type of ``params``; ``None`` if the method takes none."""
    result: str
    """The wire type of the result."""
    experimental: bool = False
    """Only served to a client that declared ``experimentalApi``."""
    deferred: bool = False
    """Answered when something has finished, not at once: no place in the request window, no request timeout."""
    control: bool = False
    """Ends or feeds something that is running: it must not wait for a place in the request window."""


class ServerRequestSpec(NamedTuple):
    """One request of the server."""

    params: str
    """The wire type of ``params``."""
    response: str
    """The wire type of the answer."""
    experimental: bool = False
    """Only sent to a client that declared ``experimentalApi``."""


class TextDelta(NamedTuple):
    """A notification that carries a piece of plain text, so that neighbours with one key can be merged."""

    text: str
    """The wire name of the piece."""
    key: tuple[str, ...]
    """The wire names that say what it is a piece of."""
