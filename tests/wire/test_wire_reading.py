"""Decoding is strict where the schema is specific and tolerant elsewhere; errors contain the path."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from cattrs.errors import ClassValidationError
from hypothesis import given
from hypothesis import strategies as st
from wire_classes import ENUMS, QUICK, UNIONS, name_of

from trio_codex import wire
from trio_codex.errors import DecodeError
from trio_codex.testing.strategies import json_values
from trio_codex.wire import _converter
from trio_codex.wire._unions import open_enum, union_hook

DELTA = {"delta": "hi", "itemId": "i", "threadId": "t", "turnId": "u"}
TURN = {"id": "u", "status": "completed", "items": []}

# -- strict --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (str, 1), (str, None), (str, True), (str, ["a"]), (str, {"a": 1}),
        (int, True), (int, 1.0), (int, "1"), (int, None),
        (float, True), (float, "1.5"), (float, None),
        (bool, 1), (bool, "true"), (bool, None),
        (Sequence[str], "abc"), (Sequence[str], {"a": 1}), (Sequence[str], [1]), (Sequence[str], None),
        (Mapping[str, int], [1]), (Mapping[str, int], {"a": "1"}), (Mapping[str, int], "a"),
        (wire.RequestId, True), (wire.RequestId, 1.5), (wire.RequestId, None),
        (wire.ThreadListCwdFilter, 1), (wire.ThreadListCwdFilter, [1]),
        (wire.TurnStatus, 1), (wire.TurnStatus, None),
        (wire.ThreadItem, "plan"), (wire.ThreadItem, None), (wire.ThreadItem, []),
        (wire.AskForApproval, 1), (wire.AskForApproval, None),
        (wire.PlanThreadItem, {"type": "reasoning", "id": "1", "text": "x"}),
        (wire.InitializeCapabilities, "text"), (wire.InitializeCapabilities, []),
        (wire.TurnInterruptResponse, None),
    ],
)  # fmt: skip
def test_nothing_is_coerced(type_: Any, value: object) -> None:
    with pytest.raises(DecodeError):
        wire.decode(type_, value)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (str, ""), (int, 0), (int, 2**63 - 1), (float, 1), (float, 1.5), (bool, False), (Any, {"a": [1]}),
        (wire.RequestId, 0), (wire.RequestId, "0"), (wire.ThreadListCwdFilter, ["/a"]), (wire.AbsolutePathBuf, "/a"),
    ],
)  # fmt: skip
def test_valid_values_are_unchanged(type_: Any, value: object) -> None:
    read = wire.decode(type_, value)
    assert read == value
    assert type(read) is type(value)


def test_an_absent_field_takes_the_default_of_the_schema() -> None:
    assert wire.decode(wire.Turn, TURN).items_view is wire.TurnItemsView.full
    text = wire.decode(wire.TextUserInput, {"type": "text", "text": "x"})
    assert text.text_elements == []
    assert (
        wire.decode(wire.TextUserInput, {"type": "text", "text": "x"}).text_elements is not text.text_elements
    )


def test_null_is_read_as_the_default_where_the_schema_does_not_allow_it() -> None:
    assert wire.decode(wire.Turn, {**TURN, "itemsView": None}).items_view is wire.TurnItemsView.full
    assert (
        wire.decode(wire.TextUserInput, {"type": "text", "text": "x", "text_elements": None}).text_elements
        == []
    )


def test_null_is_invalid_for_a_required_field() -> None:
    with pytest.raises(DecodeError) as caught:
        wire.decode(wire.Turn, {**TURN, "id": None})
    assert (caught.value.path, caught.value.problem) == ("$.id", "expected a string, got null")


def test_a_required_nullable_field_may_be_null_or_absent_from_an_older_server() -> None:
    account = wire.decode(wire.ChatgptAccount, {"type": "chatgpt", "email": None, "planType": "pro"})
    assert account.email is None
    assert wire.encode(account) == {"type": "chatgpt", "email": None, "planType": "pro"}
    assert wire.decode(wire.ChatgptAccount, {"type": "chatgpt", "planType": "pro"}) == account


# -- validation errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "value", "path", "problem"),
    [
        (wire.Turn, {**TURN, "status": 1}, "$.status", "expected a string, got an integer"),
        (wire.Turn, {**TURN, "durationMs": "5"}, "$.durationMs", "expected an integer, got a string"),
        (wire.Turn, {"id": "u", "items": []}, "$.status", "required field missing"),
        (wire.Turn, {**TURN, "items": [{"type": "plan", "id": "1", "text": "x"}, {"type": "plan", "id": 2}]},
         "$.items[1].id", "expected a string, got an integer"),
        (wire.Turn, {**TURN, "items": {}}, "$.items", "expected an array, got an object"),
        (wire.Turn, "turn", "$", "expected an object, got a string"),
        (wire.ThreadItem, 5, "$", "expected an object, got an integer"),
        (wire.PlanThreadItem, {"type": "zzz", "id": "1", "text": "x"}, "$.type", "expected 'plan', got a string"),
        (wire.ToolRequestUserInputResponse, {"answers": {"q": {"answers": [True]}}},
         "$.answers.q.answers[0]", "expected a string, got a boolean"),
        (wire.GranularAskForApproval, {"granular": {"rules": 1}},
         "$.granular.mcp_elicitations", "required field missing"),
        (wire.GranularAskForApproval, {}, "$.granular", "required field missing"),
        (Sequence[wire.Turn], [TURN, None], "$[1]", "expected an object, got null"),
    ],
)  # fmt: skip
def test_a_validation_error_names_the_path(type_: Any, value: object, path: str, problem: str) -> None:
    with pytest.raises(DecodeError) as caught:
        wire.decode(type_, value)
    assert caught.value.path == path
    assert problem == caught.value.problem
    assert caught.value.__cause__ is None


def test_a_validation_error_names_the_type() -> None:
    for type_, name in (
        (wire.Turn, "Turn"),
        (wire.ThreadItem, "ThreadItem"),
        (Sequence[wire.Turn], "the value"),
    ):
        with pytest.raises(DecodeError) as caught:
            wire.decode(type_, 5)
        assert caught.value.what == name


def test_a_validation_error_does_not_contain_the_value() -> None:
    with pytest.raises(DecodeError) as caught:
        wire.decode(wire.PlanThreadItem, {"type": "s3cr3t", "id": "1", "text": ["s3cr3t"]})
    assert "s3cr3t" not in str(caught.value)


def test_an_unexpected_error_does_not_contain_the_value_either() -> None:
    class Odd(dict[str, Any]):
        """A value that no JSON parser returns."""

        def __contains__(self, key: object) -> bool:
            raise RuntimeError("s3cr3t")

    with pytest.raises(DecodeError) as caught:
        wire.decode(wire.Turn, Odd(TURN))
    assert "s3cr3t" not in str(caught.value)
    assert _converter._problem(RuntimeError("s3cr3t")) == "RuntimeError"
    assert _converter._step(ClassValidationError("", [ValueError()], wire.Turn)) == ""


# -- later versions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enum", ENUMS, ids=name_of)
def test_a_known_value_becomes_a_member_and_an_unknown_one_stays_text(enum: Any) -> None:
    for member in enum:
        assert wire.decode(enum, member.value) is member
        assert type(wire.encode(member)) is str
        assert wire.encode(member) == member.value
    (member,) = wire.decode(Sequence[enum], [next(iter(enum)).value])
    assert type(member) is enum
    later = wire.decode(enum, "~later")
    assert type(later) is str
    assert wire.encode(later) == "~later"


@pytest.mark.parametrize("name", UNIONS)
def test_an_unknown_variant_is_kept_and_sent_unchanged(name: str) -> None:
    for raw in (
        {"type": "~later", "kind": "~later", "mode": "~later", "handlerType": "~later"},
        {"~later": 1},
        {},
    ):
        read = wire.decode(UNIONS[name], raw)
        assert isinstance(read, wire.UnknownVariant)
        assert read.raw == raw
        assert wire.encode(read) == raw


def test_an_unknown_variant_keeps_its_tag() -> None:
    assert wire.decode(wire.ThreadItem, {"type": "later", "id": "1"}) == wire.UnknownVariant(
        tag="later", raw={"type": "later", "id": "1"}
    )
    assert wire.decode(wire.ThreadItem, {"id": "1"}) == wire.UnknownVariant(tag=None, raw={"id": "1"})
    assert wire.decode(wire.ThreadItem, {"type": ["odd"]}) == wire.UnknownVariant(
        tag=None, raw={"type": ["odd"]}
    )
    assert wire.decode(wire.ReviewDecision, {"later": {}}) == wire.UnknownVariant(
        tag="later", raw={"later": {}}
    )
    assert wire.decode(wire.ReviewDecision, {"a": 1, "b": 2}) == wire.UnknownVariant(
        tag=None, raw={"a": 1, "b": 2}
    )


def test_unknown_fields_are_ignored() -> None:
    assert wire.decode(wire.Turn, {**TURN, "later": {"x": 1}}) == wire.decode(wire.Turn, TURN)


def test_unknown_fields_are_kept_where_they_are_data() -> None:
    raw = {"model": "m", "mcp_servers": {"a": {"command": "b"}}}
    config = wire.decode(wire.Config, raw)
    assert config.additional == {"mcp_servers": {"a": {"command": "b"}}}
    assert wire.encode(config) == raw


# -- unions without a tag ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "raw", "expected"),
    [
        (wire.AskForApproval, "on-request", wire.ApprovalPolicy.on_request),
        (wire.AskForApproval, "later", "later"),
        (wire.CodexErrorInfo, "usageLimitExceeded", wire.CodexErrorInfoValue.usage_limit_exceeded),
        (wire.CodexErrorInfo, {"httpConnectionFailed": {"httpStatusCode": 503}},
         wire.HttpConnectionFailedCodexErrorInfo(http_status_code=503)),
        (wire.SessionSource, {"subAgent": {"other": "x"}},
         wire.SubAgentSessionSource(sub_agent=wire.OtherSubAgentSource(other="x"))),
        (wire.SessionSource, {"subAgent": "review"},
         wire.SubAgentSessionSource(sub_agent=wire.SubAgentSourceValue.review)),
        (wire.ResourceContent, {"uri": "u", "text": "t"}, wire.TextResourceContent(uri="u", text="t")),
        (wire.ResourceContent, {"uri": "u", "blob": "b"}, wire.BlobResourceContent(uri="u", blob="b")),
        (wire.FunctionCallOutputBody, "text", "text"),
        (wire.FunctionCallOutputBody, [{"type": "input_text", "text": "t"}],
         [wire.InputTextFunctionCallOutputContentItem(text="t")]),
        (wire.ThreadItemsListCursor, "cursor", "cursor"),
        (wire.ThreadItemsListCursor, {"type": "item", "itemId": "i"}, wire.ItemThreadItemsListAnchor(item_id="i")),
        (wire.McpElicitationPrimitiveSchema, {"type": "boolean"}, wire.McpElicitationBooleanSchema()),
        (wire.McpElicitationPrimitiveSchema, {"type": "string"}, wire.McpElicitationStringSchema()),
        (wire.McpElicitationPrimitiveSchema, {"type": "integer"}, wire.McpElicitationNumberSchema(type="integer")),
        (wire.McpElicitationPrimitiveSchema, {"type": "string", "enum": ["a"]},
         wire.McpElicitationUntitledSingleSelectEnumSchema(enum=["a"])),
        (wire.McpElicitationPrimitiveSchema, {"type": "string", "enum": ["a"], "enumNames": ["A"]},
         wire.McpElicitationLegacyTitledEnumSchema(enum=["a"], enum_names=["A"])),
        (wire.McpElicitationPrimitiveSchema, {"type": "string", "oneOf": [{"const": "a", "title": "A"}]},
         wire.McpElicitationTitledSingleSelectEnumSchema(
             one_of=[wire.McpElicitationConstOption(const="a", title="A")])),
        (wire.McpElicitationPrimitiveSchema, {"type": "array", "items": {"type": "string", "enum": ["a"]}},
         wire.McpElicitationUntitledMultiSelectEnumSchema(items=wire.McpElicitationUntitledEnumItems(enum=["a"]))),
        (wire.McpElicitationPrimitiveSchema, {"type": "array", "items": {"anyOf": [{"const": "a", "title": "A"}]}},
         wire.McpElicitationTitledMultiSelectEnumSchema(items=wire.McpElicitationTitledEnumItems(
             any_of=[wire.McpElicitationConstOption(const="a", title="A")]))),
    ],
)  # fmt: skip
def test_a_union_without_a_tag_is_distinguished_as_serde_does(
    type_: Any, raw: object, expected: object
) -> None:
    read = wire.decode(type_, raw)
    assert read == expected
    assert type(read) is type(expected)
    assert wire.encode(read) == raw


def test_a_literal_may_be_a_member() -> None:
    assert wire.decode(Literal["a"] | None, "a") == "a"
    assert wire.decode(Literal["a"] | None, None) is None
    with pytest.raises(DecodeError):
        wire.decode(Literal["a"] | None, "b")


def test_the_members_of_a_union_have_one_tag() -> None:
    with pytest.raises(TypeError, match="different tags"):
        union_hook(
            (wire.IdleThreadStatus, wire.RootFileSystemSpecialPath, wire.UnknownVariant),
            lambda _: open_enum([]),
        )


@pytest.mark.parametrize("mode", ["form", "openai/form", "openaiForm"])
def test_variants_share_the_fields_next_to_their_union(mode: str) -> None:
    raw = {"mode": mode, "message": "m", "requestedSchema": {"type": "object", "properties": {}},
           "serverName": "s", "threadId": "t"}  # fmt: skip
    read = wire.decode_server_request("mcpServer/elicitation/request", raw)
    assert not isinstance(read, wire.UnknownVariant)
    assert wire.encode(read) == raw


# -- by method -----------------------------------------------------------------------------------------------------


def test_a_notification_is_read() -> None:
    expected = wire.AgentMessageDeltaNotification(delta="hi", item_id="i", thread_id="t", turn_id="u")
    assert wire.decode_notification("item/agentMessage/delta", DELTA) == expected
    assert wire.decode_notification_json("item/agentMessage/delta", json.dumps(DELTA).encode()) == expected


def test_a_notification_never_raises() -> None:
    assert wire.decode_notification("no/such", {"a": 1}) == wire.UnknownNotification(
        method="no/such", raw={"a": 1}
    )
    misfit = {**DELTA, "itemId": 7}
    assert wire.decode_notification("item/agentMessage/delta", misfit) == wire.UnknownNotification(
        method="item/agentMessage/delta", raw=misfit, problem="$.itemId: expected a string, got an integer"
    )
    assert wire.decode_notification("warning", None).problem == "$: expected an object, got null"  # type: ignore[attr-defined]
    broken = wire.decode_notification_json("warning", b"{")
    assert isinstance(broken, wire.UnknownNotification)
    assert broken.problem is not None


@QUICK
@given(st.sampled_from(sorted(wire.NOTIFICATIONS)), json_values())
def test_no_payload_makes_a_notification_raise(method: str, params: object) -> None:
    read = wire.decode_notification(method, params)
    assert isinstance(read, wire.Wire)
    if isinstance(read, wire.UnknownNotification):
        assert wire.encode(read) == params


def test_a_server_request_is_read() -> None:
    read = wire.decode_server_request("currentTime/read", {"threadId": "t"})
    assert read == wire.CurrentTimeReadParams(thread_id="t")
    unknown = wire.decode_server_request("no/such", {"a": 1})
    assert unknown == wire.UnknownServerRequest(method="no/such", raw={"a": 1})
    assert wire.encode(unknown) == {"a": 1}
    with pytest.raises(DecodeError) as caught:
        wire.decode_server_request("currentTime/read", {"threadId": 1})
    assert (caught.value.what, caught.value.path) == ("currentTime/read", "$.threadId")


def test_a_result_is_read() -> None:
    assert wire.decode_result("turn/interrupt", {}) == wire.TurnInterruptResponse()
    assert wire.decode_result("turn/start", {"turn": TURN}).turn.status is wire.TurnStatus.completed
    assert wire.decode_result("account/login/start", {"type": "apiKey"}) == wire.ApiKeyLoginAccountResponse()
    assert wire.decode_result("no/such", [1]) == [1]
    with pytest.raises(DecodeError) as caught:
        wire.decode_result(
            "turn/start", {"turn": {**TURN, "items": [{"type": "plan", "id": None, "text": ""}]}}
        )
    assert (caught.value.what, caught.value.path) == ("turn/start", "$.turn.items[0].id")


def test_preload_ignores_unknown_methods() -> None:
    wire.preload(["no/such", "fs/watch", "fs/changed", "item/tool/call", "account/logout"])
