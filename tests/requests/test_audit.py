"""Decision records: exactly one for each server request and for each review by the server."""

import logging
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_codex import DecidedBy, Policy, errors, policies, tool, wire
from trio_codex._session import audit as _audit
from trio_codex._session.audit import DECISIONS_KEPT, REVIEWS_KEPT
from trio_codex.instruments import Instrument
from trio_codex.testing import build, fake_codex
from trio_codex.tools import ToolError

COMMAND = "item/commandExecution/requestApproval"
ASKED = {"threadId": "thread-1", "turnId": "turn-1", "itemId": "c1", "startedAtMs": 0, "command": "rm"}
REVIEW = {
    "threadId": "thread-1", "turnId": "turn-1", "reviewId": "r1", "targetItemId": "c1", "startedAtMs": 0,
    "action": {"type": "command", "source": "shell", "command": "rm", "cwd": "/"},
    "review": {"status": "inProgress"},
}  # fmt: skip
APPROVED = {
    **REVIEW,
    "completedAtMs": 1,
    "decisionSource": "agent",
    "review": {"status": "approved", "rationale": "safe"},
}


@asynccontextmanager
async def scripted(policy=None):
    with trio.fail_after(10_000):
        async with fake_codex(policy=policy) as both:
            yield both


def deciding(decision):
    async def decide(_):
        await trio.lowlevel.checkpoint()
        return decision

    return decide


async def abstain(_):
    await trio.lowlevel.checkpoint()
    return policies.abstain()


@asynccontextmanager
async def open_turn(codex, server, *, thread_policy=None, **options):
    thread = await codex.thread_start(policy=thread_policy)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_turn)
        async with thread.turn("hi", **options) as turn:
            yield turn
            await server.end_turn()
            await turn.wait()


async def test_a_decision_is_recorded_with_its_request_and_duration(autojump_clock):
    async def decide(_):
        await trio.sleep(30)
        return policies.Accept("session", rule="only rm")

    async with scripted() as (codex, server), open_turn(codex, server, policy=Policy(command=decide)):
        asked_at = trio.current_time()
        await server.ask(0, COMMAND, ASKED)
        await server.answer_to(0)
        (record,) = codex.decisions
        assert (record.id, record.method, record.outcome, record.reason) == (0, COMMAND, "answered", None)
        assert (record.thread_id, record.turn_id, record.item_id) == ("thread-1", "turn-1", "c1")
        assert record.request.command == "rm"
        assert record.decided_by is DecidedBy.turn
        assert record.policy.endswith("decide")
        assert record.decision == policies.accept("session")
        assert record.rule == "only rm"
        assert record.asked_at == pytest.approx(asked_at, abs=1)
        assert record.seconds == pytest.approx(30, abs=1)
        assert "rm" not in repr(record).replace("only rm", "")


@pytest.mark.parametrize(
    ("turn", "thread", "client", "decided_by", "name", "answer"),
    [
        ("accept", "decline", "decline", "turn", "mine", "accept"),
        (None, "accept", "decline", "thread", "mine", "accept"),
        (None, None, "accept", "client", "mine", "accept"),
        ("abstain", "accept", "decline", "thread", "mine", "accept"),
        ("abstain", "abstain", "accept", "client", "mine", "accept"),
        (None, "abstain", None, "default", None, "decline"),
        ("abstain", "abstain", "abstain", "default", None, "decline"),
        (None, None, None, "default", None, "decline"),
    ],
)
async def test_a_request_falls_through_to_the_policy_that_decides(
    turn, thread, client, decided_by, name, answer, autojump_clock, caplog
):
    callbacks = {
        "accept": deciding(policies.accept()),
        "decline": deciding(policies.decline()),
        "abstain": abstain,
    }

    def policy(what):
        return None if what is None else Policy(name="mine", command=callbacks[what])

    async with (
        scripted(policy(client)) as (codex, server),
        open_turn(codex, server, thread_policy=policy(thread), policy=policy(turn)),
    ):
        await server.ask(0, COMMAND, ASKED)
        assert await server.answer_to(0) == {"decision": answer}
        (record,) = codex.decisions
        assert (record.decided_by, record.policy, record.outcome) == (decided_by, name, "answered")
    assert len(caplog.records) == (decided_by == "default"), "a denial by default warns once"


