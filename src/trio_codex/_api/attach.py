"""Attaching to a server that somebody else started."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from trio_codex._api.codex import Codex
from trio_codex._api.lifecycle import ClientLifecycle
from trio_codex._api.open import check_in_trio
from trio_codex._link.services import open_services
from trio_codex._values.attachment import Attachment
from trio_codex._values.config import ClientConfig
from trio_codex.errors import AttachError

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from trio_codex._session.budget import Budget
    from trio_codex._tools.tool import AnyTool
    from trio_codex._values.auth import BearerToken, SignedBearer
    from trio_codex.instruments._base import Instrument
    from trio_codex.policies import Policy


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def attach_codex(
    url: str | Attachment,
    *,
    auth: BearerToken | SignedBearer | None = None,
    config: ClientConfig | None = None,
    policy: Policy | None = None,
    tools: Iterable[AnyTool] = (),
    budget: Budget | None = None,
    instruments: Sequence[Instrument] = (),
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
) -> AsyncGenerator[Codex]:
    """Attach a client to a server that somebody else started, as a scope. Needs the ``ws`` extra.

    However the scope exits, it ends the turns and commands that this client started. The server keeps running, and so do
    the turns of its other clients.

    Args:
        url: ``unix://PATH``, ``unix://`` for the daemon's socket in ``CODEX_HOME``, ``ws://HOST:PORT`` or ``wss://…``.
            Alternatively, an :class:`Attachment`, which also has ``auth``, ``config``, ``ssl_context`` and ``insecure``.
        auth: A token, if the server requires one.
        config: The configuration of the client.
        policy: As in :func:`open_codex`. It does not apply to turns of other clients.
        tools: As in :func:`open_codex`.
        budget: As in :func:`open_codex`.
        instruments: As in :func:`open_codex`.
        ssl_context: For ``wss://`` only; the default trusts the certificate authorities of the system.
        insecure: Allow ``ws://`` to another machine, which sends prompts and tokens in the clear.

    Raises:
        AttachError: There is no server, or it refused the connection.
        StartError: The server did not answer ``initialize`` in time, or rejected it.
        ValueError: The URL is invalid, or :func:`open_codex` would raise this; nothing was sent.
        TypeError: An argument has the wrong type; nothing was sent.
        ModuleNotFoundError: The ``ws`` extra is not installed.
        RuntimeError: This was not called from a Trio task.
    """
    check_in_trio("attach_codex()")
    if not isinstance(url, Attachment):
        config = ClientConfig() if config is None else config
        url = Attachment(url, auth=auth, config=config, ssl_context=ssl_context, insecure=insecure)
    elif any(each is not None for each in (auth, config, ssl_context)) or insecure:
        raise TypeError(
            "auth, config, ssl_context and insecure are taken from the Attachment: set them there"
        )
    try:
        from trio_codex._api.loading import load
        from trio_codex._link.dial import parse_address

        load()
    except OSError as exc:  # no file descriptor is free, not even one for an import
        raise AttachError(f"cannot attach: {exc}", hint="Check the limit on open files: ulimit -n.") from exc
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "attach_codex() needs websockets, which the ws extra installs: pip install '.[ws]' in the checkout of trio-codex",
            name=exc.name,
        ) from exc
    home = os.environ.get("CODEX_HOME") or (
        os.path.join(own, ".codex") if (own := os.environ.get("HOME")) else None
    )
    address = parse_address(url.url, codex_home=home, insecure=url.insecure)
    # A server that this client did not start is never killed. If a turn is stuck, the connection stays open for the others.
    config = attrs.evolve(url.config, on_stuck_turn="abandon")
    client = ClientLifecycle(config, policy, tools, budget, instruments)
    async with open_services(client.close_with) as services:
        session = await client.attach(services, address, url.auth, url.ssl_context)
        yield Codex(session, client)
