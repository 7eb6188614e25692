"""The entry point of the ``trio-codex`` command.

It is outside the package, whose import takes most of the startup time, so that Ctrl-C during that import prints no traceback
either.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    # Importing the public module creates enums. Without that delay, Ctrl-C is handled earlier.
    import _signal as signal


def leave_on_interrupt() -> None:
    """Exit immediately and without a traceback on Ctrl-C, unless Ctrl-C is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))


def main() -> None:
    """Run the command line, and exit with its status."""
    leave_on_interrupt()
    from trio_codex.cli import main as run

    run()
