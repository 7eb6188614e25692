"""The method tables match the schema, and their classifications are consistent."""

from __future__ import annotations

import pytest

from trio_codex import wire
from trio_codex.wire._registry import UNLISTED_NOTIFICATIONS

REQUESTS = wire.CLIENT_REQUESTS


def test_the_tables_have_every_method_of_the_schema() -> None:
    assert len(REQUESTS) == 189
    assert sum(spec.experimental for spec in REQUESTS.values()) == 79
    assert len(wire.NOTIFICATIONS) == 89
    assert len(wire.SERVER_REQUESTS) == 11
    assert [method for method, spec in wire.SERVER_REQUESTS.items() if spec.experimental] == [
        "currentTime/read"
    ]
    assert wire.CLIENT_NOTIFICATIONS == {"initialized": None}


def test_the_tables_contain_notifications_that_the_schema_does_not_list() -> None:
    assert {method: wire.NOTIFICATIONS[method] for method in UNLISTED_NOTIFICATIONS} == {
        "rawResponse/completed": "RawResponseCompletedNotification",
        "rawResponseItem/completed": "RawResponseItemCompletedNotification",
    }


def test_every_type_of_a_table_exists() -> None:
    names = {name for spec in REQUESTS.values() for name in (spec.params, spec.result)}
    names |= {name for spec in wire.SERVER_REQUESTS.values() for name in (spec.params, spec.response)}
    names |= set(wire.NOTIFICATIONS.values())
    for name in names - {None}:
        assert hasattr(wire, name)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("initialize", ("InitializeParams", "InitializeResponse", False, False, False)),
        ("thread/start", ("ThreadStartParams", "ThreadStartResponse", False, False, False)),
        ("command/exec", ("CommandExecParams", "CommandExecResponse", False, True, False)),
        ("mcpServer/tool/call", ("McpServerToolCallParams", "McpServerToolCallResponse", False, True, False)),
        ("turn/interrupt", ("TurnInterruptParams", "TurnInterruptResponse", False, False, True)),
        ("config/value/write", ("ConfigValueWriteParams", "ConfigWriteResponse", False, False, False)),
        ("account/logout", (None, "LogoutAccountResponse", False, False, False)),
        ("process/spawn", ("ProcessSpawnParams", "ProcessSpawnResponse", True, False, False)),
    ],
)
def test_a_request_has_its_types_and_flags(method: str, expected: tuple[object, ...]) -> None:
    assert tuple(REQUESTS[method])[:5] == expected


def test_a_request_missing_from_older_servers_names_the_version_that_added_it() -> None:
    since = {method: spec.since for method, spec in REQUESTS.items() if spec.since is not None}
    assert (since["thread/sample"], since["modelProvider/list"]) == ("0.164.0", "0.168.0")
    assert not since.keys() & {"initialize", "thread/start", "turn/start", "turn/interrupt", "thread/revert"}


def test_requests_that_end_something_bypass_the_window() -> None:
    control = {method for method, spec in REQUESTS.items() if spec.control}
    assert control >= {
        "turn/interrupt", "turn/steer", "thread/unsubscribe", "thread/backgroundTerminals/terminate",
        "command/exec/terminate", "command/exec/write", "command/exec/resize", "process/kill", "process/writeStdin",
        "process/resizePty", "fs/unwatch", "account/login/cancel",
    }  # fmt: skip
    assert not any(REQUESTS[method].deferred for method in control)


def test_only_plain_text_is_merged() -> None:
    assert wire.TEXT_DELTAS["item/agentMessage/delta"] == ("delta", ("threadId", "turnId", "itemId"))
    assert wire.TEXT_DELTAS.keys() <= wire.NOTIFICATIONS.keys()
    assert not any("base64" in delta.text.lower() for delta in wire.TEXT_DELTAS.values())
    assert "command/exec/outputDelta" not in wire.TEXT_DELTAS
