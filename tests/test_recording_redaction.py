"""Redaction of recordings: which values are removed, and what remains."""

import json
import re
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_codex import wire
from trio_codex.recording import Entry, Redaction
from trio_codex.testing.strategies import json_values, wire_values
from trio_codex.wire._registry import NOTIFICATIONS

SECRET = "hunter2 & Söhne"


def redacted(message, **options):
    return Redaction(**options).message(message)


def test_structure_ids_methods_protocol_words_numbers_and_sizes_are_kept():
    message = {
        "method": "item/started",
        "params": {
            "threadId": "01a1fb82-0f92", "turnId": "t", "startedAtMs": 5,
            "item": {
                "type": "commandExecution", "id": "call_1", "command": "rm -r\nx", "cwd": "/home/me",
                "status": "inProgress", "exitCode": None, "durationMs": 7,
            },
        },
    }  # fmt: skip
    item = {**message["params"]["item"], "command": "xxxxx\nx", "cwd": "xxxxxxxx"}
    assert redacted(message) == {**message, "params": {**message["params"], "item": item}}
    assert redacted(message, paths=True)["params"]["item"]["cwd"] == "/home/me"
    assert redacted(message, keep={"command"})["params"]["item"]["command"] == "rm -r\nx"


def test_arbitrary_json_loses_its_names_and_numbers_too():
    message = {
        "id": 3,
        "method": "item/tool/call",
        "params": {
            "threadId": "t", "tool": "lookup", "callId": "c",
            "arguments": {"pin": 4711, "id": "secret-id", "flag": True, "deep": [{"status": "completed"}, None]},
        },
    }  # fmt: skip
    assert redacted(message)["params"]["arguments"] == {
        "key-1": 0,
        "id": "xxxxxxxxx",
        "key-3": True,
        "key-4": [{"status": "xxxxxxxxx"}, None],
    }
    assert redacted(message)["params"]["tool"] == "lookup"


def test_redaction_does_not_depend_on_earlier_messages():
    script = (
        "import sys\n"
        "from trio_codex import wire\n"
        "from trio_codex.recording import _redaction\n"
        "from trio_codex.wire import _index, _lookup\n"
        "if 'resolved' in sys.argv:\n"
        "    for name in _index.HOME:\n"
        "        if isinstance(found := getattr(wire, name), type) and issubclass(found, wire.Wire):\n"
        "            _lookup.fields_of(found)\n"
        "known = _redaction._vocabulary()\n"
        "print(sorted(known.free), sorted(known.names), sorted(known.words), sorted(known.word_fields))\n"
    )
    fresh, resolved = (
        subprocess.run([sys.executable, "-c", script, *given], capture_output=True, check=True).stdout
        for given in ([], ["resolved"])
    )
    assert b"arguments" in fresh
    assert fresh == resolved


def test_names_from_users_are_removed_and_protocol_words_below_them_are_kept():
    message = {"id": 1, "result": {"fileChanges": {"/etc/a": {"type": "add", "content": "x y"}}}}
    assert redacted(message)["result"]["fileChanges"] == {"key-1": {"type": "add", "content": "xxx"}}
    kept = redacted(message, paths=True)["result"]["fileChanges"]
    assert kept == {"/etc/a": {"type": "add", "content": "xxx"}}


def test_json_that_is_not_a_message_is_reported_as_such():
    line = {"level": "info", "user": "Ada", "pin": 4711, "secret name": {"id": "a-b"}}
    left = redacted(line)
    assert not {"Ada", "4711", "secret name", "a-b"} & set(re.findall(r"[\w -]+", json.dumps(left)))
    assert redacted(left) == left


def test_names_unknown_to_the_protocol_can_be_kept():
    message = {"id": 3, "method": "item/tool/call", "params": {"arguments": {"hamlet": "Bern", "zip": 3000}}}
    assert redacted(message, keep={"hamlet"})["params"]["arguments"] == {"hamlet": "Bern", "key-2": 0}


@pytest.mark.parametrize(
    "member",
    [
        {"accountId": "acct-1"}, {"userId": "user-7"}, {"accessToken": "token"}, {"id": "two words"}, {"email": "a@b"},
        {"model": "two words"}, {"prompt": "completed"}, {"name": "Ada"}, {"env": {"KEY": "value"}},
    ],
)  # fmt: skip
def test_personal_data_and_possible_content_are_removed(member):
    [text] = member.values()
    text = text if isinstance(text, str) else text["KEY"]
    assert text not in json.dumps(redacted({"method": "m", "params": member}))


NAMES = [
    "id", "threadId", "session_id", "SESSION_ID", "model", "server", "status", "tool", "type", "version", "role", "method", "env",
    "processHandle", "mimeType", "config", "PATH", "name",
]  # fmt: skip