async def test_a_refusal_is_recorded_with_its_reason():
    async with scripted(Policy(command=deciding(policies.decline("not today")))) as (codex, server):
        await server.ask("x", COMMAND, ASKED)
        await server.answer_to("x")
        (record,) = codex.decisions
        assert (record.id, record.decision, record.reason) == (
            "x",
            policies.decline("not today"),
            "not today",
        )


@pytest.mark.parametrize(
    ("method", "params", "reason"),
    [
        ("item/newThing/ask", {}, "this version does not know the method"),
        (COMMAND, {"threadId": 5}, "its parameters are unreadable: "),
        (COMMAND, ASKED, "no policy of this client handles it"),
    ],
)
async def test_a_default_denial_is_recorded_with_its_reason(method, params, reason):
    async with scripted() as (codex, server):
        await server.ask(0, method, params)
        await server.answer_to(0)
        (record,) = codex.decisions
        assert record.reason.startswith(reason)
        assert (record.decided_by, record.decision, record.outcome) == ("default", None, "answered")


async def test_a_failed_callback_is_recorded_as_a_failure_of_its_policy():
    async def fail(_):
        raise RuntimeError("boom")

    async def serve(server):
        await server.accept_turn()
        await server.ask(0, COMMAND, ASKED)
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")

    async with scripted(Policy(command=fail)) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(serve, server)
        with pytest.raises(errors.PolicyError, match="boom"):
            await thread.run("hi")
    (record,) = codex.decisions
    assert (record.outcome, record.decided_by, record.reason) == ("failed", "client", "RuntimeError: boom")


async def raise_group(_):
    raise ExceptionGroup("", [RuntimeError("boom"), ExceptionGroup("", [KeyError()])])


async def raise_error(_):
    raise RuntimeError("boom")


async def give_nonsense(_):
    await trio.lowlevel.checkpoint()
    return 5


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        (raise_error, "RuntimeError: boom"),
        (raise_group, "RuntimeError: boom; KeyError"),
        (give_nonsense, "the policy returned int, which is not a decision for this request"),
    ],
)
async def test_a_failed_tool_is_answered_and_its_turn_continues(fail, told, caplog):

    call = {"threadId": "thread-1", "turnId": "turn-1", "callId": "d1", "tool": "lookup", "arguments": {}}
    async with scripted(Policy(tool_call=fail)) as (codex, server), open_turn(codex, server):
        await server.ask(0, "item/tool/call", call)
        answer = await server.answer_to(0)
        assert answer == {"contentItems": [{"type": "inputText", "text": told}], "success": False}
        (record,) = codex.decisions
        assert (record.outcome, record.item_id, record.reason) == ("answered", "d1", told)


async def raise_surrogate(_):
    raise RuntimeError("a\udcff")


@pytest.mark.parametrize(
    ("decide", "told"),
    [
        (deciding(policies.ToolResult.of_text("a\udcff", success=False)), "a\\udcff"),
        (deciding(policies.decline("a\udcff")), "a\\udcff"),
        (raise_surrogate, "RuntimeError: a\\udcff"),
    ],
    ids=["result", "reason", "error"],
)
async def test_surrogates_in_a_tool_result_are_escaped_and_the_turn_continues(decide, told, caplog):
    # The error's text is in the log, which pytest-xdist could not transmit.
    caplog.set_level(logging.CRITICAL, "trio_codex")
    call = {"threadId": "thread-1", "turnId": "turn-1", "callId": "d1", "tool": "lookup", "arguments": {}}
    async with scripted(Policy(tool_call=decide)) as (codex, server), open_turn(codex, server):
        await server.ask(0, "item/tool/call", call)
        answer = await server.answer_to(0)
        assert answer == {"contentItems": [{"type": "inputText", "text": told}], "success": False}


