"""The state of one client: its threads, turns, listeners and policies."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from trio_codex._link.dispatch import Dispatcher
from trio_codex._session.approvals import Approvals, Defaults
from trio_codex._session.budget import Meter
from trio_codex._session.ending import TurnEnder
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
    """The state that the handles of one client share.

    Args:
        server: The server.
        defaults: The settings that apply to all threads.

    Attributes:
        server: The server.
        tools: The client's tools.
        meter: Counts the resources used by all turns of the client.
        threads: The threads and turns.
        listeners: The subscribers.
        ender: Ends turns.
        approvals: Decides on server requests.
        router: Routes inbound messages to all of the above.
    """

    def __init__(self, server: Server, defaults: Defaults) -> None:
        connection = server.connection
        self.server: Server = server
        self.tools: Toolbox = defaults.tools
        self.meter: Meter = Meter("client", defaults.budget)
        self.threads: Threads = Threads()
        self.listeners: Listeners = Listeners(connection, server.config.event_buffer)
        self.ender: TurnEnder = TurnEnder(server, self.threads)
        self.approvals: Approvals = Approvals(
            self.threads,
            self.listeners,
            self.ender,
            defaults,
            shared=not connection.owned,
            has_peers=connection.has_peers,
        )
        dispatcher = Dispatcher(server.services, connection)
        self.router: Router = Router(
            self.threads, self.listeners, dispatcher, self.approvals, self.ender, self.meter
        )

    @property
    def config(self) -> ClientConfig:
        """The configuration of the client."""
        return self.server.config

    @property
    def services(self) -> Services:
        """The client's tasks."""
        return self.server.services

    @property
    def connection(self) -> Connection:
        """The connection."""
        return self.server.connection

    @property
    def timeouts(self) -> Timeouts:
        """The timeouts that measure how responsive the server is."""
        return self.server.timeouts

    @property
    def instruments(self) -> Instruments:
        """The instruments of the client."""
        return self.listeners.instruments

    @cached_property
    def logins(self) -> LoginNews:
        """The outcomes of logins, collected from the first login on."""
        news = LoginNews()
        self.listeners.attach(news, *LoginNews.METHODS)
        return news

    def subscription(self) -> Subscription[Event]:
        """Create a buffer for a consumer."""
        return self.listeners.subscription()
