"""``trio-codex doctor``: check this installation, and report problems and how to fix them.

It checks everything on the server that would make ``run`` fail. It calls no model and stores no thread: the thread that it
starts is ephemeral, and read-only so that the server does not record the directory as trusted.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, Final

import click
import trio

from trio_codex import Sandbox, open_codex, wire
from trio_codex.binary import TESTED, Binary, check_version, find_binary, find_others, read_version
from trio_codex.cli._attach import Attachment, open_client
from trio_codex.cli._daemon import report_daemon
from trio_codex.cli._findings import Examination, print_json, print_table
from trio_codex.cli._render import duration
from trio_codex.cli._text import sentence
from trio_codex.errors import CodexError, SpawnError, StartError, StartTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_codex import Codex, CodexConfig, Event, Subscription
    from trio_codex.cli._attach import Source

SOURCES: Final = {"explicit": "as given", "package": "from trio-codex[runtime]", "path": "on PATH"}

VERSION_SECONDS: Final = 2.0
"""Timeout for ``codex --version`` of a binary that failed to start as a server; it takes 30 ms."""

SANDBOX_SECONDS: Final = 10.0
"""Timeout for a no-op command in the sandbox; it takes 50 ms."""

EXAMPLES: Final = 2
"""How many of the requests that a server lacks are named in the table; ``--json`` lists all."""

PAGES: Final = 50
"""Maximum number of pages of models to count."""

WARNINGS: Final = ("configWarning", "warning")
"""Notifications with warnings for the user."""


async def examine(*, source: Source, as_json: bool) -> int:
    """Examine the installation, report the findings, and return the exit status."""
    examination = Examination(source)
    if isinstance(source, Attachment):
        await _examine_attached(examination, source)
    else:
        await report_daemon(examination, source, await _examine(examination, source))
    if as_json:
        print_json(examination)
    else:
        print_table(examination)
    problems = examination.problems
    if problems:
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        cause = f"{problems[0].name}: {problems[0].value}"
        click.echo(f"trio-codex: {sentence(cause, problems[0].hint)}{more}", err=True)
    return 1 if problems else 0


async def _examine(examination: Examination, config: CodexConfig) -> str | None:
    """Start a server and examine it. Return its version, if known."""
    await trio.lowlevel.checkpoint()
    try:
        binary = find_binary(config.codex_bin, config.environment().get("PATH"))
    except SpawnError as exc:
        examination.note_error("binary", exc)
        return None
    examination.note(
        "binary", "ok", f"{binary.path} ({SOURCES[binary.source]})", path=binary.path, source=binary.source
    )
    await _note_others(examination, binary, config.environment().get("PATH"))
    version = binary.version
    began = trio.current_time()
    closing: float | None = None
    try:
        async with open_codex(config) as codex:
            # Subscribe before awaiting anything else: the server sends its warnings right after the handshake.
            async with codex.events(*WARNINGS) as warnings:
                version = codex.metadata.server_version
                _note_version(examination, version, binary)
                took = trio.current_time() - began
                examination.note(
                    "start",
                    "ok",
                    f"answered initialize after {duration(took)}",
                    duration_ms=round(took * 1000),
                )
                await _inquire(examination, codex, warnings, f"{binary.path} login")
            closing = trio.current_time()
    except StartError as exc:
        # A binary that hangs as a server would hang here, too, and use up another timeout.
        if version is None and not isinstance(exc, StartTimeout):
            with trio.move_on_after(VERSION_SECONDS):
                version = await read_version(binary.path)
        _note_version(examination, version, binary)
        examination.note_error("start", exc)
    except CodexError as exc:
        examination.note_error("server", exc)
    if closing is not None:
        took = trio.current_time() - closing
        examination.note("stop", "ok", f"exited after {duration(took)}", duration_ms=round(took * 1000))
    return version


async def _examine_attached(examination: Examination, source: Attachment) -> None:
    """Attach to a server and examine it."""
    await trio.lowlevel.checkpoint()
    began = trio.current_time()
    closing: float | None = None
    try:
        async with open_client(source) as codex:
            async with codex.events(*WARNINGS) as warnings:  # before anything else, as above
                took = trio.current_time() - began
                examination.note(
                    "attach",
                    "ok",
                    f"{source.shown} answered initialize after {duration(took)}",
                    url=source.shown,
                    duration_ms=round(took * 1000),
                )
                _note_version(examination, codex.metadata.server_version)
                await _inquire(examination, codex, warnings, "codex login, on its machine")
            closing = trio.current_time()
    except StartError as exc:
        examination.note_error("attach", exc)
    except CodexError as exc:
        examination.note_error("server", exc)
    if closing is not None:
        took = trio.current_time() - closing
        examination.note("leave", "ok", f"left after {duration(took)}", duration_ms=round(took * 1000))


async def _note_others(examination: Examination, binary: Binary, env_path: str | None) -> None:
    """Report the binaries that would be found, but are not used."""
    await trio.lowlevel.checkpoint()
    for other in find_others(binary, env_path):
        version = other.version
        if version is None:
            with trio.move_on_after(VERSION_SECONDS):
                version = await read_version(other.path)
        value = f"{version or 'unknown version'}, {other.path} ({SOURCES[other.source]})"
        used = binary.version
        is_newer = used is not None and check_version(version, (used, used)) == "newer"
        hint = f"It is newer. Use it with --codex-bin {other.path}" if is_newer else None
        examination.note("not used", "ok", value, hint, path=other.path, source=other.source, version=version)


def _note_version(examination: Examination, version: str | None, binary: Binary | None = None) -> None:
    standing = check_version(version)
    oldest, newest = TESTED
    tested = oldest if oldest == newest else f"{oldest} to {newest}"
    details: dict[str, Any] = {"version": version, "tested": list(TESTED), "standing": standing}
    match standing:
        case "tested":
            known = "" if version == newest else f"; the newest known is {newest}"
            examination.note("version", "ok", f"{version}, a tested version{known}", **details)
        case "unknown" if version is None:
            examination.note(
                "version",
                "warning",
                f"unknown; tested: {tested}",
                None if binary is None else f"Run {binary.path} --version.",
                **details,
            )
        case _:
            hint = (
                "Update codex."
                if standing == "older"
                else "If something misbehaves, try the tested version first."
            )
            examination.note(
                "version", "warning", f"{version}, {standing} than the tested {tested}", hint, **details
            )
    if version is not None:
        _note_api(examination, version)


def _note_api(examination: Examination, version: str) -> None:
    """Report which requests of the built-in protocol a server of this version lacks."""
    requests = wire.CLIENT_REQUESTS
    lacking = {
        method: spec.since
        for method, spec in requests.items()
        if spec.since is not None and check_version(version, (spec.since, spec.since)) == "older"
    }
    if lacking:
        named = ", ".join(f"{method} (since {since})" for method, since in [*lacking.items()][:EXAMPLES])
        more = ", …" if len(lacking) > EXAMPLES else ""
        value = f"lacks {len(lacking)} of the {len(requests)} requests: {named}{more}"
    else:
        value = f"all {len(requests)} requests"
    hint = "List them all with --json." if len(lacking) > EXAMPLES else None
    examination.note("API", "ok", value, hint, requests=len(requests), lacking=lacking)


async def _inquire(examination: Examination, codex: Codex, warnings: Subscription[Event], login: str) -> None:
    """Query a running server; ``login`` is the command that logs it in."""
    _note_home(examination, codex)
    budget = examination.budget
    if not await _try(examination, "configuration", budget, _start_thread, codex, examination):
        for name in ("login", "models"):
            examination.note(name, "skipped", "not checked, because the configuration cannot be read")
    else:
        await _try(examination, "login", budget, _read_account, codex, examination, login)
        await _try(examination, "models", budget, _count_models, codex, examination)
    await _try(examination, "sandbox", budget, _try_sandbox, codex, examination)
    await _note_warnings(examination, warnings)


async def _try(
    examination: Examination, name: str, budget: float, question: Callable[..., Any], *args: Any
) -> bool:
    """Run one query; record an error as a finding. Return whether it succeeded."""
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(budget):  # noqa: ASYNC912  # each query is a cancellation point
        try:
            await question(*args)
        except CodexError as exc:
            examination.note_error(name, exc)
            return False
        return True
    hint = "Raise --start-timeout, which also limits each query."
    examination.note(name, "problem", f"no answer within {budget:g} s", hint)
    return False


def _note_home(examination: Examination, codex: Codex) -> None:
    config = examination.own_config
    if config is None:
        home = codex.metadata.codex_home
        examination.note("CODEX_HOME", "ok", home or "unknown", path=home)
        return
    home = codex.metadata.codex_home or os.fspath(config.home())
    if os.access(home, os.W_OK | os.X_OK):
        examination.note("CODEX_HOME", "ok", home, path=home)
    else:
        hint = "Make it writable for this user, or choose another with --codex-home."
        examination.note("CODEX_HOME", "problem", f"{home} is not writable", hint, path=home)


async def _start_thread(codex: Codex, examination: Examination) -> None:
    async with await codex.thread_start(ephemeral=True, sandbox=Sandbox.read_only) as thread:
        model = thread.info.model or "the server's default"
        value = f"a thread starts; model {model}, provider {thread.info.model_provider}"
        examination.note(
            "configuration", "ok", value, model=thread.info.model, provider=thread.info.model_provider
        )


async def _read_account(codex: Codex, examination: Examination, login: str) -> None:
    answer = await codex.api.account.read()
    needed = answer.requires_openai_auth
    details: dict[str, Any] = {"needed": needed, "type": None, "plan": None}
    match answer.account:
        case None if needed:
            examination.note("login", "problem", "not logged in", f"Log in with: {login}", **details)
        case None:
            examination.note("login", "ok", "not needed by this model provider", **details)
        case wire.ChatgptAccount(plan_type=plan):
            # Not the email address: reports are shared.
            details |= {"type": "chatgpt", "plan": str(plan)}
            examination.note("login", "ok", f"logged in with ChatGPT, plan {plan}", **details)
        case wire.ApiKeyAccount():
            examination.note("login", "ok", "logged in with an API key", **(details | {"type": "apiKey"}))
        case account:
            kind = account.tag if isinstance(account, wire.UnknownVariant) else account.type
            examination.note("login", "ok", f"logged in ({kind})", **(details | {"type": kind}))


async def _count_models(codex: Codex, examination: Examination) -> None:
    await trio.lowlevel.checkpoint()
    count, cursor = 0, None
    for _ in range(PAGES):
        page = await codex.api.model.list(cursor=cursor)
        count += len(page.data)
        cursor = page.next_cursor
        if cursor is None:
            break
    if count:
        examination.note("models", "ok", f"{count} available", count=count)
    else:
        examination.note(
            "models", "warning", "none available", "Log in, or set model in config.toml.", count=0
        )


async def _try_sandbox(codex: Codex, examination: Examination) -> None:
    """Run a no-op command in the read-only sandbox: if that fails, so do all of the agent's commands."""
    await trio.lowlevel.checkpoint()
    if codex.metadata.platform_family != "unix":
        examination.note("sandbox", "skipped", "not tried on this platform")
        return
    seconds = min(SANDBOX_SECONDS, examination.budget)
    answer = await codex.api.command.exec(
        command=["true"], sandbox_policy=wire.ReadOnlySandboxPolicy(), timeout_ms=int(seconds * 1000)
    )
    config = examination.own_config
    is_own_linux = config is not None and sys.platform == "linux"
    helper = None if config is None else shutil.which("bwrap", path=config.environment().get("PATH"))
    if answer.exit_code != 0:
        reason = answer.stderr.strip() or f"exit status {answer.exit_code}"
        hint = None
        if is_own_linux:
            hint = "Install bubblewrap, and allow this user to create user namespaces."
        examination.note("sandbox", "problem", f"a command cannot run in it: {reason}", hint, helper=helper)
    elif is_own_linux:
        which = helper or "the bundled bubblewrap, as there is none on PATH"
        examination.note("sandbox", "ok", f"a command ran in it; helper: {which}", helper=helper)
    else:
        examination.note("sandbox", "ok", "a command ran in it")


async def _note_warnings(examination: Examination, warnings: Subscription[Event]) -> None:
    """Record the warnings received so far, without waiting for more."""
    with trio.move_on_after(0):
        async for event in warnings:
            match event.params:
                case wire.ConfigWarningNotification(summary=summary, details=details):
                    text = f"{summary} {details or ''}"
                case wire.WarningNotification(message=message):
                    text = message
                case _:
                    text = event.method
            examination.note("warning", "warning", text)