@pytest.mark.parametrize("how", ["withdrawn", "left", "disconnected"])
async def test_an_unanswered_request_is_recorded_with_the_reason(how):
    async def park(_):
        await trio.sleep_forever()

    reasons = {
        "withdrawn": "the server withdrew it",
        "left": "its turn ended",
        "disconnected": "the connection ended",
    }
    async with scripted(Policy(command=park)) as (codex, server):
        thread = await codex.thread_start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.accept_turn)
                async with thread.turn("hi"):
                    await server.ask(0, COMMAND, ASKED)
                    await wait_all_tasks_blocked()
                    assert codex.decisions == ()
                    if how == "withdrawn":
                        await server.notify(
                            "serverRequest/resolved", {"threadId": "thread-1", "requestId": 0}
                        )
                        await wait_all_tasks_blocked()
                    elif how == "disconnected":
                        await server.hang_up()
                        await wait_all_tasks_blocked()
                    server.give("turn/interrupt", {})
                    if how != "disconnected":
                        nursery.start_soon(server.end_turn)
        except* errors.TurnLost:
            assert how == "disconnected"
        (record,) = codex.decisions
        assert (record.outcome, record.reason, record.decision) == ("withdrawn", reasons[how], None)
        assert server.answers == {}


async def test_a_decision_after_the_withdrawal_is_ignored():
    async def decide_too_late(_):
        with suppress(trio.Cancelled):
            await trio.sleep_forever()
        return policies.accept()

    async with scripted(Policy(command=decide_too_late)) as (codex, server):
        await server.ask(0, COMMAND, ASKED)
        await wait_all_tasks_blocked()
        await server.notify("serverRequest/resolved", {"threadId": "thread-1", "requestId": 0})
        await wait_all_tasks_blocked()
        (record,) = codex.decisions
    assert (record.outcome, record.decision) == ("withdrawn", None)


async def test_an_unanswered_request_of_a_cancelled_client_is_recorded_as_such():
    async def park(_):
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        async with scripted(Policy(current_time=park)) as (codex, server):
            await server.ask(0, "currentTime/read", {"threadId": "thread-1"})
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    (record,) = codex.decisions
    assert (record.outcome, record.reason) == ("withdrawn", "the client was cancelled")


# -- the server's own reviews --------------------------------------------------------------------------------------


async def test_a_review_by_the_server_creates_one_record():
    async with scripted() as (codex, server):
        await server.notify("item/autoApprovalReview/started", REVIEW)
        await wait_all_tasks_blocked()
        assert codex.decisions == ()
        await server.notify("item/autoApprovalReview/completed", APPROVED)
        await wait_all_tasks_blocked()
        (record,) = codex.decisions
        assert (record.id, record.method) == ("r1", "item/autoApprovalReview")
        assert (record.decided_by, record.decision, record.reason) == ("server", "approved", "safe")
        assert (record.thread_id, record.turn_id, record.item_id) == ("thread-1", "turn-1", "c1")
        assert record.request["command"] == "rm"
        await server.hang_up()
        await wait_all_tasks_blocked()
        assert len(codex.decisions) == 1


async def test_a_review_whose_start_was_not_seen_is_still_recorded():
    async with scripted() as (codex, server):
        await server.notify("item/autoApprovalReview/completed", APPROVED)
        await wait_all_tasks_blocked()
        assert [record.decision for record in codex.decisions] == ["approved"]


@pytest.mark.parametrize("params", [None, {}, {"reviewId": 5}, [1]])
async def test_an_invalid_review_is_not_recorded_and_harms_nothing(params):
    async with scripted() as (codex, server):
        await server.notify("item/autoApprovalReview/completed", params)
        server.give("model/list", {"data": []})
        await codex.models()
        assert codex.decisions == ()


async def test_a_review_in_progress_when_the_connection_ends_is_withdrawn():
    async with scripted() as (codex, server):
        await server.notify("item/autoApprovalReview/started", REVIEW)
        await wait_all_tasks_blocked()
        await server.hang_up()
        await wait_all_tasks_blocked()
        (record,) = codex.decisions
        assert (record.outcome, record.reason) == ("withdrawn", "the connection ended")


# -- bounds --------------------------------------------------------------------------------------------------------


async def test_only_the_latest_records_are_kept():
    async with scripted(policies.decline_all) as (codex, server):
        for number in range(DECISIONS_KEPT + 3):
            await server.ask(number, COMMAND, ASKED)
            await server.answer_to(number)
        assert [record.id for record in codex.decisions] == list(range(3, DECISIONS_KEPT + 3))


async def test_reviews_that_never_complete_are_dropped():
    async with scripted() as (codex, server):
        for number in range(REVIEWS_KEPT + 1):
            await server.notify("item/autoApprovalReview/started", {**REVIEW, "reviewId": str(number)})
        await wait_all_tasks_blocked()
        (record,) = codex.decisions
        assert (record.id, record.reason) == ("0", "it never completed")


