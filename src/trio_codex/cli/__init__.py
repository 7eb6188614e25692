"""The command line ``trio-codex``. Needs the extra ``cli``; importing this package does not."""

from __future__ import annotations

import sys

EXTRAS = {"click": "cli", "rich": "cli", "hypercorn": "cli,testing,runtime"}
"""Which extra brings a package that may be missing."""


def main() -> None:
    """Run the command line, and exit with its status."""
    try:
        from trio_codex.cli._commands import run
    except ModuleNotFoundError as exc:
        sys.exit(missing_extra(exc))
    sys.exit(run())


def missing_extra(error: ModuleNotFoundError) -> str:
    """Say in one line which extra to install; what no extra brings is raised again."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        raise error
    return f"trio-codex: {package} is not installed; in the checkout of trio-codex: pip install '.[{EXTRAS[package]}]'"
