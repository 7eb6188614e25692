"""What the emitters work from: lowered definitions, method tables, and the module of each definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_codex.wire._schema import ir
from wiregen import WiregenError

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen(kw_only=True)
class Request:
    """A request from the client."""

    method: str
    params: str | None
    result: str
    doc: str = ""
    experimental: bool = False
    deferred: bool = False
    control: bool = False


@attrs.frozen(kw_only=True)
class ServerRequest:
    """A request from the server."""

    method: str
    params: str
    response: str
    experimental: bool = False


@attrs.frozen(kw_only=True)
class Notification:
    """A notification from either side."""

    method: str
    params: str | None


@attrs.frozen(kw_only=True)
class Methods:
    """The method tables."""

    requests: tuple[Request, ...]
    server_requests: tuple[ServerRequest, ...]
    notifications: tuple[Notification, ...]
    client_notifications: tuple[Notification, ...]


@attrs.frozen(kw_only=True)
class Protocol:
    """A version of the protocol."""

    version: str
    digest: str
    definitions: Mapping[str, ir.Definition]
    methods: Methods
    home: Mapping[str, str]
    """The module of each definition."""

    def class_(self, name: str) -> ir.Class:
        """Return a definition that must be a class.

        Raises:
            WiregenError: It is not a class.
        """
        found = self.definitions[name]
        if not isinstance(found, ir.Class):
            raise WiregenError(f"{name} is not a class")
        return found
