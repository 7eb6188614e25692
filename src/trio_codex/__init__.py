"""A Trio client for ``codex app-server`` that gives Codex agents structured concurrency.

A client, a turn and an approval are scopes: once a scope exits, everything it started has ended, on the server too.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"] and not {"trio_codex", "trio_codex.cli"}.isdisjoint(sys.orig_argv):
    # ``python -m trio_codex`` imports the package first, which takes most of the startup time. Ctrl-C during this import
    # must not print a traceback either.
    from _trio_codex_main import leave_on_interrupt

    leave_on_interrupt()

from trio_codex import errors as errors
from trio_codex import wire as wire
from trio_codex._api.codex import Codex as Codex
from trio_codex._api.history import ItemsView as ItemsView
from trio_codex._api.history import TurnsView as TurnsView
from trio_codex._api.login import LoginHandle as LoginHandle
from trio_codex._api.login import McpLogin as McpLogin
from trio_codex._api.mcp import McpServers as McpServers
from trio_codex._api.mcp import ThreadMcpServers as ThreadMcpServers
from trio_codex._api.open import connect_codex as connect_codex
from trio_codex._api.open import open_codex as open_codex
from trio_codex._api.options import ApprovalMode as ApprovalMode
from trio_codex._api.options import Sandbox as Sandbox
from trio_codex._api.options import ThreadFilters as ThreadFilters
from trio_codex._api.options import ThreadForkOptions as ThreadForkOptions
from trio_codex._api.options import ThreadOptions as ThreadOptions
from trio_codex._api.options import ThreadResumeOptions as ThreadResumeOptions
from trio_codex._api.options import ThreadSettings as ThreadSettings
from trio_codex._api.options import ThreadStartOptions as ThreadStartOptions
from trio_codex._api.options import TurnOptions as TurnOptions
from trio_codex._api.paging import Pager as Pager
from trio_codex._api.skills import Skills as Skills
from trio_codex._api.terminals import Terminals as Terminals
from trio_codex._api.thread import Goal as Goal
from trio_codex._api.thread import Thread as Thread
from trio_codex._api.thread import Turn as Turn
from trio_codex._api.turn import TurnText as TurnText
from trio_codex._link.subscriptions import Subscription as Subscription
from trio_codex._session.budget import Budget as Budget
from trio_codex._session.goal import GoalResult as GoalResult
from trio_codex._session.retry import is_retryable_error as is_retryable_error
from trio_codex._session.retry import is_transient_error as is_transient_error
from trio_codex._session.retry import retry_on_overload as retry_on_overload
from trio_codex._session.retry import retry_transient as retry_transient
from trio_codex._session.waiting import WaitingOn as WaitingOn
from trio_codex._values.config import VERSION as _VERSION
from trio_codex._values.config import ClientConfig as ClientConfig
from trio_codex._values.config import CodexConfig as CodexConfig
from trio_codex._values.config import EventBuffer as EventBuffer
from trio_codex._values.event import Event as Event
from trio_codex._values.inputs import ExternalMessage as ExternalMessage
from trio_codex._values.inputs import ImageInput as ImageInput
from trio_codex._values.inputs import InputItem as InputItem
from trio_codex._values.inputs import LocalImageInput as LocalImageInput
from trio_codex._values.inputs import MentionInput as MentionInput
from trio_codex._values.inputs import SkillInput as SkillInput
from trio_codex._values.inputs import TextInput as TextInput
from trio_codex._values.inputs import TurnInput as TurnInput
from trio_codex._values.metadata import ServerMetadata as ServerMetadata
from trio_codex._values.turn_result import TurnResult as TurnResult
from trio_codex._values.turn_result import TurnStatus as TurnStatus
from trio_codex._values.usage import TokenUsage as TokenUsage
from trio_codex.instruments._base import DecidedBy as DecidedBy
from trio_codex.instruments._base import DecisionRecord as DecisionRecord

if TYPE_CHECKING:
    from trio_codex import policies as policies
    from trio_codex import tools as tools
    from trio_codex._api.attach import attach_codex as attach_codex
    from trio_codex._api.exec import RemoteProcess as RemoteProcess
    from trio_codex._api.watch import Watch as Watch
    from trio_codex._values.attachment import Attachment as Attachment
    from trio_codex._values.auth import BearerToken as BearerToken
    from trio_codex._values.auth import SignedBearer as SignedBearer
    from trio_codex.policies import Policy as Policy
    from trio_codex.supervision import Backoff as Backoff
    from trio_codex.supervision import Probe as Probe
    from trio_codex.supervision import Restart as Restart
    from trio_codex.supervision import open_supervisor as open_supervisor
    from trio_codex.tools import tool as tool

__version__ = _VERSION

_LAZY = {
    "policies": "policies", "Policy": "policies", "tools": "tools", "tool": "tools", "attach_codex": "_api.attach",
    "Attachment": "_values.attachment", "BearerToken": "_values.auth", "SignedBearer": "_values.auth",
    "RemoteProcess": "_api.exec", "Watch": "_api.watch", "open_supervisor": "supervision", "Backoff": "supervision",
    "Probe": "supervision", "Restart": "supervision",
}  # fmt: skip
"""Names imported on first use: a client that needs no policies or tools skips importing their forty classes, and one
that starts its own server needs no WebSocket."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    value = globals()[name] = module if name == _LAZY[name] else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
