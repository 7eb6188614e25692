"""The command with a missing stream or directory, and Ctrl-C during startup: at most one line of output."""

import os
import subprocess
import sys

import pytest

from cli.cli_driver import COMMAND, SECONDS, SRC, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a shell and /dev/full")

RECORDING = os.path.join(os.path.dirname(os.path.dirname(__file__)), "golden", "session.redacted.jsonl")


def run(*arguments, redirect="", command=COMMAND, stdout=subprocess.PIPE, **more):
    """Run the command in a shell with this redirection. Other streams are pipes, and stdin is empty."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", *command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | more,
        timeout=SECONDS,
        check=False,
    )


WRITERS = {
    "help": ("--help",),
    "replay": ("replay", RECORDING),
    "doctor": ("doctor", "--codex-bin", "/nowhere"),
    "demo": ("demo",),
}


@pytest.mark.parametrize("arguments", WRITERS.values(), ids=WRITERS)
def test_a_closed_stdout_is_reported_on_one_line(arguments):
    done = run(*arguments, redirect=">&-")
    assert (done.returncode, done.stderr) == (1, "trio-codex: stdout is closed\n")


@pytest.mark.parametrize("arguments", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_reported_on_one_line(arguments):
    done = run(*arguments, redirect=">/dev/full")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.startswith("trio-codex: ")
    assert done.stderr.count("\n") == 1


def test_an_error_in_the_final_flush_of_stdout_is_reported():
    code = (
        "import sys\n"
        "from trio_codex.cli import _commands\n"
        "_commands._run = lambda args: sys.stdout.write('a line\\n') and 0\n"
        "sys.exit(_commands.run())\n"
    )
    done = run(redirect=">/dev/full", command=[sys.executable, "-c", code])
    assert done.returncode == 1
    assert done.stderr == "trio-codex: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("name", WRITERS)
def test_a_broken_stdout_pipe_ends_the_command_silently(name):
    read, write = os.pipe()
    os.close(read)
    try:
        done = run(*WRITERS[name], stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_an_unwritable_stderr_does_not_change_the_exit_status(redirect):
    done = run("replay", "/nowhere", redirect=redirect)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    done = run("--version", redirect=redirect)
    assert done.returncode == 0
    assert done.stdout.startswith("trio-codex ")


@pytest.mark.parametrize(
    ("redirect", "problem"),
    [("<&-", "the prompt is empty"), ("0>/dev/null", "stdin cannot be read")],
    ids=["closed", "write-only"],
)
def test_an_unreadable_stdin_is_reported_on_one_line(redirect, problem):
    done = run("run", "-", redirect=redirect)
    assert done.returncode != 0
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("run", "hello"), ("chat",), ("run", "-C", ".", "hello")], ids=str)
def test_a_deleted_working_directory_is_reported_on_one_line(arguments, tmp_path):
    script = f'mkdir "{tmp_path}/gone" && cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && exec "$@"'
    done = run(*arguments, command=["/bin/sh", "-c", script, "sh", *COMMAND])
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("trio-codex: ")


INTERRUPTED_AT = """
import importlib.abc, os, signal, sys
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["trio-codex", *sys.argv[1:]]
signal.signal(signal.SIGINT, signal.default_int_handler)
from _trio_codex_main import main
main()
"""


@pytest.mark.parametrize(
    "name",
    ["trio_codex", "trio", "trio_codex.cli", "click", "trio_codex.cli._commands", "trio_codex.cli._replay"],
)
def test_ctrl_c_while_the_command_starts_is_quiet(name):
    code = INTERRUPTED_AT.format(name=name)
    done = run("replay", RECORDING, command=[sys.executable, "-c", code])
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr.strip() in ("", "trio-codex: interrupted")


@pytest.mark.parametrize("module", ["trio_codex", "trio_codex.cli"])
@pytest.mark.parametrize("name", ["trio_codex._api", "trio", "click", "trio_codex.cli._replay"])
def test_ctrl_c_while_the_module_starts_is_quiet(name, module, tmp_path):
    finder = INTERRUPTED_AT.format(name=name).partition("sys.argv = ")[0]
    restored = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (tmp_path / "sitecustomize.py").write_text(f"{finder}{restored}")
    command = [sys.executable, "-m", module]
    done = run("replay", RECORDING, command=command, PYTHONPATH=f"{tmp_path}{os.pathsep}{SRC}")
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr.strip() in ("", "trio-codex: interrupted")
