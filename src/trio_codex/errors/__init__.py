"""Exceptions raised by trio-codex.

::

    CodexError                      base class of all of them
    ├─ StartError                   the server could not be started or did not answer ``initialize``
    │   ├─ SpawnError               no process was started (the ``OSError`` is its cause)
    │   ├─ AttachError              there is no server to attach to, or it refused the connection
    │   └─ StartTimeout             the server did not answer within ``start_timeout``
    ├─ ConnectionClosed             you closed the connection
    ├─ ConnectionBroken             the connection was lost
    │   └─ ServerExited             … because the server process exited
    ├─ RequestTimeout               no response within ``request_timeout``
    ├─ ProtocolError
    │   ├─ LocalProtocolError       the client was asked to send something invalid
    │   └─ RemoteProtocolError      the server sent something invalid
    │       ├─ FrameTooLong         a line longer than ``max_line_bytes``
    │       ├─ InvalidMessage       a line that is JSON but not a JSON-RPC response
    │       └─ DecodeError          a response that does not match the schema
    ├─ ServerTooOld                 this server version would ignore part of the request
    ├─ RpcError                     the server rejected a request
    │   ├─ ParseError               -32700
    │   ├─ InvalidRequestError      -32600
    │   │   ├─ UnsupportedMethod    … because this server lacks the method
    │   │   └─ ThreadInUse          … because another server has the thread open
    │   ├─ MethodNotFoundError      -32601
    │   ├─ InvalidParamsError       -32602
    │   ├─ InternalRpcError         -32603
    │   └─ ServerBusyError          -32001: rejected without any effect; try again later
    │       └─ RetryLimitExceededError
    ├─ TurnError
    │   ├─ TurnFailed               the turn ended with status ``failed``
    │   ├─ TurnLost                 the end of the turn was never observed
    │   ├─ TurnStalled              the turn was silent for longer than its ``idle_limit``
    │   ├─ BudgetExceeded           a turn, thread or client exceeded its budget
    │   ├─ TurnActive               the thread has an open turn, or the turn has no result yet
    │   └─ NoTurnRuns               there is no turn to rejoin
    ├─ ThreadClosed                 the thread's scope has exited
    ├─ PolicyError                  a policy callback raised or returned an invalid decision
    ├─ RequestSettled               a parked server request no longer accepts an answer
    │   ├─ RequestWithdrawn         … because the server no longer expects one
    │   └─ RequestAnswered          … because it was already answered
    ├─ OutputError                  the final response does not match ``output_type``
    ├─ SubscriptionOverflow         this consumer fell behind and its buffer overflowed
    ├─ SupervisionError
    │   ├─ RestartLimitExceeded     the server failed too often, or in a way that a restart cannot fix
    │   ├─ KeyConflict              the key identifies another prompt
    │   ├─ ThreadGone               the server no longer has the thread
    │   ├─ HistoryLost              the history lacks a prompt that was given to the model
    │   ├─ TurnInterrupted          the server died in the middle of the turn
    │   ├─ ThreadQuarantined        the server died whenever this thread had an open turn
    │   └─ JournalError             the journal cannot be used
    │       └─ JournalInUse         … because another supervisor has it open
    ├─ BatchError
    │   ├─ BatchConflict            the directory contains a batch with other tasks or settings
    │   ├─ BatchStopped             the batch ended before every task had an outcome
    │   ├─ MergeConflict            the shards of a batch do not fit together
    │   └─ ShardFailed              a shard failed with an exception that cannot be sent to another process
    ├─ FaceError                    a blocking or asyncio client cannot be used from here
    └─ InternalError                a bug in trio-codex; please report it

All of these exceptions can be pickled and keep their type and fields. Neither ``str()`` nor ``repr()`` ever shows a prompt
or the value of an environment variable. A ``result`` field, however, contains the complete result and the prompt, and
so does its pickle.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trio_codex.errors._base import MESSAGE_LIMIT as MESSAGE_LIMIT
from trio_codex.errors._base import STDERR_LINES as STDERR_LINES
from trio_codex.errors._base import CodexError as CodexError
from trio_codex.errors._base import FaceError as FaceError
from trio_codex.errors._base import InternalError as InternalError
from trio_codex.errors._base import describe_exit as describe_exit
from trio_codex.errors._base import escaped_line as escaped_line
from trio_codex.errors._base import shorten as shorten
from trio_codex.errors._connection import AttachError as AttachError
from trio_codex.errors._connection import ConnectionBroken as ConnectionBroken
from trio_codex.errors._connection import ConnectionClosed as ConnectionClosed
from trio_codex.errors._connection import DecodeError as DecodeError
from trio_codex.errors._connection import FrameTooLong as FrameTooLong
from trio_codex.errors._connection import InternalRpcError as InternalRpcError
from trio_codex.errors._connection import InvalidMessage as InvalidMessage
from trio_codex.errors._connection import InvalidParamsError as InvalidParamsError
from trio_codex.errors._connection import InvalidRequestError as InvalidRequestError
from trio_codex.errors._connection import LocalProtocolError as LocalProtocolError
from trio_codex.errors._connection import MethodNotFoundError as MethodNotFoundError
from trio_codex.errors._connection import ParseError as ParseError
from trio_codex.errors._connection import ProtocolError as ProtocolError
from trio_codex.errors._connection import RemoteProtocolError as RemoteProtocolError
from trio_codex.errors._connection import RequestTimeout as RequestTimeout
from trio_codex.errors._connection import RetryLimitExceededError as RetryLimitExceededError
from trio_codex.errors._connection import RpcError as RpcError
from trio_codex.errors._connection import ServerBusyError as ServerBusyError
from trio_codex.errors._connection import ServerExited as ServerExited
from trio_codex.errors._connection import ServerTooOld as ServerTooOld
from trio_codex.errors._connection import SpawnError as SpawnError
from trio_codex.errors._connection import StartError as StartError
from trio_codex.errors._connection import StartTimeout as StartTimeout
from trio_codex.errors._connection import ThreadInUse as ThreadInUse
from trio_codex.errors._connection import UnsupportedMethod as UnsupportedMethod
from trio_codex.errors._turns import BudgetExceeded as BudgetExceeded
from trio_codex.errors._turns import NoTurnRuns as NoTurnRuns
from trio_codex.errors._turns import OutputError as OutputError
from trio_codex.errors._turns import PolicyError as PolicyError
from trio_codex.errors._turns import RequestAnswered as RequestAnswered
from trio_codex.errors._turns import RequestSettled as RequestSettled
from trio_codex.errors._turns import RequestWithdrawn as RequestWithdrawn
from trio_codex.errors._turns import SubscriptionOverflow as SubscriptionOverflow
from trio_codex.errors._turns import ThreadClosed as ThreadClosed
from trio_codex.errors._turns import TurnActive as TurnActive
from trio_codex.errors._turns import TurnError as TurnError
from trio_codex.errors._turns import TurnFailed as TurnFailed
from trio_codex.errors._turns import TurnLost as TurnLost
from trio_codex.errors._turns import TurnStalled as TurnStalled

if TYPE_CHECKING:
    from trio_codex.errors._batch import BatchConflict as BatchConflict
    from trio_codex.errors._batch import BatchError as BatchError
    from trio_codex.errors._batch import BatchStopped as BatchStopped
    from trio_codex.errors._batch import MergeConflict as MergeConflict
    from trio_codex.errors._batch import ShardFailed as ShardFailed
    from trio_codex.errors._supervision import HistoryLost as HistoryLost
    from trio_codex.errors._supervision import JournalError as JournalError
    from trio_codex.errors._supervision import JournalInUse as JournalInUse
    from trio_codex.errors._supervision import KeyConflict as KeyConflict
    from trio_codex.errors._supervision import RestartLimitExceeded as RestartLimitExceeded
    from trio_codex.errors._supervision import SupervisionError as SupervisionError
    from trio_codex.errors._supervision import ThreadGone as ThreadGone
    from trio_codex.errors._supervision import ThreadQuarantined as ThreadQuarantined
    from trio_codex.errors._supervision import TurnInterrupted as TurnInterrupted

_LAZY = {
    "BatchConflict": "_batch",
    "BatchError": "_batch",
    "BatchStopped": "_batch",
    "HistoryLost": "_supervision",
    "JournalError": "_supervision",
    "JournalInUse": "_supervision",
    "KeyConflict": "_supervision",
    "MergeConflict": "_batch",
    "RestartLimitExceeded": "_supervision",
    "ShardFailed": "_batch",
    "SupervisionError": "_supervision",
    "ThreadGone": "_supervision",
    "ThreadQuarantined": "_supervision",
    "TurnInterrupted": "_supervision",
}
"""Errors of packages that few programs use. Each class takes time to create, so these are created on first use."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = vars(importlib.import_module(f"{__name__}.{_LAZY[name]}"))
    _adopt(found := {each: module[each] for each, home in _LAZY.items() if home == _LAZY[name]})
    globals().update(found)
    return found[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def _adopt(classes: dict[str, Any]) -> None:
    """Let tracebacks and pickles show where users import these errors from."""
    for error in classes.values():
        if isinstance(error, type):
            error.__module__ = __name__


_adopt(dict(vars()))
