"""The table of server requests is complete, and everything on the wire matches the schema."""

from functools import cache
from typing import get_args

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_codex import policies, wire
from trio_codex._session.request_kinds import KINDS, RequestContext
from trio_codex.errors import DecodeError, PolicyError
from trio_codex.policies import Policy
from trio_codex.testing.strategies import wire_values
from trio_codex.wire import _convert
from trio_codex.wire._registry import SERVER_REQUESTS
from wiregen import schema

COMMAND = {"threadId": "t", "turnId": "u", "itemId": "i", "startedAtMs": 0, "command": "ls"}
TOOL_APPROVAL = {"codex_approval_kind": "mcp_tool_call", "persist": ["session", "always"]}
MCP = {"threadId": "t", "turnId": None, "serverName": "held"}
FORM = {**MCP, "mode": "form", "message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}}
WANTED = {"fileSystem": {"write": ["/w"]}, "network": {"enabled": True}}

ASKED = {
    "item/commandExecution/requestApproval": COMMAND,
    "item/fileChange/requestApproval": COMMAND,
    "execCommandApproval": {
        "conversationId": "t", "callId": "c", "command": ["rm", "a b"], "cwd": "/w", "parsedCmd": [],
    },
    "applyPatchApproval": {"conversationId": "t", "callId": "c", "fileChanges": {}},
    "item/permissions/requestApproval": {**COMMAND, "cwd": "/w", "permissions": WANTED},
    "item/tool/requestUserInput": {
        **COMMAND,
        "isBlocking": True,
        "questions": [{"id": "colour", "header": "", "question": "?"}],
    },
    "mcpServer/elicitation/request": FORM,
    "item/tool/call": {"threadId": "t", "turnId": "u", "callId": "c", "tool": "lookup", "arguments": {}},
    "account/chatgptAuthTokens/refresh": {"reason": "unauthorized", "previousAccountId": None},
    "attestation/generate": {},
    "currentTime/read": {"threadId": "t"},
}  # fmt: skip
"""One request of each kind."""

ONCE, SESSION, ALWAYS = policies.accept(), policies.accept("session"), policies.accept("always")
AMENDED = policies.accept(exec_policy=["git", "status"])
HOST = policies.network_rule("example.org", "deny")
FILLED = policies.accept(content={"ok": True})
REASON, CANCEL = policies.decline("because"), policies.cancel()
GRANT = policies.grant(read=["/r"], write=["/w"], network=True, scope="session", strict_auto_review=True)
ANSWERS = policies.answers({"colour": "Blue"})
RESULT = policies.ToolResult.of_text("sunny")
TOKENS = policies.AuthTokens(access_token="secret", account_id="a")
ATTESTATION = policies.Attestation("secret")
TIME = policies.CurrentTime(1_700_000_000)
REFUSED = {"code": -32000, "message": "because"}

ANSWERED = {
    "item/commandExecution/requestApproval": {
        "ONCE": {"decision": "accept"},
        "SESSION": {"decision": "acceptForSession"},
        "AMENDED": {
            "decision": {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["git", "status"]}}
        },
        "HOST": {
            "decision": {
                "applyNetworkPolicyAmendment": {
                    "network_policy_amendment": {"host": "example.org", "action": "deny"}
                }
            }
        },
        "REASON": {"decision": "decline"},
        "CANCEL": {"decision": "cancel"},
    },
    "item/fileChange/requestApproval": {
        "ONCE": {"decision": "accept"},
        "SESSION": {"decision": "acceptForSession"},
        "REASON": {"decision": "decline"},
        "CANCEL": {"decision": "cancel"},
    },
    "execCommandApproval": {
        "ONCE": {"decision": "approved"},
        "SESSION": {"decision": "approved_for_session"},
        "AMENDED": {
            "decision": {
                "approved_execpolicy_amendment": {"proposed_execpolicy_amendment": ["git", "status"]}
            }
        },
        "HOST": {
            "decision": {
                "network_policy_amendment": {
                    "network_policy_amendment": {"host": "example.org", "action": "deny"}
                }
            }
        },
        "REASON": {"decision": {"denied": {"rejection": "because"}}},
        "CANCEL": {"decision": "abort"},
    },
    "applyPatchApproval": {
        "ONCE": {"decision": "approved"},
        "SESSION": {"decision": "approved_for_session"},
        "REASON": {"decision": {"denied": {"rejection": "because"}}},
        "CANCEL": {"decision": "abort"},
    },
    "item/permissions/requestApproval": {
        "ONCE": {"permissions": WANTED, "scope": "turn"},
        "SESSION": {"permissions": WANTED, "scope": "session"},
        "GRANT": {
            "permissions": {"fileSystem": {"read": ["/r"], "write": ["/w"]}, "network": {"enabled": True}},
            "scope": "session",
            "strictAutoReview": True,
        },
        "REASON": {"permissions": {}, "scope": "turn"},
        "CANCEL": {"permissions": {}, "scope": "turn"},
    },
    "item/tool/requestUserInput": {
        "ANSWERS": {"answers": {"colour": {"answers": ["Blue"]}}},
        "REASON": {"answers": {}},
        "CANCEL": {"answers": {}},
    },
    "mcpServer/elicitation/request": {
        "FILLED": {"action": "accept", "content": {"ok": True}},
        "REASON": {"action": "decline"},
        "CANCEL": {"action": "cancel"},
    },
    "item/tool/call": {
        "RESULT": {"contentItems": [{"type": "inputText", "text": "sunny"}], "success": True},
        "REASON": {"contentItems": [{"type": "inputText", "text": "because"}], "success": False},
        "CANCEL": {
            "contentItems": [{"type": "inputText", "text": "declined by the client"}],
            "success": False,
        },
    },
    "account/chatgptAuthTokens/refresh": {
        "TOKENS": {"accessToken": "secret", "chatgptAccountId": "a", "chatgptPlanType": None},
        "REASON": REFUSED,
        "CANCEL": {"code": -32000, "message": "declined by the client"},
    },
    "attestation/generate": {
        "ATTESTATION": {"token": "secret"},
        "REASON": REFUSED,
        "CANCEL": {"code": -32000, "message": "declined by the client"},
    },
    "currentTime/read": {
        "TIME": {"currentTimeAt": 1_700_000_000},
        "REASON": REFUSED,
        "CANCEL": {"code": -32000, "message": "declined by the client"},
    },
}
"""The wire format of each decision. Decisions that a kind does not list are invalid for it."""

