"""Wire format of decisions, and of denials when nobody decides."""

import contextvars
import logging
import time
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from trio_codex import Policy, errors, policies, wire
from trio_codex._session.request_kinds import KINDS
from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted(**options):
    with trio.fail_after(5):
        async with fake_codex(**options) as both:
            yield both


COMMAND = "item/commandExecution/requestApproval"
ASKED = {"threadId": "thread-1", "turnId": "turn-1", "itemId": "c1", "startedAtMs": 0, "command": "rm"}

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


@pytest.mark.parametrize("method", KINDS)
async def test_without_a_policy_a_request_is_denied_with_one_warning(method, caplog):
    async with scripted() as (codex, server):
        await codex.thread_start()
        await server.ask(0, method, {"threadId": "thread-1"})
        denial = KINDS[method].denial
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


async def test_an_unknown_server_request_is_answered_by_the_callback_for_unknown_ones():
    asked = []

    async def answer(request):
        await trio.lowlevel.checkpoint()
        asked.append(request)
        return {"flavor": "mint", "parts": [1, None]}

    async with scripted(policy=Policy(unknown=answer)) as (codex, server):
        await server.ask("x", "item/newThing/read", {"threadId": "thread-1", "turnId": "turn-1", "size": 3})
        assert await server.answer_to("x") == {"flavor": "mint", "parts": [1, None]}
        (record,) = codex.decisions
    (request,) = asked
    assert request.method == "item/newThing/read"
    assert (request.thread_id, request.turn_id) == ("thread-1", "turn-1")
    assert request.params == {"threadId": "thread-1", "turnId": "turn-1", "size": 3}
    assert "size" not in repr(request)
    assert (record.method, record.decision) == ("item/newThing/read", "answered")
    assert record.policy.endswith("answer")


@pytest.mark.parametrize("decision", [policies.decline("not here"), policies.cancel(), policies.abstain()])
async def test_declining_an_unknown_server_request_answers_method_not_found(decision):
    async def answer(_):
        await trio.lowlevel.checkpoint()
        return decision

    async with scripted(policy=Policy(unknown=answer)) as (_, server):
        await server.ask("x", "item/newThing/read", {})
        assert (await server.answer_to("x"))["code"] == -32601


@pytest.mark.parametrize(
    "decision", [None, "text", policies.accept(), {"made": object()}, {"text": "\udcff"}]
)
async def test_an_answer_to_an_unknown_request_must_be_a_json_object(decision, caplog):
    async def answer(_):
        await trio.lowlevel.checkpoint()
        return decision

    async with scripted(policy=Policy(unknown=answer)) as (_, server):
        await server.ask("x", "item/newThing/read", {})
        assert (await server.answer_to("x"))["code"] == -32601
    assert any(record.levelno == logging.ERROR for record in caplog.records)


async def test_an_invalid_request_is_denied_without_asking_a_policy():
    async def never(_):
        raise AssertionError("the policy must not be asked")

    async with scripted(policy=Policy(command=never)) as (_, server):
        await server.ask(0, "item/commandExecution/requestApproval", {"threadId": 5})
        assert await server.answer_to(0) == {"decision": "decline"}


async def test_legacy_approvals_are_answered_in_their_own_format():
    asked = []

    async def decide(request):
        asked.append(request)
        return policies.accept("session")

    async with scripted(policy=Policy(command=decide, file_change=decide)) as (_, server):
        await server.ask(0, "execCommandApproval", LEGACY_COMMAND)
        assert await server.answer_to(0) == {"decision": "approved_for_session"}
        await server.ask(1, "applyPatchApproval", LEGACY_PATCH)
        assert await server.answer_to(1) == {"decision": "approved_for_session"}
    command, patch = asked
    assert command.command == "rm -r 'a b'"
    assert [(change.path, change.diff) for change in patch.changes] == [("/new", "text\n"), ("/old", "@@")]
    assert patch.changes[0].kind == wire.AddPatchChangeKind()
    assert patch.changes[1].kind == wire.UpdatePatchChangeKind(move_path="/moved")


