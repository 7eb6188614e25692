"""The commands ``batch report`` and ``batch merge``."""

from __future__ import annotations

from typing import Any

import click

from trio_codex.cli._execution import execute
from trio_codex.cli._options import config_of, own_server_options

OUT = click.argument("out", metavar="DIRECTORY", type=click.Path(exists=True, file_okay=False))


@click.command("report", short_help="Write an HTML page about a batch.")
@OUT
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="The path of the page. Default: report.html in DIRECTORY.",
)
@click.option("--no-transcripts", is_flag=True, help="Omit the transcripts, and start no server.")
@own_server_options
def batch_report(out: str, **options: Any) -> int:
    """Write a report of a batch: a self-contained HTML page.

    It contains a summary, the distributions of time and tokens, and for each task its outcome and the transcripts of
    its attempts with their timelines. The batch may be running.

    A server reads the transcripts. Unless --codex-home is given, it uses the CODEX_HOME in which each thread was
    started.
    """
    from trio_codex.cli._batch import report

    return execute(report, out, config=config_of(options), **options)


@click.command("merge", short_help="Merge the shards of a batch.")
@click.argument(
    "outs", metavar="DIRECTORY...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False)
)
@click.option("--into", required=True, metavar="DIRECTORY", help="The directory to create.")
def batch_merge(outs: tuple[str, ...], into: str) -> int:
    """Merge the shards of a batch into one directory.

    "status", "results", "report" and "run" work on it as if the batch had run there. The shards are not changed.

    It is an error if they have different settings, or different outcomes for the same task.
    """
    from trio_codex.cli._batch import merge_shards

    return merge_shards(outs, into)
