"""Test code that uses Codex without the real model: a scripted model, fake servers, and a home for the real binary.

::

    async with offline_codex() as (codex, model, home):
        model.say("hello")
        ...  # the real server runs, and asks this model

Importing this package is cheap: each name is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._build import build as build
    from ._build import item as item
    from ._build import notification as notification
    from ._build import result as result
    from ._build import server_request as server_request
    from ._cancellation import Cancellation as Cancellation
    from ._cancellation import Sweep as Sweep
    from ._cancellation import sweep_cancellation as sweep_cancellation
    from ._fake import Asked as Asked
    from ._fake import FakeServer as FakeServer
    from ._fake_codex import fake_codex as fake_codex
    from ._fake_codex import fake_process as fake_process
    from ._fake_codex import fake_websocket as fake_websocket
    from ._home import OfflineHome as OfflineHome
    from ._home import offline_home as offline_home
    from ._home import write_offline_home as write_offline_home
    from ._items import Command as Command
    from ._items import Part as Part
    from ._items import Patch as Patch
    from ._items import Permissions as Permissions
    from ._items import Plan as Plan
    from ._items import Question as Question
    from ._items import RawItem as RawItem
    from ._items import Reasoning as Reasoning
    from ._items import Text as Text
    from ._items import ToolCall as ToolCall
    from ._items import UserInput as UserInput
    from ._kills import Kills as Kills
    from ._kills import KillSweep as KillSweep
    from ._kills import sweep_kills as sweep_kills
    from ._last_frames import LastFrames as LastFrames
    from ._leftovers import assert_nothing_left as assert_nothing_left
    from ._mcp import mcp_server as mcp_server
    from ._model import MockModel as MockModel
    from ._offline import OfflineCodex as OfflineCodex
    from ._offline import offline_codex as offline_codex
    from ._queue import Match as Match
    from ._queue import Script as Script
    from ._replay import ReplayMismatch as ReplayMismatch
    from ._replay import replay as replay
    from ._request import ModelRequest as ModelRequest
    from ._response import Failed as Failed
    from ._response import Incomplete as Incomplete
    from ._response import RawEvent as RawEvent
    from ._response import Response as Response
    from ._response import Usage as Usage
    from ._steps import Cut as Cut
    from ._steps import Delay as Delay
    from ._steps import Frame as Frame
    from ._steps import Gate as Gate
    from ._steps import Hang as Hang
    from ._steps import HTTPFailure as HTTPFailure
    from ._steps import Pause as Pause
    from ._steps import Slot as Slot
    from ._steps import Step as Step
    from ._transcript import Said as Said
    from ._transcript import Transcript as Transcript

__all__ = [
    "Asked",
    "Cancellation",
    "Command",
    "Cut",
    "Delay",
    "Failed",
    "FakeServer",
    "Frame",
    "Gate",
    "HTTPFailure",
    "Hang",
    "Incomplete",
    "KillSweep",
    "Kills",
    "LastFrames",
    "Match",
    "MockModel",
    "ModelRequest",
    "OfflineCodex",
    "OfflineHome",
    "Part",
    "Patch",
    "Pause",
    "Permissions",
    "Plan",
    "Question",
    "RawEvent",
    "RawItem",
    "Reasoning",
    "ReplayMismatch",
    "Response",
    "Said",
    "Script",
    "Slot",
    "Step",
    "Sweep",
    "Text",
    "ToolCall",
    "Transcript",
    "Usage",
    "UserInput",
    "assert_nothing_left",
    "build",
    "fake_codex",
    "fake_process",
    "fake_websocket",
    "item",
    "mcp_server",
    "notification",
    "offline_codex",
    "offline_home",
    "replay",
    "result",
    "server_request",
    "sweep_cancellation",
    "sweep_kills",
    "write_offline_home",
]

_MODULES = {
    "_build": ("build", "item", "notification", "result", "server_request"),
    "_cancellation": ("Cancellation", "Sweep", "sweep_cancellation"),
    "_fake": ("Asked", "FakeServer"),
    "_fake_codex": ("fake_codex", "fake_process", "fake_websocket"),
    "_home": ("OfflineHome", "offline_home", "write_offline_home"),
    "_items": (
        "Command", "Part", "Patch", "Permissions", "Plan", "Question", "RawItem", "Reasoning", "Text", "ToolCall",
        "UserInput",
    ),
    "_kills": ("KillSweep", "Kills", "sweep_kills"),
    "_last_frames": ("LastFrames",),
    "_leftovers": ("assert_nothing_left",),
    "_mcp": ("mcp_server",),
    "_model": ("MockModel",),
    "_offline": ("OfflineCodex", "offline_codex"),
    "_queue": ("Match", "Script"),
    "_replay": ("ReplayMismatch", "replay"),
    "_request": ("ModelRequest",),
    "_response": ("Failed", "Incomplete", "RawEvent", "Response", "Usage"),
    "_steps": ("Cut", "Delay", "Frame", "Gate", "HTTPFailure", "Hang", "Pause", "Slot", "Step"),
    "_transcript": ("Said", "Transcript"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULE_OF[name]
    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
