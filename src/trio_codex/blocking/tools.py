"""The tools of :mod:`trio_codex.tools`, created from functions that need no Trio."""

from trio_codex import tools
from trio_codex._face.proxies import Surface
from trio_codex._face.user_types import PlainTool, tool
from trio_codex.blocking._face import FACE

_surface = Surface(FACE, tools, {"tool": tool, "PlainTool": PlainTool})
__getattr__ = _surface.find
__dir__ = _surface.names
