"""The command line ``trio-codex``. Needs the extra ``cli``; importing this package does not."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended, as shells have it."""

EXTRAS = {"click": "cli", "rich": "cli", "hypercorn": "cli,testing,runtime"}
"""Which extra brings a package that may be missing."""


def main() -> None:
    """Run the command line, and exit with its status."""
    leave_on_interrupt()
    if sys.stdout is None:
        sys.exit("trio-codex: stdout is closed")
    _open_missing_streams()
    try:
        from trio_codex.cli._commands import run
    except ModuleNotFoundError as exc:
        sys.exit(missing_extra(exc))
    if callable(signal.getsignal(signal.SIGINT)):  # and not ignored, as in a job in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = run()
    leave_on_interrupt()
    sys.exit(status)


def leave_on_interrupt() -> None:
    """Exit at once, without a traceback, on a Ctrl-C while nothing has been started; not where it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: object) -> None:
    os._exit(INTERRUPTED)


def _open_missing_streams() -> None:
    """Open stdin and stderr on nothing, where they are closed: what is opened next must not pass for one of them."""
    for descriptor, name, mode in ((0, "stdin", "r"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115  # it lives as long as we do


def missing_extra(error: ModuleNotFoundError) -> str:
    """Say in one line which extra to install; what no extra brings is raised again."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        raise error
    return f"trio-codex: {package} is not installed; in the checkout of trio-codex: pip install '.[{EXTRAS[package]}]'"
