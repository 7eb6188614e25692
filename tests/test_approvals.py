"""Requests of the server that nobody decides on, and the decisions that policies give: their shape on the wire."""

import gzip
import json
import logging
from contextlib import asynccontextmanager
from pathlib import Path

import jsonschema
import pytest
import trio

import wiregen
from trio_codex import Policy, policies, wire
from trio_codex._approvals import DENIALS, KINDS
from trio_codex.testing import fake_codex
from trio_codex.wire._registry import SERVER_REQUESTS


@asynccontextmanager
async def scripted(**options):
    with trio.fail_after(5):
        async with fake_codex(**options) as both:
            yield both


LEGACY_COMMAND = {
    "conversationId": "thread-1", "callId": "c1", "approvalId": None, "command": ["rm", "-r", "a b"],
    "cwd": "/w", "reason": None, "parsedCmd": [],
}  # fmt: skip
LEGACY_PATCH = {
    "conversationId": "thread-1", "callId": "c1", "reason": None, "grantRoot": None,
    "fileChanges": {
        "/new": {"type": "add", "content": "text\n"},
        "/old": {"type": "update", "unified_diff": "@@", "move_path": "/moved"},
    },
}  # fmt: skip


def test_every_server_request_has_a_denial_and_those_without_one_in_the_protocol_get_an_error():
    assert set(DENIALS) == set(SERVER_REQUESTS)
    assert {method for method, denial in DENIALS.items() if denial.error} == {
        "account/chatgptAuthTokens/refresh",
        "attestation/generate",
        "currentTime/read",
    }
    assert set(KINDS) <= set(SERVER_REQUESTS)


@pytest.mark.parametrize("method", [method for method, denial in DENIALS.items() if not denial.error])
def test_every_denial_fits_the_schema_of_its_response(method):
    jsonschema.validate(DENIALS[method].result, schema_of(SERVER_REQUESTS[method].response))


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize(
    "decision", [policies.accept(), policies.accept("session"), policies.decline(), policies.cancel()]
)
def test_every_decision_fits_the_schema_of_its_response(method, decision):
    jsonschema.validate(KINDS[method].encode(method, decision), schema_of(SERVER_REQUESTS[method].response))


@pytest.mark.parametrize("method", DENIALS)
async def test_without_a_policy_a_request_is_denied_with_one_warning(method, caplog):
    async with scripted() as (codex, server):
        await codex.thread_start()
        await server.ask(0, method, {"threadId": "thread-1"})
        denial = DENIALS[method]
        answer = await server.answer_to(0)
        assert answer == (
            {"code": denial.error[0], "message": denial.error[1]} if denial.error else denial.result
        )
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


async def test_an_unknown_server_request_is_refused_and_reported_as_an_event():
    async with scripted() as (codex, server), codex.events("trio_codex/unknownServerRequest") as events:
        await server.ask("x", "item/newThing/requestApproval", {"threadId": "thread-1"})
        assert (await server.answer_to("x"))["code"] == -32601
        event = await events.__anext__()
        assert event.raw == {"method": "item/newThing/requestApproval", "id": "x"}


async def test_a_request_that_does_not_fit_the_schema_is_denied_and_no_policy_is_asked():
    async def never(_):
        raise AssertionError("it must not be asked")

    async with scripted(policy=Policy(command=never)) as (_, server):
        await server.ask(0, "item/commandExecution/requestApproval", {"threadId": 5})
        assert await server.answer_to(0) == {"decision": "decline"}


async def test_the_legacy_approvals_are_asked_and_answered_in_their_own_shape():
    asked = []

    async def decide(request):
        asked.append(request)
        return policies.accept("session")

    async with scripted(policy=Policy(command=decide, file_change=decide)) as (_, server):
        await server.ask(0, "execCommandApproval", LEGACY_COMMAND)
        assert await server.answer_to(0) == {"decision": "approved_for_session"}
        await server.ask(1, "applyPatchApproval", LEGACY_PATCH)
        assert await server.answer_to(1) == {"decision": "approved_for_session"}
        policy_reason = policies.decline("because")
        assert KINDS["execCommandApproval"].encode("", policy_reason) == {
            "decision": {"denied": {"rejection": "because"}}
        }
    command, patch = asked
    assert command.command == "rm -r 'a b'"
    assert [(change.path, change.diff) for change in patch.changes] == [("/new", "text\n"), ("/old", "@@")]
    assert patch.changes[0].kind == wire.AddPatchChangeKind()
    assert patch.changes[1].kind == wire.UpdatePatchChangeKind(move_path="/moved")


@pytest.mark.parametrize(
    ("policy", "answer"), [(policies.accept_all, "accept"), (policies.decline_all, "decline")]
)
async def test_the_ready_made_policies_decide_without_a_warning(policy, answer, caplog):
    async with scripted(policy=policy) as (_, server):
        question = {"threadId": "t", "turnId": "u", "itemId": "i", "startedAtMs": 0}
        await server.ask(0, "item/fileChange/requestApproval", question)
        assert await server.answer_to(0) == {"decision": answer}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_failing_policy_without_a_turn_of_ours_denies_is_logged_and_ends_nothing(caplog):
    async def fail(_):
        raise RuntimeError("boom")

    async with scripted(policy=Policy(file_change=fail)) as (codex, server):
        server.give("model/list", {"data": []})
        question = {"threadId": "t", "turnId": "u", "itemId": "i", "startedAtMs": 0}
        await server.ask(0, "item/fileChange/requestApproval", question)
        assert await server.answer_to(0) == {"decision": "decline"}
        await codex.models()
    assert ["boom" in record.getMessage() for record in caplog.records] == [True]


async def test_fifty_parked_approvals_hold_up_nothing_and_are_answered_in_any_order():
    gates = {}

    async def park(request):
        gates[request.item_id] = trio.Event()
        await gates[request.item_id].wait()
        return policies.accept()

    async with scripted(policy=Policy(file_change=park)) as (codex, server):
        server.give("model/list", {"data": []})
        question = {"threadId": "t", "turnId": "u", "startedAtMs": 0}
        for number in range(50):
            await server.ask(number, "item/fileChange/requestApproval", {**question, "itemId": str(number)})
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(codex.models)
        assert server.answers == {}
        for number in (7 * n % 50 for n in range(50)):
            gates[str(number)].set()
            assert await server.answer_to(number) == {"decision": "accept"}
        assert len(server.answers) == 50


async def test_a_policy_that_the_settings_bypass_is_warned_about_once(caplog):
    async with scripted(policy=policies.decline_all) as (codex, server):
        server.give("thread/start", {**server._defaults["thread/start"], "approvalPolicy": "never"})
        await codex.thread_start()
        await codex.thread_start()
    assert ["will not be asked" in record.getMessage() for record in caplog.records] == [True]


def schema_of(name):
    packed = (
        Path(wiregen.__file__).parent
        / "schema"
        / "experimental"
        / "codex_app_server_protocol.schemas.json.gz"
    )
    bundle = json.loads(gzip.decompress(packed.read_bytes()))
    where = "definitions" if name in bundle["definitions"] else "definitions/v2"
    return {"$ref": f"#/{where}/{name}", "definitions": bundle["definitions"]}
