"""A router without a connection, for tests that call it directly."""

from types import SimpleNamespace

from trio_codex import EventBuffer
from trio_codex._link.hooks import NO_INSTRUMENTS
from trio_codex._session.budget import Meter
from trio_codex._session.listeners import Listeners
from trio_codex._session.router import Router
from trio_codex._session.threads import Threads


def bare_router(instruments=NO_INSTRUMENTS):
    """Return a router, its threads and its listeners. Server requests are ignored."""
    connection = SimpleNamespace(instruments=instruments, close_reason=None)
    threads, listeners = Threads(), Listeners(connection, EventBuffer())
    dispatcher = SimpleNamespace(withdraw=lambda _: False, cancel=lambda: None)
    approvals = SimpleNamespace(audit=SimpleNamespace(close=lambda: None, on_review=lambda _: None))
    ender = SimpleNamespace(end_orphan=lambda _: None)
    history = SimpleNamespace(end_soon=lambda turn, event: turn.end(event))
    router = Router(threads, listeners, dispatcher, approvals, ender, history, Meter("client"))
    return router, threads, listeners
