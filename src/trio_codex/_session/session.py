"""The state of one client: its threads, turns, listeners and policies."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from trio_codex._link.dispatch import Dispatcher
from trio_codex._session.approvals import Approvals, Defaults
from trio_codex._session.budget import Meter
from trio_codex._session.ending import TurnEnder
from trio_codex._session.history import History
from trio_codex._session.listeners import Listeners
from trio_codex._session.logins import LoginNews
from trio_codex._session.router import Router
from trio_codex._session.threads import Threads

if TYPE_CHECKING:
    from trio_codex._link.connection import Connection
    from trio_codex._link.hooks import Instruments
    from trio_codex._link.services import Services
    from trio_codex._link.subscriptions import Subscription
    from trio_codex._link.timeouts import Timeouts
    from trio_codex._session.server import Server
    from trio_codex._tools.toolbox import Toolbox
    from trio_codex._values.config import ClientConfig
    from trio_codex._values.event import Event


class Session:
    """The state that the handles of one client share."""

    def __init__(self, server: Server, defaults: Defaults) -> None:
        self.server: Server = server
        self.config: ClientConfig = server.config
        self.services: Services = server.services
        self.connection: Connection = server.connection
        self.timeouts: Timeouts = server.timeouts
        self.tools: Toolbox = defaults.tools
        self.meter: Meter = Meter("client", defaults.budget)
        self.threads: Threads = Threads(server.connection.secrets)
        self.listeners: Listeners = Listeners(server.connection, server.config.event_buffer)
        self.instruments: Instruments = self.listeners.instruments
        self.history: History = History(server, self.instruments)
        self.ender: TurnEnder = TurnEnder(server, self.threads)
        self.approvals: Approvals = Approvals(
            self.threads,
            self.listeners,
            self.ender,
            defaults,
            shared=not server.connection.owned,
            has_peers=server.connection.has_peers,
        )
        dispatcher = Dispatcher(server.services, server.connection)
        self.router: Router = Router(
            self.threads,
            self.listeners,
            dispatcher,
            self.approvals,
            self.ender,
            self.history,
            self.meter,
        )

    @cached_property
    def logins(self) -> LoginNews:
        """The outcomes of logins, collected from the first login on."""
        news = LoginNews()
        self.listeners.attach(news, *LoginNews.METHODS)
        return news

    def subscription(self) -> Subscription[Event]:
        """Create a buffer for a consumer."""
        return self.listeners.subscription()