@tool
async def look(size: int) -> str:
    """Return some text."""
    await trio.lowlevel.checkpoint()
    return "x" * size


@tool
async def break_off(size: int) -> str:
    """Raise an error with some text."""
    await trio.lowlevel.checkpoint()
    raise ToolError("x" * size)


LARGE = 3000
PATCH = [{"path": "/a", "kind": {"type": "add"}, "diff": "x" * LARGE}]


async def ask_with_large_parameters(server, number):
    await server.ask(number, COMMAND, {**ASKED, "command": "x" * LARGE})


async def ask_of_large_changes(server, number):
    item = {"type": "fileChange", "id": "f1", "changes": PATCH, "status": "inProgress"}
    await server.item("started", item)
    await server.ask(number, "item/fileChange/requestApproval", {**ASKED, "itemId": "f1"})


async def ask_for_a_large_result(server, number):
    await server.ask(number, "item/tool/call", tool="look", arguments={"size": LARGE})


async def ask_for_a_large_failure(server, number):
    await server.ask(number, "item/tool/call", tool="break_off", arguments={"size": LARGE})


async def complete_a_large_review(server, number):
    review = {"status": "approved", "rationale": "x" * LARGE}
    await server.notify(
        "item/autoApprovalReview/completed", {**APPROVED, "reviewId": str(number), "review": review}
    )
    await wait_all_tasks_blocked()


@pytest.mark.parametrize(
    "happen",
    [
        ask_with_large_parameters,
        ask_of_large_changes,
        ask_for_a_large_result,
        ask_for_a_large_failure,
        complete_a_large_review,
    ],
)
async def test_kept_records_are_bounded_in_bytes(happen, monkeypatch):
    monkeypatch.setattr(_audit, "DECISIONS_BYTES", 5 * LARGE)
    with trio.fail_after(10):
        async with (
            fake_codex(policy=policies.accept_all, tools=[look, break_off]) as (codex, server),
            open_turn(codex, server),
        ):
            for number in range(10):
                await happen(server, number)
                if happen is not complete_a_large_review:
                    await server.answer_to(number)
            kept = [int(record.id) for record in codex.decisions]
    assert kept == list(range(10))[-len(kept) :]
    assert 1 < len(kept) < 5


async def test_a_record_larger_than_the_bound_is_kept_until_the_next_one(monkeypatch):
    monkeypatch.setattr(_audit, "DECISIONS_BYTES", LARGE // 2)
    async with scripted(policies.decline_all) as (codex, server):
        for number in range(3):
            await ask_with_large_parameters(server, number)
            await server.answer_to(number)
            assert [record.id for record in codex.decisions] == [number]


async def test_an_instrument_receives_records_that_are_not_kept(monkeypatch):
    monkeypatch.setattr(_audit, "DECISIONS_BYTES", 0)
    told = []

    class Telling(Instrument):
        def decision_made(self, record):
            told.append(record.id)

    with trio.fail_after(10):
        async with fake_codex(policy=policies.decline_all, instruments=[Telling()]) as (codex, server):
            for number in range(3):
                await server.ask(number, COMMAND, ASKED)
                await server.answer_to(number)
            assert len(codex.decisions) == 1
    assert told == [0, 1, 2]


async def test_reviews_that_never_complete_are_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(_audit, "REVIEWS_BYTES", 3 * LARGE)
    async with scripted() as (codex, server):
        for number in range(5):
            action = {"type": "command", "source": "shell", "command": "x" * LARGE, "cwd": "/"}
            params = {**REVIEW, "reviewId": str(number), "action": action}
            await server.notify("item/autoApprovalReview/started", params)
        await wait_all_tasks_blocked()
        assert [record.id for record in codex.decisions] == ["0", "1", "2"]


async def test_a_decision_that_contains_itself_is_a_policy_error_and_blocks_nothing():
    content = {"name": []}
    content["name"].append(content)
    with trio.fail_after(10):
        async with fake_codex(policy=Policy(elicitation=deciding(policies.accept(content=content)))) as (
            codex,
            server,
        ):
            form = wire.OpenaiFormMcpServerElicitationRequestParams
            await server.ask(0, "mcpServer/elicitation/request", build(form))
            assert await server.answer_to(0) == {"action": "decline"}
            assert codex.decisions[-1].outcome == "failed"
