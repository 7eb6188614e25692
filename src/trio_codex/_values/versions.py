"""Options that require a newer server, because an older one would silently ignore them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from trio_codex.errors import ServerTooOld

if TYPE_CHECKING:
    from trio_codex import wire

NEEDED: Final = {
    "tool_output": ("an ExternalMessage", "0.151.0"),
    "turn_trigger": ("source", "0.151.0"),
    "service_tier_for_turn": ("turn_service_tier", "0.151.0"),
}
"""Members of ``turn/start`` with their public names, and the first server version that supports them."""


def check_turn(params: wire.TurnStartParams, version: str | None) -> None:
    """Check that a server supports the options of a turn.

    A server that does not report its version, or is a build without one (0.0.0), is assumed to support everything.

    Raises:
        ServerTooOld: The server would ignore an option.
    """
    found = None if version is None else _numbers(version)
    if version is None or not found or not any(found):
        return
    for member, (what, needed) in NEEDED.items():
        # Pre-releases of 0.151.0, such as 0.151.0-alpha.1, may not support it yet.
        enough = found > _numbers(needed) or (found == _numbers(needed) and "-" not in version)
        if getattr(params, member) is not None and not enough:
            raise ServerTooOld(what, needed, version)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return () if match is None else tuple(int(number) for number in match.groups())
