"""Encoding: which fields are omitted, when null is sent, and only JSON as output."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from trio_codex import wire

TEXT = wire.TextUserInput(text="x")
TEXT_JSON = {"type": "text", "text": "x", "text_elements": []}


def test_none_is_omitted() -> None:
    assert wire.encode(wire.TurnStartParams(thread_id="t", input=[TEXT])) == {
        "threadId": "t",
        "input": [TEXT_JSON],
    }
    assert wire.encode(wire.ThreadListParams()) == {}


def test_false_zero_and_empty_are_sent() -> None:
    params = wire.ThreadListParams(archived=False, limit=0, source_kinds=[])
    assert wire.encode(params) == {"archived": False, "limit": 0, "sourceKinds": []}


def test_a_tag_is_always_sent() -> None:
    assert wire.encode(wire.IdleThreadStatus()) == {"type": "idle"}
    assert wire.encode(wire.RootFileSystemSpecialPath()) == {"kind": "root"}


def test_a_required_field_that_is_null_is_sent() -> None:
    move = wire.ThreadSectionMoveParams(thread_id="t", section_id=None)
    assert wire.encode(move) == {"threadId": "t", "sectionId": None}


CLEARS = [
    (
        wire.ProcessSpawnParams,
        {"command": ["a"], "cwd": "/", "process_handle": "p"},
        "timeout_ms",
        "timeoutMs",
    ),
    (wire.ThreadGoalSetParams, {"thread_id": "t"}, "token_budget", "tokenBudget"),
    (wire.ThreadListParams, {}, "project_id", "projectId"),
    (wire.ThreadMetadataGitInfoUpdateParams, {}, "branch", "branch"),
    (wire.ThreadSectionUpdateParams, {"section_id": "s", "name": "n"}, "appearance", "appearance"),
    (wire.TurnStartParams, {"thread_id": "t", "input": []}, "service_tier", "serviceTier"),
]


@pytest.mark.parametrize(
    ("cls", "given", "field", "name"), CLEARS, ids=lambda row: getattr(row, "__name__", None)
)
def test_null_is_sent_only_if_given_explicitly(
    cls: Any, given: dict[str, Any], field: str, name: str
) -> None:
    assert name not in wire.encode(cls(**given))
    cleared = wire.encode(cls(**given, **{field: wire.NULL}))
    assert cleared[name] is None
    assert getattr(wire.decode(cls, cleared), field) is wire.NULL
    assert getattr(wire.decode(cls, wire.encode(cls(**given))), field) is None


def test_irregular_names_are_kept() -> None:
    hooks = wire.ManagedHooksRequirements(
        permission_request=[], post_compact=[], post_tool_use=[], pre_compact=[], pre_tool_use=[], session_start=[],
        stop=[], subagent_start=[], subagent_stop=[], user_prompt_submit=[],
    )  # fmt: skip
    assert {"PreToolUse", "UserPromptSubmit"} <= wire.encode(hooks).keys()
    assert wire.encode(wire.CommandConfiguredHookHandler(async_=True, command="c"))["async"] is True
    assert wire.encode(wire.AppsConfig(default=wire.AppsDefaultConfig())).keys() == {"_default"}
    assert wire.encode(wire.McpElicitationSchema(properties={}, schema="s"))["$schema"] == "s"


def test_an_externally_tagged_variant_is_wrapped_in_its_key() -> None:
    value = wire.HttpConnectionFailedCodexErrorInfo(http_status_code=503)
    assert wire.encode(value) == {"httpConnectionFailed": {"httpStatusCode": 503}}
    assert wire.encode(wire.HttpConnectionFailedCodexErrorInfo()) == {"httpConnectionFailed": {}}


def test_tuples_and_other_mappings_become_json() -> None:
    params = wire.CommandExecParams(command=("ls", "-l"), env=MappingProxyType({"A": None}))
    assert wire.encode(params) == {"command": ["ls", "-l"], "env": {"A": None}}
    assert wire.encode((TEXT, [wire.TurnStatus.failed], {"k": wire.NULL})) == [
        TEXT_JSON,
        ["failed"],
        {"k": None},
    ]
    assert wire.encode(wire.TurnStartParams(thread_id="t", input=(TEXT,)))["input"] == [TEXT_JSON]


def test_a_string_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match="command must be a list"):
        wire.encode(wire.CommandExecParams(command="ls"))


def test_raw_json_is_written_unchanged() -> None:
    schema = {"type": "object", "properties": {"a": [1, None]}}
    params = wire.TurnStartParams(thread_id="t", input=[], output_schema=schema)
    assert wire.encode(params)["outputSchema"] is schema


def test_an_enum_member_is_sent_like_its_string() -> None:
    for policy in ("on-request", wire.ApprovalPolicy.on_request):
        params = wire.encode(wire.ThreadStartParams(approval_policy=policy))
        assert params == {"approvalPolicy": "on-request"}
        assert type(params["approvalPolicy"]) is str


def test_all_output_can_be_encoded_as_json() -> None:
    value = wire.TurnStartParams(
        thread_id="t",
        input=[TEXT, wire.UnknownVariant(tag="later", raw={"type": "later"})],
        approval_policy=wire.GranularAskForApproval(
            mcp_elicitations=True, rules=True, sandbox_approval=False
        ),
        sandbox_policy=wire.WorkspaceWriteSandboxPolicy(writable_roots=["/w"]),
        service_tier=wire.NULL,
    )
    raw = wire.encode(value)
    assert msgspec.json.decode(msgspec.json.encode(raw)) == raw
    assert wire.decode(wire.TurnStartParams, raw).evolve(sandbox_policy=value.sandbox_policy) == value
