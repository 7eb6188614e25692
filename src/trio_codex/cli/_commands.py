"""The commands, their options and help texts, and the exit status for every outcome.

Imports are kept light so that ``--help`` is fast: the implementation of a command is imported when it runs.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from trio_codex import Sandbox, __version__
from trio_codex.cli._batch_commands import OUT, batch_merge, batch_report
from trio_codex.cli._execution import execute, refusal
from trio_codex.cli._options import (
    CODEX_BIN,
    OFFLINE,
    RESUME,
    START_TIMEOUT,
    PositiveFloat,
    config_of,
    own_server_options,
    server_options,
    source_of,
    thread_options,
)
from trio_codex.cli._startup import INTERRUPTED, missing_extra
from trio_codex.cli._text import CommandFailed, explain, one_line, sentence
from trio_codex.errors import CodexError

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="trio-codex %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run Codex agents under Trio: a session, a turn and an approval are scopes.

    \b
      trio-codex demo     see it work, without an account
      trio-codex run "…"  one turn, with your own login
      trio-codex chat     an interactive session
      trio-codex doctor   check this installation
    """  # noqa: D301  # \b tells click not to rewrap the paragraph
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(short_help="Demonstrate trio-codex on the real server.")
@CODEX_BIN
@START_TIMEOUT
def demo(**options: Any) -> int:
    """Demonstrate trio-codex on the real server.

    Needs no account and no network: the model is a scripted mock on this machine. Every guarantee is checked, not just
    shown; the first one that fails ends the demo with status 1 and its name.

    Needs the extras cli, testing and runtime.
    """
    from trio_codex.cli._demo import show

    return execute(show, **options)


@cli.command("run", short_help="Run one turn of an agent.")
@click.argument("prompt")
@RESUME
@thread_options
@click.option(
    "--timeout",
    "seconds",
    type=PositiveFloat(),
    metavar="SECONDS",
    help="Interrupt the turn after this time. Default: no limit.",
)
@click.option(
    "--final", "only_final", is_flag=True, help="Print only the final answer, once the turn has ended."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON line per event on stdout, and the result last."
)
@OFFLINE
@server_options
def run_command(prompt: str, **options: Any) -> int:
    """Run one turn of an agent, with your own Codex login and configuration.

    PROMPT is the message to send; "-" reads it from stdin. The answer goes to stdout as it is written, progress to
    stderr.

    Ctrl-C interrupts the turn on the server, and everything it started there.

    \b
    Exit status:
      0    the turn completed
      1    the turn or the server failed; stderr says why
      2    a bad option
      124  --timeout expired, and the turn was interrupted
      130  it was interrupted
    """  # noqa: D301  # as above
    from trio_codex.cli._run import run_turn

    if prompt == "-":
        prompt = _read_stdin()
    if not prompt.strip():
        raise click.UsageError("the prompt is empty")
    return execute(run_turn, prompt, source=source_of(options), **options)


@cli.command(short_help="Chat with an agent.")
@RESUME
@thread_options
@OFFLINE
@server_options
def chat(**options: Any) -> int:
    """Chat with an agent, with your own Codex login and configuration.

    Anything you type while a turn is running steers it. Ctrl-C interrupts the turn on the server, not the chat. /help
    lists the commands; /quit or Ctrl-D leaves.

    Without a terminal, each line of stdin is a separate turn, and the answers go to stdout.

    \b
    Exit status:
      0    you left, or stdin ended and its turns completed
      1    the server or, without a terminal, a turn failed
      2    a bad option
      130  Ctrl-C, without a terminal
    """  # noqa: D301  # as above
    from trio_codex.cli._chat import converse

    return execute(converse, source=source_of(options), **options)


