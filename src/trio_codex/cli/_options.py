"""Options that several commands share, and the server that they choose."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trio_codex import ClientConfig, CodexConfig, Sandbox
from trio_codex.cli._attach import AnySource, Attachment, Offline, is_on_this_machine, read_token

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


class PositiveFloat(click.FloatRange):
    """A number greater than zero. NaN, which click considers to be in every range, is not."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number.

        Raises:
            click.BadParameter: It is not one.
        """
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return float(number)


DEFAULT_GRACE = 5.0
"""Seconds for the server to exit on its own, as in ``CodexConfig``."""

START_TIMEOUT = click.option(
    "--start-timeout",
    type=PositiveFloat(),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Timeout for starting a server, or for attaching to one.",
)
CODEX_BIN = click.option(
    "--codex-bin",
    metavar="PATH",
    help="The codex binary. Default: the one from trio-codex[runtime], else the one on PATH.",
)


def _check_overrides(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not value.partition("=")[0].strip() or "=" not in value:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
    return values


def own_server_options(command: F) -> F:
    """Add the options of a server that the command starts."""
    for option in (
        click.option(
            "-c",
            "--config",
            "config_overrides",
            metavar="KEY=VALUE",
            multiple=True,
            callback=_check_overrides,
            help="Override a value of config.toml, as codex -c does. Repeatable.",
        ),
        START_TIMEOUT,
        click.option("--codex-home", metavar="DIR", help="The CODEX_HOME: configuration, login and threads."),
        CODEX_BIN,
    ):
        command = option(command)
    return command


def server_options(command: F) -> F:
    """Add the options that choose a server."""
    command = own_server_options(command)
    for option in (
        click.option(
            "--token-file",
            type=click.Path(exists=True, dir_okay=False),
            metavar="FILE",
            help="The file with the token for --attach.",
        ),
        click.option(
            "--attach",
            metavar="URL",
            is_eager=True,  # the check of --cwd needs the URL
            help="Attach to a server that is already running, instead of starting one: unix://PATH, unix:// for the"
            " daemon, ws://HOST:PORT, wss://….",
        ),
    ):
        command = option(command)
    return command


def _check_directory(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    attach = context.params.get("attach")
    if attach is None or is_on_this_machine(attach):
        kind = click.Path(exists=True, file_okay=False, resolve_path=True)
        return str(kind.convert(value, option, context))
    # It is a directory of the server's machine.
    if not value.startswith("/"):
        raise click.BadParameter(f"{value!r} must be absolute, as the server may run on another machine")
    return value


RESUME = click.option(
    "-r", "--resume", metavar="ID", help="Resume this thread instead of starting a new one."
)
OFFLINE = click.option(
    "--offline",
    is_flag=True,
    help="Use a scripted model on this machine and a temporary home: no account, no network, nothing stored.",
)


def thread_options(command: F) -> F:
    """Add the options of a thread."""
    for option in (
        click.option(
            "-a",
            "--approve",
            type=click.Choice(["ask", "never", "always"]),
            help="How to answer when the agent requests more than the sandbox allows: ask you, never let it request, or"
            " always accept. Default: ask on a terminal, else never.",
        ),
        click.option(
            "-s",
            "--sandbox",
            type=click.Choice([each.value for each in Sandbox]),
            metavar="MODE",
            help="The sandbox for the agent's commands: read-only, workspace-write or danger-full-access. Default: as"
            " configured.",
        ),
        click.option(
            "-C",
            "--cwd",
            metavar="DIRECTORY",
            callback=_check_directory,
            help="The agent's working directory. Default: the current directory, or the server's directory with"
            " --attach ws://… or wss://….",
        ),
        click.option("-m", "--model", metavar="NAME", help="The model. Default: as configured."),
    ):
        command = option(command)
    return command


def source_of(options: dict[str, Any]) -> AnySource:
    """Return the server to start, or the one to attach to, from the options."""
    url, token_file, offline = options.pop("attach"), options.pop("token_file"), options.pop("offline", False)
    if offline:
        for name, value in (
            ("--attach", url), ("--codex-home", options["codex_home"]), ("--resume", options["resume"]),
        ):  # fmt: skip
            if value is not None:
                raise click.UsageError(
                    f"--offline uses its own temporary home; it cannot be combined with {name}"
                )
    if url is None:
        if token_file is not None:
            raise click.UsageError("--token-file requires --attach")
        return Offline(config_of(options)) if offline else config_of(options)
    given = {"codex_bin": "--codex-bin", "codex_home": "--codex-home", "config_overrides": "--config"}
    for name, option in given.items():
        if options.pop(name):
            raise click.UsageError(
                f"{option} is for a server that the command starts; --attach uses one that is already running"
            )
    config = ClientConfig(start_timeout=options.pop("start_timeout"))
    if token_file is None:
        return Attachment(url, config=config)
    try:
        token, is_exposed = read_token(token_file)
    except OSError as exc:
        raise click.UsageError(f"--token-file: {token_file}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise click.UsageError(
            f"--token-file: {token_file} does not contain a token, which is one word"
        ) from exc
    if is_exposed:
        click.echo(f"! other users can access {token_file}: chmod 600 {shlex.quote(token_file)}", err=True)
    return Attachment(url, token_file, token, config)


def config_of(options: dict[str, Any]) -> CodexConfig:
    """Return the server configuration from the options."""
    start_timeout = options.pop("start_timeout")
    return CodexConfig(
        codex_bin=options.pop("codex_bin"),
        codex_home=options.pop("codex_home"),
        config_overrides=options.pop("config_overrides"),
        start_timeout=start_timeout,
        # A server that does not respond gets no more time to exit than it had to start.
        stop_grace=min(DEFAULT_GRACE, start_timeout),
    )
