"""Equality of prompts and of tool calls, and arguments that are refused."""

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from trio_codex import LocalImageInput, SkillInput, TextInput, open_supervisor, wire
from trio_codex.batch import BatchBudget
from trio_codex.policies import ToolCallRequest, tool_call_keys
from trio_codex.supervision._prompt import digest_of, key_of
from trio_codex.supervision._spending import ToolCalls


def digest(value, directory=".", output_type=None, **options):
    return digest_of(value, options, output_type, directory)


def test_the_same_input_and_options_have_the_same_hash():
    assert digest("a", effort="low") == digest("a", effort="low", policy=object(), idle_limit=3, model=None)
    assert digest(["a", TextInput("b")]) == digest(("a", TextInput("b")))
    assert digest("a", output_schema={"x": 1, "y": 2}) == digest("a", output_schema={"y": 2, "x": 1})


def test_a_different_input_option_or_type_changes_the_hash():
    different = [
        digest("a"),
        digest("b"),
        digest(["a"]),
        digest([TextInput("a")]),
        digest("a", effort="low"),
        digest("a", effort="high"),
        digest("a", cwd="/x"),
        digest("a", output_type=int),
        digest("a", output_type=list[int]),
        digest("a", sandbox=wire.ReadOnlySandboxPolicy()),
        digest("\ud800"),
    ]
    assert len(set(different)) == len(different)


def test_files_are_hashed_by_content(tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"one")
    first = digest([LocalImageInput("picture.png")], tmp_path)
    assert first == digest([LocalImageInput(picture)], "/elsewhere")
    picture.write_bytes(b"two")
    assert digest([LocalImageInput("picture.png")], tmp_path) != first
    missing = digest([SkillInput("x", tmp_path / "missing")])
    assert missing == digest([SkillInput("x", tmp_path / "missing")])


@given(st.text(max_size=250))
@example("a\ud800")
def test_a_key_is_used_unchanged_or_refused(text):
    if 0 < len(text) <= 200 and "~" not in text and "\ud800" not in text:
        assert key_of(text, required=True) == text
    else:
        with pytest.raises(ValueError, match=r"a key (has|cannot contain)"):
            key_of(text, required=True)


def test_a_key_is_generated_where_none_is_required():
    assert key_of(None, required=False) != key_of(None, required=False)
    with pytest.raises(ValueError, match="needs a key"):
        key_of(None, required=True)
    with pytest.raises(TypeError, match="expects a string"):
        key_of(7, required=True)


def call(call_id, tool="add", turn_id="turn-1", **arguments):
    params = wire.DynamicToolCallParams(
        arguments=arguments, call_id=call_id, thread_id="thread-1", tool=tool, turn_id=turn_id
    )
    return ToolCallRequest(
        thread_id="thread-1",
        turn_id=turn_id,
        call_id=call_id,
        tool=tool,
        namespace=None,
        arguments=arguments,
        params=params,
    )


def item(success, tool="add", **arguments):
    status = "completed" if success else "failed"
    return wire.DynamicToolCallThreadItem(
        arguments=arguments, id="i", status=status, tool=tool, success=success
    )


def test_equal_calls_in_a_turn_are_numbered_and_an_unfinished_one_keeps_its_number():
    calls = ToolCalls("thread key", [])
    first, second, other = calls.key(call("1", x=1)), calls.key(call("2", x=1)), calls.key(call("3", x=2))
    assert len({first, second, other}) == 3
    assert calls.key(call("1", x=1)) == first
    # The server recorded the first answer, and died during the second call.
    again = ToolCalls("thread key", [item(True, x=1), item(None, x=1)])
    assert again.key(call("9", x=1, turn_id="turn-2")) == second
    assert ToolCalls("thread other", []).key(call("1", x=1)) != first


def test_without_a_supervisor_the_key_is_derived_from_the_ids():
    assert call("1").idempotency_key == "thread-1:turn-1:1"
    token = tool_call_keys.set(lambda request: f"key of {request.call_id}")
    assert call("1").idempotency_key == "key of 1"
    tool_call_keys.reset(token)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"config": "x"}, r"config expects CodexConfig\(…\) or Attachment\(…\), got str"),
        ({"budget": BatchBudget(tokens=1)}, r"budget expects Budget\(…\), or None, got BatchBudget"),
        ({"restart": 5}, r"restart expects Restart\(…\), got int"),
        ({"probe": 5}, r"probe expects Probe\(…\), or None, got int"),
    ],
)
async def test_a_supervisor_is_not_opened_with_an_argument_of_the_wrong_type(options, told, tmp_path):
    with pytest.raises(TypeError, match=told):
        async with open_supervisor(**options, journal=tmp_path / "journal.db"):
            await trio.lowlevel.checkpoint()
    assert not (tmp_path / "journal.db").exists()
