"""The metadata that a server reports about itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from trio_codex import wire


@attrs.frozen(kw_only=True)
class ServerMetadata:
    """The metadata that a server reports about itself.

    Attributes:
        user_agent: The user agent it sends to the model provider.
        server_version: Its version, parsed from the user agent; ``None`` if the user agent has another form.
        codex_home: Its ``CODEX_HOME``.
        platform_family: ``"unix"`` or ``"windows"``.
        platform_os: ``"linux"``, ``"macos"``, …
    """

    user_agent: str
    server_version: str | None
    codex_home: str | None
    platform_family: str | None
    platform_os: str | None

    @classmethod
    def of(cls, response: wire.InitializeResponse) -> ServerMetadata:
        """Create it from the response to ``initialize``. The version is taken from the user agent."""
        version = re.search(r"/(\d+\.\d+\.\d+[0-9A-Za-z.+-]*)", response.user_agent)
        return cls(
            user_agent=response.user_agent,
            server_version=version[1] if version else None,
            codex_home=response.codex_home,
            platform_family=response.platform_family,
            platform_os=response.platform_os,
        )
