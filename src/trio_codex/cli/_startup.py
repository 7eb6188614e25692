"""What the command needs before its extras are imported: an exit status, and the hint for a missing extra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

INTERRUPTED: Final = 130
"""The exit status of a program ended by Ctrl-C, as reported by shells."""

TIMED_OUT: Final = 124
"""The exit status of a turn that ``--timeout`` ended, the same as that of the ``timeout`` command."""

EXTRAS: Final[Mapping[str, str]] = {
    "click": "cli",
    "rich": "cli",
    "hypercorn": "cli,testing,runtime",
    "websockets": "cli,ws",
}
"""The extras to install for each package that may be missing."""


def missing_extra(error: ModuleNotFoundError) -> str:
    """Return one line that names the extra to install.

    Raises:
        ModuleNotFoundError: No extra provides the package.
    """
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        raise error
    return f"{package} is not installed: pip install '.[{EXTRAS[package]}]' in the checkout of trio-codex"
