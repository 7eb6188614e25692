"""The batches of :mod:`trio_codex.batch`, with solvers that need no Trio.

A solver is a plain function, which runs in its own thread.
"""

from trio_codex import batch
from trio_codex._face.proxies import Surface
from trio_codex.blocking._face import FACE

# These are called by the engine in Trio, so they are not wrapped.
_TRIO = ("CopyTree", "EmptyDirectory", "GitWorktree", "Workspace", "solve_prompt")

_surface = Surface(FACE, batch, {name: getattr(batch, name) for name in _TRIO})
__getattr__ = _surface.find
__dir__ = _surface.names