class ListsByDefault(click.Group):
    """A group that runs its command ``list`` if no other is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@cli.group(cls=ListsByDefault, short_help="List and manage stored threads.")
def threads() -> None:
    """List, show, archive and delete stored threads. Lists them by default."""


@threads.command("list", short_help="List stored threads.")
@click.option("--archived", is_flag=True, help="List archived threads instead.")
@click.option(
    "-C",
    "--cwd",
    type=click.Path(resolve_path=True),
    help="List only threads with exactly this working directory.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=25,
    show_default=True,
    help="Maximum number of threads.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON line per thread, as the server sends it."
)
@server_options
def threads_list(**options: Any) -> int:
    """List stored threads, most recently changed first."""
    from trio_codex.cli._threads import show_list

    return execute(show_list, source=source_of(options), **options)


@threads.command("show", short_help="Show the turns of a thread.")
@click.argument("thread_id", metavar="ID")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the thread as one JSON line, then one per turn with all its items, as the server sends them.",
)
@server_options
def threads_show(thread_id: str, **options: Any) -> int:
    """Show a thread: its turns, and a summary of their items."""
    from trio_codex.cli._threads import show_thread

    return execute(show_thread, thread_id, source=source_of(options), **options)


_THREAD_IDS = click.argument("thread_ids", metavar="ID...", nargs=-1, required=True)


@threads.command("archive", short_help="Hide threads from normal lists.")
@_THREAD_IDS
@server_options
def threads_archive(thread_ids: tuple[str, ...], **options: Any) -> int:
    """Archive threads, which hides them from normal lists."""
    from trio_codex.cli._threads import archive

    return execute(archive, thread_ids, source=source_of(options))


@threads.command("unarchive")
@_THREAD_IDS
@server_options
def threads_unarchive(thread_ids: tuple[str, ...], **options: Any) -> int:
    """Restore archived threads."""
    from trio_codex.cli._threads import unarchive

    return execute(unarchive, thread_ids, source=source_of(options))


@threads.command("delete")
@_THREAD_IDS
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@server_options
def threads_delete(thread_ids: tuple[str, ...], **options: Any) -> int:
    """Delete threads permanently. Asks for confirmation."""
    from trio_codex.cli._threads import delete

    return execute(delete, thread_ids, source=source_of(options), yes=options["yes"])


@cli.command(short_help="Check this installation.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
@click.option(
    "--schema",
    "only_schema",
    is_flag=True,
    help="Only compare the protocol of the binary with the built-in one.",
)
@server_options
def doctor(only_schema: bool, **options: Any) -> int:
    """Check this installation: binary, version, start, login, sandbox.

    Starts the server as "run" does, queries it, and reports what is wrong and how to fix it. It prints no secrets,
    calls no model, and stores no thread. It also reports on the daemon of this CODEX_HOME, but never starts one.

    With --attach it examines that server instead.

    With --schema it reports how the binary's protocol differs from the one this version was built for: methods, fields,
    enum values and union members that are new (+), removed (-) or changed (~). A difference matters if something built
    in is removed or incompatible.

    Exit status: 0 if there are no problems (there may still be warnings, or differences that do not matter), else 1.
    """
    if only_schema:
        from trio_codex.cli._schema import examine_schema

        if options.pop("attach") is not None or options.pop("token_file") is not None:
            raise click.UsageError(
                "--schema reads the protocol of a binary; it cannot be combined with --attach"
            )
        return execute(examine_schema, config=config_of(options), **options)
    from trio_codex.cli._doctor import examine

    return execute(examine, source=source_of(options), **options)


@cli.command("supervise", short_help="Run a program that outlives its server.")
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False),
    required=True,
    metavar="PATH",
    help="The journal, created if it does not exist. The next run resumes where this one ended.",
)
@server_options
def supervise_command(function: str, journal: str, **options: Any) -> int:
    """Run an async function that takes a supervisor, until it returns.

    Servers that die are replaced. SIGTERM drains: no new prompts are admitted, and the command ends once open turns have
    ended, or after a minute. Under systemd it reports readiness and status, and serves the watchdog (Type=notify,
    WatchdogSec=).
    """
    from trio_codex.cli._supervise import supervise

    source = source_of(options)
    return execute(supervise, function, source=source, journal=journal)


@cli.command("journal", short_help="Show what is in a journal.")
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
def journal_command(path: str) -> int:
    """Show the threads in a journal and the states of their prompts. A supervisor may be using it."""
    from trio_codex.cli._supervise import show_journal

    return execute(show_journal, path)


@cli.command("replay", short_help="Show a recorded session.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--speed",
    type=PositiveFloat(),
    metavar="FACTOR",
    help="Replay at this multiple of the original speed. Default: print everything at once.",
)
def replay_command(file: str, speed: float | None) -> int:
    """Show a recorded session as a timeline: messages, commands and decisions.

    FILE is a file written by a Recorder. Redacted content appears as the same number of "x".
    """
    from trio_codex.cli._replay import show

    return execute(show, file, speed=speed)


@cli.group(short_help="Run many tasks, and show their outcomes.")
def batch() -> None:
    """Run many tasks, and show their outcomes."""


batch.add_command(batch_report)
batch.add_command(batch_merge)


@batch.command("run", short_help="Run the tasks in a file, or resume them.")
@click.argument("file", metavar="TASKS", type=click.Path(exists=True, dir_okay=False))
@click.option("--out", required=True, metavar="DIRECTORY", help="The directory that stores the outcomes.")
@click.option("--solve", metavar="MODULE:FUNCTION", help="The solver. Default: run the prompt of each task.")
@click.option("--turns", type=click.IntRange(1), default=16, show_default=True, help="Concurrent attempts.")
@click.option("--starting", type=click.IntRange(1), help="Concurrent starts. Default: --turns.")
@click.option(
    "--servers",
    default="1",
    show_default=True,
    metavar="COUNT|per-task",
    help="Number of servers that share the attempts; with per-task, each task has its own.",
)
@click.option("--task-tokens", type=click.IntRange(1), help="Token limit for each task.")
@click.option("--task-seconds", type=PositiveFloat(), help="Time limit for each task.")
@click.option("--tokens", type=click.IntRange(1), help="Token limit for all tasks together.")
@click.option(
    "--attempts",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Maximum number of attempts at a task.",
)
@click.option(
    "--workspace",
    default="empty",
    show_default=True,
    metavar="KIND",
    help="The content of the agents' directories: empty, copy:DIRECTORY or git:REPOSITORY[@REVISION].",
)
@click.option(
    "--on-death",
    type=click.Choice(["fresh", "continue"]),
    default="fresh",
    show_default=True,
    help="Restart or continue an attempt that was interrupted because the server or this program died.",
)
@click.option(
    "--keep",
    type=click.Choice(["failed", "all", "none"]),
    default="failed",
    show_default=True,
    help="Which tasks' directories to keep.",
)
@click.option("--shard", metavar="INDEX/COUNT", help="Run only a share of the tasks, such as 0/20.")
@click.option("-m", "--model", metavar="NAME", help="The model. Default: as configured.")
@click.option(
    "-s",
    "--sandbox",
    type=click.Choice([each.value for each in Sandbox]),
    metavar="MODE",
    help="The sandbox: read-only, workspace-write or danger-full-access. Default: as configured.",
)
@click.option(
    "--allow-changes",
    is_flag=True,
    help="Resume even if settings, or tasks without an outcome, have changed.",
)
@click.option("--offline", is_flag=True, help="Use a scripted model on this machine: no account, no network.")
@own_server_options
def batch_run(file: str, *, offline: bool, **options: Any) -> int:
    """Run the tasks in a file, or resume them. Each has its own thread and directory.

    TASKS is a file of JSON Lines with "id", "prompt" and options, or a CSV file with columns of these names. Run the
    command again with the same --out to resume: tasks with an outcome are not run again.

    Press Ctrl-C once to start no more tasks and wait for running ones, and twice to interrupt them. In both cases,
    run the command again to resume.

    \b
    Exit status:
      0    every task is ok
      1    the batch or the server failed; stderr says why
      2    a bad option, or a bad line in TASKS
      3    every task has an outcome, but some are not ok
      130  it was interrupted
    """  # noqa: D301  # as above
    from trio_codex.cli._batch import run_batch

    interrupted = "interrupted. Run the same command to resume"
    config = config_of(options)
    return execute(run_batch, file, config=config, offline=offline, interrupted=interrupted, **options)


@batch.command("status")
@OUT
def batch_status(out: str) -> int:
    """Show the progress of a batch. The batch may be running."""
    from trio_codex.cli._batch import show_status

    return show_status(out)


@batch.command("results", short_help="Print the outcomes of a batch.")
@OUT
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="JSON Lines, or CSV with the values as JSON.",
)
def batch_results(out: str, form: str) -> int:
    """Print the outcomes of a batch, in the order in which the tasks ended. The batch may be running."""
    from trio_codex.cli._batch import show_results

    return show_results(out, form)


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    except OSError as exc:
        raise CommandFailed(f"stdin cannot be read: {exc.strerror or exc}") from exc


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status. Report any error as one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    status = _run(args)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as exc:
            # The interpreter would flush again at exit, and print a traceback.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
            status = status or _complain(refusal(exc))
    return status


def _run(args: Sequence[str] | None) -> int:
    try:
        status = cli.main(args, prog_name="trio-codex", standalone_mode=False)
    except click.ClickException as exc:
        return _complain(_usage(exc), exc.exit_code)
    except CommandFailed as exc:
        return _complain(exc.message, exc.status)
    except CodexError as exc:
        return _complain(sentence(*explain(exc)))
    except click.Abort:  # Ctrl-C while reading the prompt
        return _complain("interrupted", INTERRUPTED)
    except ModuleNotFoundError as exc:
        return _complain(missing_extra(exc))
    except OSError as exc:
        return _complain(refusal(exc))
    return status if isinstance(status, int) else 0


def _complain(line: str, status: int = 1) -> int:
    if line:
        with contextlib.suppress(OSError):  # if stderr is not writable either, only the status is left
            click.echo(f"trio-codex: {line}", err=True)
    return status


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = "trio-codex" if context is None else context.command_path
    message = one_line(error.format_message())
    return f"{message}{'' if message.endswith(('.', '?')) else '.'} Try: {path} --help"
