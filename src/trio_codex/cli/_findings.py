"""What ``trio-codex doctor`` finds, and how it is printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import click
from rich.text import Text

from trio_codex import CodexConfig, __version__
from trio_codex.cli._render import OutputConsole
from trio_codex.cli._text import camel_case, explain, one_line
from trio_codex.errors import StartTimeout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex.cli._attach import Source
    from trio_codex.errors import CodexError

Status = Literal["ok", "warning", "problem", "skipped"]

MARKS: Final = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "bold red"),
    "skipped": ("·", "dim"),
}
OWN_NAME: Final = "trio-codex doctor"
"""A hint that mentions this command is replaced, because the user has just run it."""

SLOW: Final = "Raise --start-timeout. If that does not help, check that this is a codex binary: run it with app-server --help."
NO_SERVER: Final = "Check that this is a codex binary with an app-server: run it with app-server --help."


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
    """Collects findings.

    Args:
        source: The server to examine.

    Attributes:
        findings: The findings so far.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.findings: list[Finding] = []

    def note(self, name: str, status: Status, value: str, hint: str | None = None, **details: Any) -> None:
        """Add a finding."""
        self.findings.append(Finding(name, status, one_line(value), hint and one_line(hint), details))

    def note_error(self, name: str, error: CodexError) -> None:
        """Add an error as a finding."""
        cause, hint = explain(error)
        if hint and OWN_NAME in hint:
            hint = SLOW if isinstance(error, StartTimeout) else NO_SERVER
        self.note(name, "problem", cause, hint)

    @property
    def own_config(self) -> CodexConfig | None:
        """The configuration of a server that was started; ``None`` for one that was already running."""
        return self._source if isinstance(self._source, CodexConfig) else None

    @property
    def budget(self) -> float:
        """The timeout of each query: that of the start, because a query needs no network."""
        source = self._source
        return source.start_timeout if isinstance(source, CodexConfig) else source.config.start_timeout

    @property
    def problems(self) -> list[Finding]:
        """The problems found."""
        return [finding for finding in self.findings if finding.status == "problem"]


def print_json(examination: Examination) -> None:
    """Print the findings as one JSON object."""
    findings = [
        {**attrs.asdict(finding, recurse=False), "details": camel_case(finding.details)}
        for finding in examination.findings
    ]
    report = {"ok": not examination.problems, "trio_codex": __version__, "findings": findings}
    click.echo(json.dumps(camel_case(report), indent=2))


def print_table(examination: Examination) -> None:
    """Print the findings for a person, one per line."""
    console = OutputConsole(highlight=False, markup=False, emoji=False)
    console.print(Text.assemble(("trio-codex doctor", "bold"), f" {__version__}"))
    width = max((len(finding.name) for finding in examination.findings), default=0)
    for finding in examination.findings:
        mark, style = MARKS[finding.status]
        value = (finding.value, "dim" if finding.status == "skipped" else "")
        start = Text.assemble((f"{mark} ", style), (f"{finding.name:<{width}}  ", "bold"))
        console.print_after(start, Text(*value))
        if finding.hint:
            console.print_after(Text(f"  {'':<{width}}→ ", style), Text(finding.hint))
