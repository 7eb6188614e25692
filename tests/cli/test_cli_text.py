"""Text made safe for a terminal, and errors on one line."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from trio_codex import TurnResult, errors
from trio_codex.cli._commands import cli
from trio_codex.cli._render import OutputConsole
from trio_codex.cli._text import LINE_LIMIT, explain, one_line, printable, redacted, script_of, sentence


@given(st.text())
def test_control_characters_are_escaped_for_the_terminal(text):
    for strict in (False, True):
        shown = printable(text, strict=strict)
        assert not any(ord(char) < 0x20 and char not in "\n\t" for char in shown)
        assert "\x7f" not in shown
        assert "\x9b" not in shown
    assert "\n" not in one_line(text)
    assert len(one_line(text)) <= LINE_LIMIT


def test_bidirectional_control_characters_are_made_visible():
    assert printable("a\u202eb\u200d", strict=True) == "a\\u202eb\\u200d"
    assert printable("👩‍🔧\u202e") == "👩‍🔧\u202e"
    assert printable("tab\tline\nend") == "tab\tline\nend"


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("/bin/bash -c 'touch x.txt'", "touch x.txt"),
        ("/usr/bin/zsh -lc 'a | b'", "a | b"),
        ("/tmp/bash -c 'touch x.txt'", "/tmp/bash -c 'touch x.txt'"),
        ("/bin/bash -c 'touch \"$0\"' y", "/bin/bash -c 'touch \"$0\"' y"),
        ("/bin/bash -c 'unfinished", "/bin/bash -c 'unfinished"),
        ("rm x", "rm x"),
    ],
)
def test_the_shell_wrapper_of_a_command_is_hidden_only_if_nothing_is_lost(command, script):
    assert script_of(command) == script


def test_keys_are_redacted():
    environment = {"MY_API_KEY": "correct-horse", "SHORT_KEY": "1", "HOME": "/home/user"}
    assert redacted("correct-horse at /home/user 1", environment) == "<MY_API_KEY> at /home/user 1"
    assert redacted("sk-0123456789abcdef", {}) == "<redacted>"
    prefixes = {"A_KEY": "correct-horse", "B_KEY": "correct-horse-battery", "C_KEY": "two\n lines of it"}
    assert redacted("correct-horse-battery correct-horse", prefixes) == "<B_KEY> <A_KEY>"
    assert redacted("two lines of it", prefixes) == "<C_KEY>"


def test_an_error_is_shown_with_its_cause_and_hint_on_one_line():
    error = errors.StartError(
        "codex_bin went\naway",
        "spawn",
        "Pass codex_bin.",
        "/x/codex_bin",
        None,
        1,
        "WARN a\n\x1b[31mError: because\x1b[0m\n",
    )
    assert (
        sentence(*explain(error)) == "--codex-bin went away (/x/codex_bin): Error: because. Pass --codex-bin."
    )
    journal = errors.JournalError("/x", "is not a journal", "Choose another path.")
    assert sentence(*explain(journal)) == "the journal /x is not a journal. Choose another path."
    broken = errors.ServerExited("the server exited", stderr_tail="first\nlast\n")
    assert explain(broken) == ("the server exited: last", None)
    assert explain(errors.RequestTimeout("m", 1)) == ("no answer to m within 1 s", None)
    assert explain(errors.TurnFailed(TurnResult(id="t", thread_id="t", status="failed"))) == (
        "the turn failed",
        None,
    )


@pytest.mark.parametrize(
    ("problem", "hint"),
    [
        ("Failed to read requirements: No file descriptors available (os error 24)", "Archive threads"),
        ("invalid type: integer `3`", "Correct config.toml"),
    ],
)
def test_a_configuration_that_fails_to_load_has_a_hint_for_its_cause(problem, hint):
    error = errors.InvalidRequestError(
        -32600, f"failed to load configuration: {problem}", method="turn/start"
    )
    assert hint in (explain(error)[1] or "")


def test_a_width_of_zero_means_that_it_is_unknown(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    console = OutputConsole(file=io.StringIO())
    console.print("some words")
    assert console.file.getvalue() == "some words\n"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_line_is_wrapped_only_on_a_terminal_and_never_within_a_path(is_terminal):
    path = f"/{'long/' * 20}codex"
    console = OutputConsole(file=io.StringIO(), force_terminal=is_terminal, width=30, color_system=None)
    console.print_after(Text("✓ binary   "), Text(f"found at {path} which is the one of this package"))
    written = console.file.getvalue()
    if is_terminal:
        space = " " * 11
        assert written == (
            f"✓ binary   found at\n{space}{path}\n{space}which is the one of\n{space}this package\n"
        )
    else:
        assert written == f"✓ binary   found at {path} which is the one of this package\n"


@pytest.mark.parametrize("group", [(), ("threads",), ("batch",)], ids=str)
def test_summaries_of_commands_are_not_truncated(group, capsys):
    cli.main([*group, "--help"], terminal_width=60, standalone_mode=False)
    assert not re.search(r"\w\.\.\.$", capsys.readouterr().out, re.MULTILINE)
