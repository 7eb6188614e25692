"""``trio-codex replay``: a recording as a timeline."""

import re
import time
from pathlib import Path

import msgspec
import pytest

from trio_codex.cli._commands import run
from trio_codex.recording import Entry
from trio_codex.recording._file import Header

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def shown(capsys, monkeypatch):
    """Show a recording, and return its lines without their times."""
    monkeypatch.setenv("COLUMNS", "200")

    def show(path, *options, status=0):
        assert run(["replay", str(path), *options]) == status
        out, err = capsys.readouterr()
        return [re.sub(r"^ *\d+\.\d{3}  ", "", line) for line in out.splitlines()], err

    return show


def write(path, *entries):
    header = Header(1, "0.1.0", None, 0.0)
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in (header, *entries)))
    return path


def test_a_recorded_session_is_shown_as_a_timeline(shown):
    lines, err = shown(GOLDEN / "session.readable.jsonl")
    assert err == ""
    told = [re.sub(r"\d+ ms", "N ms", line) for line in lines if line]
    assert told == [
        "recorded without content",
        "connection opened",
        "→ thread/start",
        "▶ look it up",
        "→ look_up",
        "? item/tool/call  look_up",
        "= done by tool, look_up, after N ms",
        "it is there",
        "● turn completed · N ms",
        "▶ run it",
        "$ echo granted",
        "? item/commandExecution/requestApproval  /bin/bash -c 'echo granted'",
        "= accept (session) by client, policy_for.<locals>.command, after N ms",
        "  ✓ · N ms",
        "it is done",
        "● turn completed · N ms",
        "▶ talk",
        "a long",
        "↪ shorter",
        "short",
        "● turn completed · N ms",
        "▶ talk on",
        "on and",
        "■ interrupt",
        "● turn interrupted · N ms",
        "connection ended: ConnectionClosed",
    ]


def test_a_recording_can_be_shown_at_its_original_speed(shown):
    start = time.monotonic()
    shown(GOLDEN / "session.redacted.jsonl", "--speed", "4")
    assert time.monotonic() - start > 0.1


def test_changes_errors_discarded_lines_and_several_connections_are_shown(shown, tmp_path):
    change = {"path": "/w/a.txt", "kind": {"type": "add"}, "diff": "".join(f"{n}\n" for n in range(50))}
    item = {"type": "fileChange", "id": "f", "changes": [change], "status": "completed"}
    of_turn = {"threadId": "t", "turnId": "u", "completedAtMs": 1}
    ask = {"message": "which\x1b[2J one?", "threadId": "t"}
    path = write(
        tmp_path / "two.jsonl",
        Entry(0.0, 1, "opened"),
        Entry(0.1, 2, "opened"),
        Entry(0.2, 1, "sent", message={"id": 1, "method": "turn/start", "params": {}}),
        Entry(0.3, 1, "received", message={"id": 1, "error": {"code": -32600, "message": "no\nsuch"}}),
        Entry(0.3, 1, "received", message={"id": 9, "error": {"code": 5, "message": "what"}}),
        Entry(0.3, 1, "received", message={"id": 1, "result": {}}),
        Entry(0.3, 2, "received", message={"id": 2, "result": {"thread": {"id": "t"}, "cwd": "/w"}}),
        Entry(0.4, 2, "received", message={"method": "item/completed", "params": {**of_turn, "item": item}}),
        Entry(
            0.5, 2, "received", message={"id": 5, "method": "mcpServer/elicitation/request", "params": ask}
        ),
        Entry(0.5, 2, "sent", message={"id": 5, "result": {}}),
        Entry(
            0.6, 2, "decision", decision={"outcome": "withdrawn", "decided_by": "default", "reason": "over"}
        ),
        Entry(0.7, 2, "discarded", size=9, reason="not JSON"),
        Entry(0.7, 2, "received", size=99),
        Entry(0.8, 2, "ended", reason="ServerExited (exit status 1)"),
    )
    lines, _ = shown(path)
    assert lines[:5] == [
        "1│ connection opened",
        "2│ connection opened",
        "1│ ▶ (no text)",
        "1│ ✗ turn/start: no such (-32600)",
        "1│ ✗ a request: what (5)",
    ]
    assert lines[5] == "2│ ± add a.txt  +50 -0"
    assert lines[6] == "2│   +0"
    assert lines[46] == "2│   … 10 more lines"
    assert "\x1b" not in lines[47]
    assert lines[48:] == [
        "2│ = withdrawn by default, after 0 ms: over",
        "2│ ! discarded a line of 9 bytes: not JSON",
        "2│ connection ended: ServerExited (exit status 1)",
    ]


def test_control_characters_in_a_recording_are_escaped(shown, tmp_path):
    evil = "\x1b]0;title\x07\x1b[2J"
    turn = {"id": "u", "items": [], "status": evil, "error": None}
    path = write(
        tmp_path / "evil.jsonl",
        Entry(0.0, 1, "sent", message={"id": 1, "method": evil}),
        Entry(0.0, 1, "received", message={"id": 1, "error": {"code": evil, "message": evil}}),
        Entry(0.0, 1, "received", message={"id": 2, "method": evil, "params": {"command": evil}}),
        Entry(
            0.0,
            1,
            "received",
            message={"method": "turn/completed", "params": {"threadId": "t", "turn": turn}},
        ),
        Entry(0.0, 1, "discarded", size=1, reason=evil),
        Entry(0.0, 1, "decision", decision={"outcome": evil, "decided_by": evil, "policy": evil}),
        Entry(0.0, 1, "ended", reason=evil),
    )
    lines, _ = shown(path)
    assert len(lines) == 7
    assert "\x1b" not in "".join(lines)


def test_a_truncated_recording_is_reported_with_a_failure_status(shown, tmp_path):
    path = write(tmp_path / "torn.jsonl", Entry(0.0, 1, "opened"))
    path.write_bytes(path.read_bytes() + b'{"at":1.0,"connec')
    lines, _ = shown(path, status=1)
    assert lines[0] == "connection opened"
    assert "ends in the middle of a line" in lines[-1]


def test_a_file_that_is_not_a_recording_is_reported_on_one_line(shown, tmp_path):
    path = tmp_path / "none"
    path.write_text("hello")
    _, err = shown(path, status=1)
    assert err.count("\n") == 1
    assert "is not a recording" in err
