"""The line editor, the final parts of streamed Markdown, and lines from stdin."""

import sys

import pytest
import trio

from trio_codex import CodexConfig
from trio_codex.cli._chat import Chat, _Steers
from trio_codex.cli._chat_commands import command_of
from trio_codex.cli._chat_progress import ChatProgress, lines_of
from trio_codex.cli._editor import END_OF_INPUT, LineEditor
from trio_codex.cli._markdown import MarkdownStream
from trio_codex.cli._render import Screen
from trio_codex.cli._terminal import InputEndedError, StdinLines


@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        ("one\ntwo\r", ["one", "two"]),
        ("wörd\x7f\x7fod\n", ["wöod"]),
        ("ac\x1b[Db\n", ["abc"]),
        ("bc\x01a\x05d\n", ["abcd"]),
        ("abX\x1b[D\x1b[3~c\n", ["abc"]),
        ("away\x15here\n", ["here"]),
        ("one two  \x17three\n", ["one three"]),
        ("abc\x02\x02\x0b\n", ["a"]),
        ("first\nsecond\n\x1b[A\x1b[A\n", ["first", "second", "first"]),
        ("first\n\x1b[A\x1b[Bx\n", ["first", "x"]),
        ("\x1b[200~two\nlines\x1b[201~!\n", ["two\nlines!"]),
        ("\x1b[200~\x04a\x15b\x7f\tc\x1b[D\x1b\x1b[201~d\n", ["ab\tcd"]),
        ("ab\x1b\x1b[Dc\n", ["acb"]),
        ("a\x04\x02\x04\n\x04", ["", END_OF_INPUT]),
        ("\x1b[15~\x1bq\x00ok\n", ["ok"]),
    ],
)
def test_keys_edit_the_line_regardless_of_how_the_input_is_split(typed, lines):
    data = typed.encode()
    assert list(LineEditor().feed(data)) == lines
    editor = LineEditor()
    assert [line for byte in data for line in editor.feed(bytes([byte]))] == lines


def test_a_long_line_is_shown_around_its_cursor():
    editor = LineEditor()
    assert list(editor.feed(b"0123456789")) == []
    assert editor.shown(20).plain == "0123456789 "
    assert editor.shown(6).plain == "…6789 "
    list(editor.feed(b"\x01"))
    assert editor.shown(6).plain == "012345"
    list(editor.feed("\x15\x0b日本語\x1b[200~\n\x1b[201~".encode()))
    assert editor.shown(20).plain == "日本語⏎ "
    assert editor.shown(5).plain == "…語⏎ "
    assert editor.shown(4).plain == "…⏎ "


def test_a_markdown_block_is_final_when_the_next_one_begins():
    text = "# Head\n\nA para\ngraph.\n\n- one\n\n  still one\n- two\n\n```py\n\n# no heading\n\n```\nThe end."
    stream = MarkdownStream()
    finals = [final for char in text for final in [stream.feed(char)] if final]
    assert "".join(finals) + stream.tail == text
    assert finals == ["# Head\n\n", "A para\ngraph.\n\n", "- one\n\n  still one\n- two\n\n"]
    assert stream.finish() == "```py\n\n# no heading\n\n```\nThe end."
    assert stream.tail == ""


def test_only_the_last_state_of_an_overwritten_line_is_shown():
    assert lines_of("10 %\r50 %\r100 %\r\n\x1b[31mred\x1b[0m\x07\n") == ["100 %", "red\\x07"]
    assert lines_of("") == []


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("/model", ("model", "")), (" /model  a b ", ("model", "a b")), ("/etc/hosts", None), ("/ x", None), ("x", None),
    ],
)  # fmt: skip
def test_a_command_is_a_slash_and_a_word(line, command):
    assert command_of(line) == command


@pytest.fixture
def file(tmp_path):
    (tmp_path / "lines").write_text("one\ntwö\n\nlast")
    with (tmp_path / "lines").open() as file:
        yield file


async def test_lines_can_be_read_from_a_file(file, monkeypatch):
    with trio.fail_after(5):
        monkeypatch.setattr(sys, "stdin", file)
        lines = StdinLines(Screen())
        assert [await lines.line() for _ in range(4)] == ["one", "twö", "", "last"]
        with pytest.raises(InputEndedError):
            await lines.line()


@pytest.mark.parametrize(("reached", "unsent"), [([], ["Blue."]), (["Blue."], [])])
def test_a_line_that_arrives_after_the_turn_becomes_the_next_message(file, monkeypatch, reached, unsent):
    monkeypatch.setattr(sys, "stdin", file)
    chat = Chat(None, Screen(), {}, "/", (), CodexConfig())
    progress = ChatProgress(chat._screen, "/", None, ())
    progress.messages = reached
    steers = _Steers()
    steers.texts.append("Blue.")
    chat._after(None, progress, steers)
    assert list(chat._unsent) == unsent
