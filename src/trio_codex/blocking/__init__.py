"""The API of :mod:`trio_codex` for programs without an event loop: scripts, notebooks and threads.

::

    with blocking.open_codex() as codex:
        with codex.thread_start(cwd=".").turn("Fix the test.") as turn:
            for event in turn: ...

Names, arguments and exceptions are those of :mod:`trio_codex`, without ``async`` and ``await``. One daemon thread runs Trio
for each client. Leaving a scope waits until everything it started has ended on the server, even after an exception or
Ctrl-C.
"""

import trio_codex
from trio_codex._face.proxies import package_surface
from trio_codex.blocking import _deadlines
from trio_codex.blocking._face import FACE

_surface = package_surface(
    FACE,
    trio_codex,
    {
        "Deadline": _deadlines.Deadline,
        "move_on_after": _deadlines.move_on_after,
        "fail_after": _deadlines.fail_after,
    },
)
__getattr__ = _surface.find
__dir__ = _surface.names
