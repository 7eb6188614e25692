"""The ``trio-codex`` command. Running it needs the ``cli`` extra; importing this package does not."""

from __future__ import annotations

import os
import signal
import sys

from trio_codex.cli._startup import EXTRAS as EXTRAS
from trio_codex.cli._startup import INTERRUPTED as INTERRUPTED
from trio_codex.cli._startup import missing_extra as missing_extra


def main() -> None:
    """Run the command line, and exit with its status."""
    leave_on_interrupt()
    if sys.stdout is None:
        sys.exit("trio-codex: stdout is closed")
    _open_missing_streams()
    try:
        from trio_codex.cli._commands import run
    except ModuleNotFoundError as exc:
        sys.exit(f"trio-codex: {missing_extra(exc)}")
    if callable(signal.getsignal(signal.SIGINT)):  # and not ignored, as in a background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = run()
    leave_on_interrupt()
    sys.exit(status)


def leave_on_interrupt() -> None:
    """Exit immediately and without a traceback on Ctrl-C before anything has started, unless Ctrl-C is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: object) -> None:
    os._exit(INTERRUPTED)


def _open_missing_streams() -> None:
    """Open the null device as stdin or stderr if they are closed, so that no other file gets their descriptors."""
    for descriptor, name, mode in ((0, "stdin", "r"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115  # it stays open until exit