@pytest.mark.parametrize(
    "where",
    [
        lambda given: {"method": "command/exec", "params": {"env": given}},
        lambda given: {"method": "process/spawn", "params": {"env": given}},
        lambda given: {"method": "thread/start", "params": {"config": {"shell_environment_policy": {"set": given}}}},
        lambda given: {"method": "thread/start", "params": {"config": given}},
        lambda given: {"method": "config/value/write", "params": {"keyPath": "mcp_servers.x.env", "value": given}},
        lambda given: {"method": "config/batchWrite", "params": {"edits": [{"keyPath": "env", "value": given}]}},
        lambda given: {"method": "turn/start", "params": {"responsesapiClientMetadata": given}},
        lambda given: {"method": "feedback/upload", "params": {"tags": given}},
        lambda given: {"id": 1, "result": {"action": "accept", "content": given}},
        lambda given: {"id": 1, "result": {"config": {"mcp_servers": {"x": {"env": given}}}}},
        lambda given: {"id": 1, "error": {"code": 1, "message": "no", "data": given}},
    ],
)  # fmt: skip
def test_every_value_in_a_user_defined_map_is_removed(where):
    for value in ("hunter2-Secret.Token", "completed", "turn/start"):
        left = redacted({**where(dict.fromkeys(NAMES, value)), "method": "m"})
        assert value not in json.dumps(left)


def test_the_parts_of_an_error_that_the_client_reads_are_kept():
    for text, left in (
        ("no active turn to interrupt", "no active turn"),
        ("Invalid request: unknown variant `a/b`, expected", "unknown variant `a/b`"),
        ("expected active turn id `a-1` but found `b-2`.", "expected active turn id `a-1` but found `b-2`"),
        ("thread a already has an active writer: b", "already has an active writer"),
        ("list_turns is not supported yet for b", "list_turns is not supported yet"),
        ("rollout at /a/b.jsonl is empty", ".jsonl is empty"),
        ("secret", "xxxxxx"),
    ):
        error = redacted({"id": 1, "error": {"code": -32600, "message": text, "data": {"a": 1}}})["error"]
        assert (error["code"], error["message"]) == (-32600, left)
    for text in ("the code is 1, but found hunter2", "unknown variant `hunter2`, expected one of `a`, `b`"):
        assert (
            "hunter2" not in redacted({"id": 1, "error": {"code": -1, "message": text}})["error"]["message"]
        )
    said = {"id": 1, "error": {"code": -1, "message": "no active turn to interrupt"}}
    assert redacted(said, keep={"message"}) == redacted(said, keep={"error"}) == said
    assert redacted({"id": 1, "error": "secret"})["error"] == "xxxxxx"
    assert redacted(["secret", 5]) == ["xxxxxx", 0]


def test_a_recorded_failure_is_as_transient_as_it_was():
    for text, left in (
        ("stream disconnected before completion: secret", "stream disconnected" + "x" * 26),
        ("no stream disconnected", "x" * 22),
    ):
        error = {"message": text, "codexErrorInfo": "other"}
        turn = {"id": "t", "items": [], "status": "failed", "error": error}
        params = redacted({"method": "turn/completed", "params": {"threadId": "a", "turn": turn}})["params"]
        assert params["turn"]["error"] == {"message": left, "codexErrorInfo": "other"}


@given(st.text())
def test_a_text_keeps_its_length_and_its_line_breaks(text):
    assert Redaction().text(text) == "".join("\n" if char == "\n" else "x" for char in text)


@given(json_values(), st.sampled_from(sorted(NOTIFICATIONS)))
def test_redacting_twice_changes_nothing_more(params, method):
    once = redacted({"method": method, "params": params})
    assert redacted(once) == once


@given(st.data())
def test_redacted_messages_can_still_be_parsed(data):
    method = data.draw(st.sampled_from(sorted(NOTIFICATIONS)))
    params = wire.encode(data.draw(wire_values(getattr(wire, NOTIFICATIONS[method]))))
    left = redacted({"method": method, "params": params})["params"]
    assert type(wire.decode_notification(method, left)) is type(wire.decode_notification(method, params))


@given(st.recursive(st.just(SECRET), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_text_of_more_than_one_word_is_kept(value):
    for name in ("result", "params", "error"):
        assert SECRET not in json.dumps(redacted({"id": 1, name: value}), ensure_ascii=False)


def test_an_entry_omits_absent_fields():
    line = msgspec.json.encode(Entry(0.5, 1, "opened"))
    assert json.loads(line) == {"at": 0.5, "connection": 1, "kind": "opened"}
