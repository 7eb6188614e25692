"""The API of :mod:`trio_codex` for programs that run on asyncio.

::

    async with aio.open_codex() as codex:
        thread = await codex.thread_start(cwd=".")
        async with thread.turn("Fix the test.") as turn:
            async for event in turn: ...

Names, arguments and exceptions are those of :mod:`trio_codex`. One daemon thread runs Trio for each client. Leaving a
scope waits until everything it started has ended on the server, even after an exception or a cancellation.
"""

import trio_codex
from trio_codex._face.proxies import package_surface
from trio_codex.aio._face import FACE

_surface = package_surface(FACE, trio_codex)
__getattr__ = _surface.find
__dir__ = _surface.names
