"""Instruments: observers of a client, similar to :class:`trio.abc.Instrument`, for logging, metrics and tracing.

Override the hooks you need, and pass an instance to :func:`trio_codex.open_codex` or another function that opens a
client. Hooks that no instrument overrides have no measurable cost. The built-in instruments are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trio_codex._link.hooks import RequestOutcome as RequestOutcome
from trio_codex._link.hooks import RequestRecord as RequestRecord
from trio_codex._link.hooks import ServerRequestOutcome as ServerRequestOutcome
from trio_codex._link.hooks import ServerRequestRecord as ServerRequestRecord

from ._base import GenerationRecord as GenerationRecord
from ._base import Instrument as Instrument
from ._base import ProcessRecord as ProcessRecord
from ._base import TurnRecord as TurnRecord
from ._base import notify as notify

if TYPE_CHECKING:
    from ._log import LogInstrument as LogInstrument
    from ._otel import OpenTelemetryInstrument as OpenTelemetryInstrument
    from ._stats import Latency as Latency
    from ._stats import Stats as Stats
    from ._stats import StatsInstrument as StatsInstrument
    from ._systemd import Systemd as Systemd

__all__ = [
    "GenerationRecord",
    "Instrument",
    "Latency",
    "LogInstrument",
    "OpenTelemetryInstrument",
    "ProcessRecord",
    "RequestOutcome",
    "RequestRecord",
    "ServerRequestOutcome",
    "ServerRequestRecord",
    "Stats",
    "StatsInstrument",
    "Systemd",
    "TurnRecord",
    "notify",
]

_MODULE_OF = {
    "Latency": "_stats",
    "LogInstrument": "_log",
    "OpenTelemetryInstrument": "_otel",
    "Stats": "_stats",
    "StatsInstrument": "_stats",
    "Systemd": "_systemd",
}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
