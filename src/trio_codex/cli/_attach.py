"""Connect the client of a command: to a server that it starts, to a running server, or to an offline one."""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import attrs
import trio

from trio_codex import ClientConfig, CodexConfig, open_codex
from trio_codex.binary import find_binary
from trio_codex.cli._text import CommandFailed, as_options, one_line, working_directory

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from trio_codex import BearerToken, Codex, Policy


GIVE_UP: Final = "features.unbounded_connection_retries=false"
"""By default, a server that cannot reach the model retries every few seconds, without a limit."""

TOKEN_CHARACTERS: Final = 4096
"""The maximum size of a token file. No server accepts a longer header, and some files never end."""


@attrs.frozen
class Attachment:
    """A server that somebody else started, and how to attach to it.

    Attributes:
        url: The URL.
        token_file: The file that the token was read from.
        token: The token, if the server requires one.
        config: The configuration of the client.
    """

    url: str
    token_file: str | None = None
    token: BearerToken | None = None
    config: ClientConfig = attrs.field(factory=ClientConfig)

    @property
    def shown(self) -> str:
        """The URL for display, without the query, which may contain a token."""
        address, mark, _ = self.url.partition("?")
        return f"{address}?…" if mark and not is_on_this_machine(self.url) else self.url

    @property
    def options(self) -> str:
        """The options that attach another command to the same server, each preceded by a space. A query is not shown."""
        token = "" if self.token_file is None else f" --token-file {shlex.quote(self.token_file)}"
        return f" --attach {shlex.quote(self.shown)}{token}"


Source: TypeAlias = CodexConfig | Attachment
"""The configuration of a server to start, or a server to attach to."""


@attrs.frozen
class Offline:
    """A server to start that talks to a scripted model on this machine, in a temporary home.

    Attributes:
        config: The configuration of the server, apart from its home.
    """

    config: CodexConfig


AnySource: TypeAlias = Source | Offline
"""A server to start, a server to attach to, or an offline server."""


AnySourceT = TypeVar("AnySourceT", CodexConfig, AnySource)


def without_waiting(source: AnySourceT) -> AnySourceT:
    """Return a source whose server gives up if it cannot reach the model, instead of waiting for a network forever.

    For unattended commands. The user's own ``-c`` options take precedence.
    """
    if not isinstance(source, CodexConfig):
        return source
    return attrs.evolve(source, config_overrides=(GIVE_UP, *source.config_overrides))


def open_client(source: AnySource, *, policy: Policy | None = None) -> AbstractAsyncContextManager[Codex]:
    """Start a server or attach to one, for the duration of a scope.

    Raises:
        CodexError: The server failed to start, or there is none to attach to.
        CommandFailed: The URL is not a server's.
    """
    if isinstance(source, Attachment):
        return _attached(source, policy)
    if isinstance(source, Offline):
        return _offline(source.config, policy)
    return open_codex(source, policy=policy)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _offline(config: CodexConfig, policy: Policy | None) -> AsyncGenerator[Codex]:
    from trio_codex.cli._offline_model import scripted_home

    async with scripted_home() as home, open_codex(home.config(config), policy=policy) as codex:
        yield codex


async def require_login(codex: Codex, source: AnySource) -> None:
    """Check that the server is logged in, if its model provider requires that.

    Without a login, a turn fails after many retries, or waits for the network forever.

    Raises:
        CommandFailed: The server is not logged in.
        CodexError: The server did not answer.
    """
    account = await codex.account()  # the model of --offline requires none
    if account.account is None and account.requires_openai_auth:
        raise CommandFailed(
            f"not logged in. Log in with: {_login(source)}. To try this command without an account, use --offline"
        )


def _login(source: AnySource) -> str:
    """Return the command that logs the server in."""
    if isinstance(source, Attachment):
        return "codex login, on the machine of the server"
    config = source.config if isinstance(source, Offline) else source
    binary = find_binary(config.codex_bin, config.environment().get("PATH"))
    return "codex login" if binary.source == "path" else f"{shlex.quote(binary.path)} login"


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _attached(source: Attachment, policy: Policy | None) -> AsyncGenerator[Codex]:
    from trio_codex import attach_codex

    async with AsyncExitStack() as stack:
        try:
            codex = await stack.enter_async_context(
                attach_codex(source.url, auth=source.token, config=source.config, policy=policy)
            )
        except ValueError as exc:
            raise CommandFailed(f"--attach: {one_line(as_options(str(exc)))}", 2) from exc
        yield codex


def directory_for(source: AnySource, cwd: str | None) -> str:
    """Return the working directory of the agent: the given one, else the current one.

    Returns:
        An empty string if the server may run on another machine and no directory was given. The server then uses its
        own.

    Raises:
        CommandFailed: The current directory no longer exists.
    """
    if isinstance(source, Attachment) and not is_on_this_machine(source.url):
        return cwd or ""
    return cwd or working_directory()


def is_on_this_machine(url: str) -> bool:
    """Return whether the server behind a URL is known to share the files of this machine.

    A TCP port may be a tunnel, even on loopback.
    """
    return url[:5].lower() == "unix:"


def read_token(path: str) -> tuple[BearerToken, bool]:
    """Read a token from a file.

    Returns:
        The token, and whether other users can access the file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It does not contain a token.
    """
    from trio_codex import BearerToken

    with open(path, encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        text = file.read(TOKEN_CHARACTERS + 1)
    if len(text) > TOKEN_CHARACTERS:
        raise ValueError("it is too long for a token")
    token = BearerToken(text.strip())
    is_exposed = os.name == "posix" and stat.S_ISREG(status.st_mode) and status.st_mode & 0o077 != 0
    return token, is_exposed