@pytest.mark.parametrize(
    ("policy", "answer"), [(policies.accept_all, "accept"), (policies.decline_all, "decline")]
)
async def test_built_in_policies_decide_without_a_warning(policy, answer, caplog):
    async with scripted(policy=policy) as (_, server):
        question = {"threadId": "t", "turnId": "u", "itemId": "i", "startedAtMs": 0}
        await server.ask(0, "item/fileChange/requestApproval", question)
        assert await server.answer_to(0) == {"decision": answer}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_policy_that_fails_outside_a_turn_is_logged_and_denies(caplog):
    async def fail(_):
        raise RuntimeError("boom")

    async with scripted(policy=Policy(file_change=fail)) as (codex, server):
        server.give("model/list", {"data": []})
        question = {"threadId": "t", "turnId": "u", "itemId": "i", "startedAtMs": 0}
        await server.ask(0, "item/fileChange/requestApproval", question)
        assert await server.answer_to(0) == {"decision": "decline"}
        await codex.models()
    assert ["boom" in record.getMessage() for record in caplog.records] == [True]


async def test_fifty_pending_approvals_block_nothing_and_are_answered_in_any_order():
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


async def test_a_policy_that_the_settings_bypass_warns_once(caplog):
    async with scripted(policy=policies.decline_all) as (codex, server):
        server.give("thread/start", {**server._defaults["thread/start"], "approvalPolicy": "never"})
        await codex.thread_start()
        await codex.thread_start()
    assert ["will not be asked" in record.getMessage() for record in caplog.records] == [True]


async def test_a_policy_that_is_asked_regardless_of_the_settings_does_not_warn(caplog):
    policy = Policy(user_input=policies.decline_all.user_input, tool_call=policies.decline_all.tool_call)
    async with scripted(policy=policy) as (codex, server):
        server.give("thread/start", {**server._defaults["thread/start"], "approvalPolicy": "never"})
        await codex.thread_start()
        assert not caplog.records
        await codex.thread_start(policy=Policy(permissions=policies.decline_all.permissions))
    assert ["will not be asked" in record.getMessage() for record in caplog.records] == [True]


# -- requests that the real server cannot be made to send
# ----------------------------------------------------------------

ELICITATION = {"threadId": "thread-1", "turnId": None, "serverName": "held"}


@pytest.mark.parametrize(
    ("method", "params", "question", "decision", "answer"),
    [
        (
            "account/chatgptAuthTokens/refresh",
            {"reason": "unauthorized", "previousAccountId": "a"},
            policies.AuthRefreshRequest,
            policies.AuthTokens(access_token="secret", account_id="a", plan_type="pro"),
            {"accessToken": "secret", "chatgptAccountId": "a", "chatgptPlanType": "pro"},
        ),
        (
            "attestation/generate",
            {},
            policies.AttestationRequest,
            policies.Attestation("secret"),
            {"token": "secret"},
        ),
        (
            "currentTime/read",
            {"threadId": "thread-1"},
            policies.CurrentTimeRequest,
            policies.CurrentTime(1_700_000_000),
            {"currentTimeAt": 1_700_000_000},
        ),
        (
            "mcpServer/elicitation/request",
            {
                **ELICITATION,
                "mode": "openai/userVerification",
                "challenge": "c",
                "title": "T",
                "description": "D",
            },
            policies.VerificationElicitation,
            policies.accept(content={"proof": "p"}),
            {"action": "accept", "content": {"proof": "p"}},
        ),
        (
            "mcpServer/elicitation/request",
            {**ELICITATION, "mode": "openai/form", "message": "Sure?", "requestedSchema": {"any": 1}},
            policies.FormElicitation,
            policies.accept(content={"any": True}),
            {"action": "accept", "content": {"any": True}},
        ),
    ],
)
async def test_a_callback_provides_application_values_under_any_request_id(
    method, params, question, decision, answer
):
    asked = []

    async def give(request):
        asked.append(type(request))
        await trio.lowlevel.checkpoint()
        return decision

    async with scripted(policy=Policy(**{KINDS[method].callback: give})) as (codex, server):
        await codex.thread_start()
        for request_id in (0, "0", "", -1, 2**53, "ü"):
            await server.ask(request_id, method, params)
            assert await server.answer_to(request_id) == answer
        assert asked == [question] * 6
        assert [record.id for record in codex.decisions] == [0, "0", "", -1, 2**53, "ü"]


async def test_the_system_clock_policy_reports_whole_seconds():
    async with scripted(policy=policies.system_clock) as (_, server):
        before = int(time.time())
        await server.ask(0, "currentTime/read", {"threadId": "of nobody"})
        told = (await server.answer_to(0))["currentTimeAt"]
        assert before <= told <= time.time()


