"""What a server version does not support: options that it would silently ignore, and methods that it would reject.

A server that does not report its version, or is a build without one (0.0.0), is assumed to support everything.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

from trio_codex.errors import ServerTooOld
from trio_codex.wire._registry import CLIENT_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex import wire

NEEDED: Final = {
    "tool_output": ("an ExternalMessage", "0.151.0"),
    "turn_trigger": ("source", "0.151.0"),
    "service_tier_for_turn": ("turn_service_tier", "0.151.0"),
}
"""Members of ``turn/start`` with their public names, and the first server version that supports them."""


def check_turn(params: wire.TurnStartParams, version: str | None) -> None:
    """Check that a server supports the options of a turn.

    Raises:
        ServerTooOld: The server would ignore an option.
    """
    found = _numbers(version)
    if version is None or not any(found):
        return
    for member, (what, needed) in NEEDED.items():
        # Pre-releases of 0.151.0, such as 0.151.0-alpha.1, may not support it yet.
        enough = found > _numbers(needed) or (found == _numbers(needed) and "-" not in version)
        if getattr(params, member) is not None and not enough:
            raise ServerTooOld(what, needed, version)


def missing_methods(version: str | None) -> Mapping[str, str]:
    """Return the requests that a server does not have, with the first version that does.

    A pre-release of that version may have the request already.
    """
    found = _numbers(version)
    if not any(found):
        return {}
    since = {method: spec.since for method, spec in CLIENT_REQUESTS.items() if spec.since is not None}
    return {method: first for method, first in since.items() if found < _numbers(first)}


@cache  # the version of the server is compared for each turn
def _numbers(version: str | None) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version or "")
    return () if match is None else tuple(int(number) for number in match.groups())