DECISIONS = {
    "ONCE": ONCE, "SESSION": SESSION, "ALWAYS": ALWAYS, "AMENDED": AMENDED, "HOST": HOST, "FILLED": FILLED,
    "REASON": REASON, "CANCEL": CANCEL, "GRANT": GRANT, "ANSWERS": ANSWERS, "RESULT": RESULT, "TOKENS": TOKENS,
    "ATTESTATION": ATTESTATION, "TIME": TIME,
    "nothing": None, "true": True, "a string": "accept", "plain JSON": {"decision": "accept"},
}  # fmt: skip


def question_of(method, params=None):
    decoded = _convert.decode_server_request(method, ASKED[method] if params is None else params)
    return KINDS[method].ask(decoded, RequestContext())


def over_the_wire(answer):
    return (
        answer.result if answer.error is None else dict(zip(("code", "message"), answer.error, strict=True))
    )


def test_every_server_request_of_the_schema_is_in_the_table():
    assert set(KINDS) == set(SERVER_REQUESTS) == set(ASKED) == set(ANSWERED)


def test_kinds_and_callbacks_correspond():
    assert {kind.callback for kind in KINDS.values()} == {
        name for name in Policy.__annotations__ if name not in ("name", "unknown")
    }


def test_a_request_without_a_denial_in_the_protocol_is_answered_with_an_error():
    assert {method for method, kind in KINDS.items() if kind.denial.error} == {
        "account/chatgptAuthTokens/refresh",
        "attestation/generate",
        "currentTime/read",
    }


