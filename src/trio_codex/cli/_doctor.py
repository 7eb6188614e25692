"""``trio-codex doctor``: check this installation, and report problems and how to fix them.

It checks everything on the server that would make ``run`` fail. It calls no model and stores no thread: the thread that it
starts is ephemeral, and read-only so that the server does not record the directory as trusted.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import click
import trio
from rich.text import Text

from trio_codex import Sandbox, __version__, open_codex, wire
from trio_codex.binary import TESTED, Binary, check_version, find_binary, read_version
from trio_codex.cli._render import OutputConsole, duration
from trio_codex.cli._text import explain, one_line, sentence
from trio_codex.errors import CodexError, SpawnError, StartError, StartTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_codex import Codex, CodexConfig, Event, Subscription

Status = Literal["ok", "warning", "problem", "skipped"]

MARKS: Final = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "bold red"),
    "skipped": ("·", "dim"),
}
SOURCES: Final = {"explicit": "as given", "package": "of trio-codex[runtime]", "path": "on PATH"}
OWN_NAME: Final = "trio-codex doctor"
"""A hint that mentions this command is replaced, because the user has just run it."""

NO_SERVER: Final = "Check that this is a codex binary with an app-server: run it with app-server --help."

VERSION_SECONDS: Final = 2.0
"""Timeout for ``codex --version`` of a binary that failed to start as a server; it takes 30 ms."""

SANDBOX_SECONDS: Final = 10.0
"""Timeout for a no-op command in the sandbox; it takes 50 ms."""

PAGES: Final = 50
"""Maximum number of pages of models to count."""

WARNINGS: Final = ("configWarning", "warning")
"""Notifications with warnings for the user."""


@attrs.frozen
class Finding:
    """The result of checking one part of the installation.

    Attributes:
        name: The part.
        status: The status.
        value: The result in one line.
        hint: How to fix a problem.
        details: The result in machine-readable form.
    """

    name: str
    status: Status
    value: str
    hint: str | None = None
    details: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


class Examination:
    """Collects findings."""

    def __init__(self, config: CodexConfig) -> None:
        self.config = config
        self.findings: list[Finding] = []

    def note(self, name: str, status: Status, value: str, hint: str | None = None, **details: Any) -> None:
        """Add a finding."""
        self.findings.append(Finding(name, status, one_line(value), hint and one_line(hint), details))

    def note_error(self, name: str, error: CodexError) -> None:
        """Add an error as a finding."""
        cause, hint = explain(error)
        if hint and OWN_NAME in hint:
            hint = NO_SERVER
        self.note(name, "problem", cause, hint)

    @property
    def problems(self) -> list[Finding]:
        """The problems found."""
        return [finding for finding in self.findings if finding.status == "problem"]


async def examine(*, config: CodexConfig, as_json: bool) -> int:
    """Examine the installation, report the findings, and return the exit status."""
    examination = Examination(config)
    await _examine(examination)
    if as_json:
        _print_json(examination)
    else:
        _print_table(examination)
    problems = examination.problems
    if problems:
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        cause = f"{problems[0].name}: {problems[0].value}"
        click.echo(f"trio-codex: {sentence(cause, problems[0].hint)}{more}", err=True)
    return 1 if problems else 0


async def _examine(examination: Examination) -> None:
    await trio.lowlevel.checkpoint()
    config = examination.config
    try:
        binary = find_binary(config.codex_bin, config.environment().get("PATH"))
    except SpawnError as exc:
        examination.note_error("binary", exc)
        return
    examination.note(
        "binary", "ok", f"{binary.path} ({SOURCES[binary.source]})", path=binary.path, source=binary.source
    )
    began = trio.current_time()
    closing: float | None = None
    try:
        async with open_codex(config) as codex:
            # Subscribe before awaiting anything else: the server sends its warnings right after the handshake.
            async with codex.events(*WARNINGS) as warnings:
                _note_version(examination, binary, codex.metadata.server_version)
                took = trio.current_time() - began
                examination.note(
                    "start", "ok", f"answered initialize after {duration(took)}", seconds=round(took, 3)
                )
                await _inquire(examination, codex, warnings, binary)
            closing = trio.current_time()
    except StartError as exc:
        version = binary.version
        # A binary that hangs as a server would hang here, too, and use up another timeout.
        if version is None and not isinstance(exc, StartTimeout):
            with trio.move_on_after(VERSION_SECONDS):
                version = await read_version(binary.path)
        _note_version(examination, binary, version)
        examination.note_error("start", exc)
    except CodexError as exc:
        examination.note_error("server", exc)
    if closing is not None:
        took = trio.current_time() - closing
        examination.note("stop", "ok", f"exited after {duration(took)}", seconds=round(took, 3))


def _note_version(examination: Examination, binary: Binary, version: str | None) -> None:
    standing = check_version(version)
    oldest, newest = TESTED
    tested = oldest if oldest == newest else f"{oldest} to {newest}"
    details: dict[str, Any] = {"version": version, "tested": list(TESTED), "standing": standing}
    match standing:
        case "tested":
            examination.note("version", "ok", f"{version}, a tested version", **details)
        case "unknown" if version is None:
            examination.note(
                "version",
                "warning",
                f"unknown; tested: {tested}",
                f"Run {binary.path} --version.",
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


async def _inquire(
    examination: Examination, codex: Codex, warnings: Subscription[Event], binary: Binary
) -> None:
    """Query a running server. Each query has the same timeout as the start, because it needs no network."""
    _note_home(examination, codex)
    budget = examination.config.start_timeout
    if not await _try(examination, "configuration", budget, _start_thread, codex, examination):
        for name in ("login", "models"):
            examination.note(name, "skipped", "not checked, because the configuration cannot be read")
    else:
        await _try(examination, "login", budget, _read_account, codex, examination, binary)
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
    examination.note(name, "problem", f"no answer within {budget:g} s")
    return False


def _note_home(examination: Examination, codex: Codex) -> None:
    home = codex.metadata.codex_home or os.fspath(examination.config.home())
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


async def _read_account(codex: Codex, examination: Examination, binary: Binary) -> None:
    answer = await codex.api.account.read()
    needed = answer.requires_openai_auth
    details: dict[str, Any] = {"needed": needed, "type": None, "plan": None}
    match answer.account:
        case None if needed:
            examination.note(
                "login", "problem", "not logged in", f"Log in with: {binary.path} login", **details
            )
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
    seconds = min(SANDBOX_SECONDS, examination.config.start_timeout)
    answer = await codex.api.command.exec(
        command=["true"], sandbox_policy=wire.ReadOnlySandboxPolicy(), timeout_ms=int(seconds * 1000)
    )
    helper = shutil.which("bwrap", path=examination.config.environment().get("PATH"))
    if answer.exit_code != 0:
        reason = answer.stderr.strip() or f"exit status {answer.exit_code}"
        hint = None
        if sys.platform == "linux":
            hint = "Install bubblewrap, and allow this user to create user namespaces."
        examination.note("sandbox", "problem", f"a command cannot run in it: {reason}", hint, helper=helper)
    elif sys.platform == "linux":
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


def _print_json(examination: Examination) -> None:
    findings = [attrs.asdict(finding, recurse=False) for finding in examination.findings]
    report = {"ok": not examination.problems, "trio_codex": __version__, "findings": findings}
    click.echo(json.dumps(report, indent=2))


def _print_table(examination: Examination) -> None:
    console = OutputConsole(highlight=False, markup=False, emoji=False)
    console.print(Text.assemble(("trio-codex doctor", "bold"), f" {__version__}"))
    width = max((len(finding.name) for finding in examination.findings), default=0)
    for finding in examination.findings:
        mark, style = MARKS[finding.status]
        value = (finding.value, "dim" if finding.status == "skipped" else "")
        # Leave wrapping to the terminal, so that paths can be copied from it.
        line = Text.assemble((f"{mark} ", style), (f"{finding.name:<{width}}  ", "bold"), value)
        console.print(line, soft_wrap=True)
        if finding.hint:
            console.print(Text.assemble((f"  {'':<{width}}→ ", style), finding.hint), soft_wrap=True)