@pytest.mark.parametrize("request_id", [99, "0", "x", -1, None, 0.0, True, [], {}, 2**70])
async def test_withdrawing_a_request_that_is_not_open_has_no_effect(request_id):
    gate = trio.Event()

    async def decide(_):
        await gate.wait()
        return policies.accept()

    async with scripted(policy=Policy(command=decide)) as (codex, server):
        await server.ask(0, COMMAND, ASKED)
        for params in ({"threadId": "thread-1", "requestId": request_id}, {"threadId": "thread-1"}, None):
            await server.notify("serverRequest/resolved", params)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        assert await server.answer_to(0) == {"decision": "accept"}
        assert len(codex.decisions) == 1


# -- turns ---------------------------------------------------------------------------------------------------------


async def test_the_policy_of_a_turn_ends_with_it():
    async def accept(_):
        await trio.lowlevel.checkpoint()
        return policies.accept()

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(partial(thread.run, "hi", policy=Policy(command=accept)))
        await server.accept_turn()
        await server.ask(0, COMMAND, ASKED)
        assert await server.answer_to(0) == {"decision": "accept"}
        await server.end_turn()
        await server.ask(1, COMMAND, ASKED)
        assert await server.answer_to(1) == {"decision": "decline"}
        assert [record.decided_by for record in codex.decisions] == ["turn", "default"]


variable = contextvars.ContextVar("variable", default="nowhere")


async def test_a_callback_runs_in_the_context_of_its_turn():
    seen = []

    async def look(request):
        await trio.lowlevel.checkpoint()
        seen.append((request.item_id, variable.get()))
        return policies.decline()

    async def run(thread):
        variable.set("the turn")
        await thread.run("hi")

    async with scripted(policy=Policy(command=look)) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(run, thread)
        await server.accept_turn()
        await server.ask(0, COMMAND, {**ASKED, "itemId": "in the turn"})
        await server.ask(1, COMMAND, {**ASKED, "itemId": "outside a turn", "threadId": "of nobody"})
        await server.answer_to(1)
        await server.end_turn()
    assert sorted(seen) == [("in the turn", "the turn"), ("outside a turn", "nowhere")]


CALL = {"threadId": "thread-1", "turnId": "turn-1", "callId": "d1", "tool": "lookup", "arguments": {}}


@pytest.mark.parametrize("how", ["alone", "in a group", "in a mixed group"])
@pytest.mark.parametrize("ending", ["withdrawn", "left"])
async def test_a_tool_that_fails_while_cancelled_does_not_fail_its_turn(how, ending, caplog):
    async def fail(_):
        async with trio.open_nursery() as nursery:
            if how == "in a mixed group":
                nursery.start_soon(trio.sleep_forever)
            if how != "alone":
                nursery.start_soon(fail_in_cleanup)
                return
        await fail_in_cleanup()

    async with scripted(policy=Policy(tool_call=fail)) as (codex, server), trio.open_nursery() as nursery:
        server.give("turn/interrupt", {})
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(run_within, scope, thread)
        await server.accept_turn()
        await server.ask(0, "item/tool/call", CALL)
        await trio.testing.wait_all_tasks_blocked()
        if ending == "withdrawn":
            await server.notify("serverRequest/resolved", {"threadId": "thread-1", "requestId": 0})
        else:
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []
        await server.end_turn()
    assert server.answers == {}
    [record] = codex.decisions
    assert (record.outcome, record.decision) == ("withdrawn", None)
    assert ["the tool lookup failed" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("ending", ["withdrawn", "left"])
async def test_a_policy_that_raises_a_mixed_group_while_cancelled_fails_its_turn(ending):
    async def fail(_):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail_in_cleanup)
        return policies.accept()

    failures = []

    async def run(thread, scope):
        try:
            await run_within(scope, thread)
        except errors.PolicyError as exc:
            failures.append(exc)

    async with scripted(policy=Policy(command=fail)) as (codex, server), trio.open_nursery() as nursery:
        server.give("turn/interrupt", {})
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(run, thread, scope)
        await server.accept_turn()
        await server.ask(0, COMMAND, ASKED)
        await trio.testing.wait_all_tasks_blocked()
        if ending == "withdrawn":
            await server.notify("serverRequest/resolved", {"threadId": "thread-1", "requestId": 0})
        else:
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await server.end_turn(status="interrupted")
    assert server.answers == {}
    [record] = codex.decisions
    assert (record.outcome, record.decision) == ("withdrawn", None)
    assert record.reason == "ValueError: in cleanup"
    if ending == "left":
        assert scope.cancelled_caught, "the caller sees the cancellation, and the audit records the failure"
    else:
        [failure] = failures
        assert [str(exc) for exc in failure.__cause__.exceptions] == ["in cleanup"]


async def fail_in_cleanup():
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("in cleanup")


async def run_within(scope, thread):
    with scope:
        await thread.run("hi")