@pytest.mark.parametrize("method", [method for method, kind in KINDS.items() if not kind.denial.error])
def test_every_denial_fits_the_schema_of_its_response(method):
    schema_of(SERVER_REQUESTS[method].response).validate(KINDS[method].denial.result)


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("method", KINDS)
def test_every_decision_matches_the_schema_or_is_rejected(method, decision):
    question, expected = question_of(method), ANSWERED[method].get(decision)
    try:
        answer = KINDS[method].answer(question, DECISIONS[decision])
    except PolicyError:
        answer = None
    assert (answer and over_the_wire(answer)) == expected
    if answer is not None and answer.error is None:
        schema_of(SERVER_REQUESTS[method].response).validate(answer.result)


@pytest.mark.parametrize("method", KINDS)
@settings(max_examples=settings.default.max_examples // 4)
@given(st.data())
def test_every_valid_request_can_be_parsed_and_declined(method, data):
    params = data.draw(values_of(getattr(wire, SERVER_REQUESTS[method].params)))
    question = KINDS[method].ask(params, RequestContext())
    assert question.params is params
    assert KINDS[method].answer(question, policies.decline()) is not None


def values_of(type_):
    members = [one for one in get_args(type_) or [type_] if one is not wire.UnknownVariant]
    return st.one_of([wire_values(member) for member in members])


# -- elicitations --------------------------------------------------------------------------------------------------

ELICIT = "mcpServer/elicitation/request"
URL = {**MCP, "mode": "url", "message": "Go", "url": "https://example.org", "elicitationId": "e"}
VERIFY = {**MCP, "mode": "openai/userVerification", "challenge": "c", "title": "T", "description": "D"}
APPROVAL = {
    **FORM,
    "_meta": {**TOOL_APPROVAL, "tool_title": "Plain", "tool_description": "does", "tool_params": {"x": 1}},
}


@pytest.mark.parametrize(
    ("params", "type_"),
    [
        (FORM, policies.FormElicitation),
        ({**FORM, "mode": "openaiForm", "requestedSchema": {"any": 1}}, policies.FormElicitation),
        ({**FORM, "mode": "openai/form", "requestedSchema": {"any": 1}}, policies.FormElicitation),
        (URL, policies.UrlElicitation),
        (VERIFY, policies.VerificationElicitation),
        (APPROVAL, policies.McpToolApproval),
        ({**FORM, "_meta": {"codex_approval_kind": "something else"}}, policies.FormElicitation),
        ({**FORM, "_meta": "text"}, policies.FormElicitation),
    ],
)
def test_kinds_of_elicitations_are_distinguished(params, type_):
    assert type(question_of(ELICIT, params)) is type_


def test_an_elicitation_with_an_unknown_mode_is_invalid():
    with pytest.raises(DecodeError, match="unknown mode 'dance'"):
        question_of(ELICIT, {**FORM, "mode": "dance"})


def test_an_mcp_tool_approval_contains_the_call_and_the_offered_scopes():
    request = question_of(ELICIT, APPROVAL)
    assert (request.tool_title, request.tool_description, request.arguments) == ("Plain", "does", {"x": 1})
    assert request.scopes == ("session", "always")


@pytest.mark.parametrize(
    ("decision", "result"),
    [
        (ONCE, {"action": "accept", "content": {}}),
        (SESSION, {"action": "accept", "content": {}, "_meta": {"persist": "session"}}),
        (ALWAYS, {"action": "accept", "content": {}, "_meta": {"persist": "always"}}),
    ],
)
def test_the_scope_of_an_mcp_tool_approval_is_sent_as_meta(decision, result):
    answer = KINDS[ELICIT].answer(question_of(ELICIT, APPROVAL), decision)
    assert answer.result == result
    schema_of(SERVER_REQUESTS[ELICIT].response).validate(result)


@pytest.mark.parametrize("offered", [None, [], "session", ["session"]])
def test_a_scope_that_was_not_offered_is_invalid(offered):
    request = question_of(ELICIT, {**FORM, "_meta": {**TOOL_APPROVAL, "persist": offered}})
    with pytest.raises(PolicyError, match="'always' was not offered"):
        KINDS[ELICIT].answer(request, ALWAYS)


def test_a_form_is_accepted_only_with_content_and_a_link_only_without():
    with pytest.raises(PolicyError, match="needs its content"):
        KINDS[ELICIT].answer(question_of(ELICIT, FORM), ONCE)
    assert KINDS[ELICIT].answer(question_of(ELICIT, URL), ONCE).result == {"action": "accept"}
    assert KINDS[ELICIT].answer(question_of(ELICIT, URL), FILLED) is None
    proof = KINDS[ELICIT].answer(question_of(ELICIT, VERIFY), FILLED)
    assert proof.result == {"action": "accept", "content": {"ok": True}}


# -- the content of requests ----------------------------------------------------------------------------------


def test_an_answer_to_an_unasked_question_is_invalid():
    request = question_of("item/tool/requestUserInput")
    with pytest.raises(PolicyError, match="unknown question id 'size'"):
        KINDS["item/tool/requestUserInput"].answer(request, policies.answers({"size": ["L", "XL"]}))


def test_a_command_request_contains_the_servers_proposals():
    request = question_of(
        "item/commandExecution/requestApproval",
        {
            **COMMAND,
            "command": "/bin/bash -c 'touch x'",
            "kind": "writeStdin",
            "networkApprovalContext": {"host": "example.org", "protocol": "https"},
            "proposedExecpolicyAmendment": ["touch"],
            "proposedNetworkPolicyAmendments": [{"host": "example.org", "action": "allow"}],
        },
    )
    assert request.argv == ("/bin/bash", "-c", "touch x")
    assert request.input_to_terminal
    assert request.network.host == "example.org"
    assert request.proposed_exec_policy == ("touch",)
    assert [rule.action for rule in request.proposed_network_rules] == ["allow"]


@pytest.mark.parametrize("command", [None, "echo 'unclosed"])
def test_a_command_that_cannot_be_parsed_has_no_arguments(command):
    request = question_of("item/commandExecution/requestApproval", {**COMMAND, "command": command})
    assert request.argv is None


def test_reprs_contain_no_secrets():
    shown = repr([TOKENS, ATTESTATION, FILLED, ANSWERS, question_of("item/commandExecution/requestApproval")])
    assert not [secret for secret in ("secret", "ok", "Blue", "ls") if f"'{secret}'" in shown]


def test_the_rule_is_not_part_of_a_decisions_equality():
    assert policies.Accept(rule="a rule") == policies.accept()


@cache
def bundle():
    """Return the schema with the parts that only older servers have. References to both levels resolve."""
    definitions = schema.load().definitions.raw
    return {**definitions, "v2": definitions}


@cache
def schema_of(name):
    # `jsonschema.validate` would check the whole bundle each time.
    return jsonschema.Draft7Validator({"$ref": f"#/definitions/{name}", "definitions": bundle()})


@pytest.mark.parametrize("unreadable", [{"path": "/etc/passwd"}, 5, None])
def test_if_one_change_is_unreadable_no_changes_are_shown(unreadable):
    """A policy must not accept changes that it cannot see."""
    kind = KINDS["item/fileChange/requestApproval"]
    params = _convert.decode_server_request("item/fileChange/requestApproval", COMMAND)
    readable = {"path": "/w/a", "kind": {"type": "add"}, "diff": ""}
    shown = {"c": [readable], "mixed": [readable, unreadable]}
    assert len(kind.ask(params, RequestContext(changes=lambda _: shown["c"])).changes) == 1
    assert kind.ask(params, RequestContext(changes=lambda _: shown["mixed"])).changes == ()
