"""The policies of :mod:`trio_codex.policies`, with callbacks that need no Trio.

A callback is a plain function, which runs in its own thread.
"""

from trio_codex import policies
from trio_codex._face.proxies import Surface
from trio_codex._face.user_types import Policy, inbox_class
from trio_codex.blocking._face import FACE

_surface = Surface(FACE, policies, {"Policy": Policy, "Inbox": inbox_class(FACE)})
__getattr__ = _surface.find
__dir__ = _surface.names
