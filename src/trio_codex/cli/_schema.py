"""``trio-codex doctor --schema``: report how the protocol of a binary differs from the built-in one.

It runs the binary in an empty home just long enough to print its schema; no server is started.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click
import trio
from rich.text import Text

from trio_codex import __version__
from trio_codex.binary import TESTED, find_binary, read_version
from trio_codex.cli._drift import Difference, NotASchema, compare
from trio_codex.cli._render import OutputConsole
from trio_codex.cli._text import CommandFailed, camel_case, one_line, printable
from trio_codex.wire._schema.read import BUNDLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_codex import CodexConfig
    from trio_codex.binary import Binary

BUILT_IN: Final = TESTED[1]

SIGNS: Final = {"added": ("+", "green"), "gone": ("-", "red"), "changed": ("~", "yellow")}


async def examine_schema(*, config: CodexConfig, as_json: bool) -> int:
    """Compare the protocols, report the differences, and return the exit status, which is 1 if any difference matters."""
    binary = find_binary(config.codex_bin, config.environment().get("PATH"))
    bundle = await _print_schema(binary, config.start_timeout)
    version = binary.version or await read_version(binary.path)
    try:
        differences = compare(bundle)
    except NotASchema as exc:
        raise CommandFailed(f"{binary.path}: its output is not a readable schema: {exc}") from None
    if as_json:
        _write_json(binary, version, differences)
    else:
        _write_lists(binary, version, differences)
    matter = sum(difference.matters for difference in differences)
    if matter:
        count = "1 difference matters" if matter == 1 else f"{matter} differences matter"
        click.echo(
            f"trio-codex: {count}: {binary.path} does not support everything in the built-in protocol ({BUILT_IN})",
            err=True,
        )
    return 1 if matter else 0


async def _print_schema(binary: Binary, seconds: float) -> Any:
    """Run the binary to write its schema, with a timeout in seconds."""
    with tempfile.TemporaryDirectory(prefix="trio-codex-schema-") as scratch:
        # An empty home, so that the output does not depend on the user's configuration.
        env = {**os.environ, "HOME": scratch, "CODEX_HOME": scratch}
        out = Path(scratch) / "schema"
        command = [binary.path, "app-server", "generate-json-schema", "--experimental", "--out", str(out)]
        ended = None
        try:
            with trio.move_on_after(seconds):
                ended = await trio.run_process(
                    command,
                    env=env,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    capture_stdout=True,
                    capture_stderr=True,
                )
            if ended is None:
                problem = f"it did not end within {seconds:g} s"
            elif ended.returncode == 0:
                return json.loads((out / BUNDLE).read_bytes())
            else:
                stderr = ended.stderr.decode("utf-8", "replace").strip()
                problem = stderr or f"exit status {ended.returncode}"
        except FileNotFoundError as exc:
            problem = "it wrote none" if exc.filename == str(out / BUNDLE) else str(exc)
        except (OSError, ValueError) as exc:
            problem = str(exc)
        raise CommandFailed(one_line(f"{binary.path} does not print its schema: {problem}"))


def _write_json(binary: Binary, version: str | None, differences: Sequence[Difference]) -> None:
    report = {
        "ok": not any(difference.matters for difference in differences),
        "trio_codex": __version__,
        "built_in": BUILT_IN,
        "binary": binary.path,
        "version": version,
        "differences": [attrs.asdict(difference) for difference in differences],
    }
    click.echo(json.dumps(camel_case(report), indent=2))


def _write_lists(binary: Binary, version: str | None, differences: Sequence[Difference]) -> None:
    console = OutputConsole(highlight=False, markup=False, emoji=False)
    console.print_after(
        Text(),
        Text.assemble(
            ("trio-codex doctor --schema", "bold"),
            f" {__version__}: {binary.path} ({version or 'of unknown version'}) against {BUILT_IN}",
        ),
    )
    if not differences:
        console.print(Text.assemble(("✓ ", "green"), "the protocol is the same"))
        return
    matter = [difference for difference in differences if difference.matters]
    harmless = [difference for difference in differences if not difference.matters]
    for one, several, mark, style, chosen in (
        ("matters", "matter", "✗ ", "bold red", matter),
        ("does not matter", "do not matter", "· ", "dim", harmless),
    ):
        if not chosen:
            continue
        console.print_after(
            Text(mark, style),
            Text(f"{len(chosen)} {one if len(chosen) == 1 else several}: {_counts(chosen)}"),
        )
        for difference in chosen:
            sign, color = SIGNS[difference.change]
            detail = (f" ({printable(difference.detail)})" if difference.detail else "", "dim")
            console.print_after(
                Text(f"    {sign} ", color),
                Text.assemble(f"{difference.kind} {printable(difference.name)}", detail),
            )


def _counts(differences: Sequence[Difference]) -> str:
    """Count the differences of each kind. They are sorted by kind and change."""
    counts: list[str] = []
    for (kind, change), group in groupby(differences, key=lambda each: (each.kind, each.change)):
        count, name = len([*group]), "union member" if kind == "member" else kind
        counts.append(f"{count} {name if count == 1 else f'{name}s'} {change}")
    return ", ".join(counts)
