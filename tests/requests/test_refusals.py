"""What goes over the wire when a server request is refused, by request and by reason.

The table in ``docs/guarantees.md`` is generated from these observations:
``uv run python tests/requests/test_refusals.py`` generates it again.
"""

import json
import logging
import re
from functools import partial
from pathlib import Path

import pytest
import trio
from test_server_requests import ASKED
from trio.testing import wait_all_tasks_blocked

from trio_codex import CodexConfig, Policy, errors, policies
from trio_codex._session.request_kinds import KINDS, unknown_kind
from trio_codex.policies._policy import KINDS as CALLBACKS
from trio_codex.testing import fake_codex

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"
TABLE = re.compile(r"(?<=<!-- refusals -->\n).*?(?=<!-- end of refusals -->)", re.DOTALL)

UNKNOWN = "a method that this version does not know"
METHODS = [*KINDS, UNKNOWN]
OF_NO_TURN = {"account/chatgptAuthTokens/refresh", "attestation/generate"}
MAX_LINE_BYTES = 10_000


async def decline(_):
    await trio.lowlevel.checkpoint()
    return policies.decline("not here")


async def cancel(_):
    await trio.lowlevel.checkpoint()
    return policies.cancel()


async def abstain(_):
    await trio.lowlevel.checkpoint()
    return policies.abstain()


async def fail(_):
    await trio.lowlevel.checkpoint()
    raise RuntimeError("boom")


async def return_nonsense(_):
    await trio.lowlevel.checkpoint()
    return True


async def park(_):
    await trio.sleep_forever()


async def never(_):
    raise AssertionError("the policy must not be asked")


FAULTS = {
    "no policy": None,
    "all abstain": abstain,
    "declined": decline,
    "cancelled": cancel,
    "callback raises": fail,
    "nonsense": return_nonsense,
    "unreadable": never,
    "too long": never,
    "withdrawn": park,
    "turn left": park,
    "turn ended": park,
    "disconnected": park,
}
"""Why a request is refused, and the callback that provokes it."""

PARKED = {fault for fault, callback in FAULTS.items() if callback is park}
DENIED = {"no policy", "all abstain", "callback raises", "nonsense", "unreadable", "too long"}
"""Reasons for which nobody decides: the answer is always the denial of the request's kind."""

RECORDED = {
    **dict.fromkeys(["no policy", "all abstain", "unreadable", "too long"], ("answered", "default")),
    **dict.fromkeys(["declined", "cancelled"], ("answered", "turn")),
    **dict.fromkeys(["callback raises", "nonsense"], ("failed", "turn")),
    **dict.fromkeys(PARKED, ("withdrawn", "turn")),
}
"""The recorded outcome, and who decided."""


def faults_of(method):
    """Return the possible reasons for a request."""
    if method == UNKNOWN:
        # It has no schema that its parameters could violate.
        return [fault for fault in FAULTS if fault != "unreadable"]
    gone = {"turn left", "turn ended"} if method in OF_NO_TURN else set()
    return [fault for fault in FAULTS if fault not in gone]


async def observe(method, fault):
    """Return what a client writes in response to one request, and its records at that point."""
    policy = Policy(**dict.fromkeys(CALLBACKS, FAULTS[fault]))
    written, turn_scope = [], trio.CancelScope()
    with trio.fail_after(5):
        async with (
            fake_codex(CodexConfig(max_line_bytes=MAX_LINE_BYTES), policy=policy) as (codex, server),
            trio.open_nursery() as nursery,
        ):
            server.give("turn/interrupt", {})
            thread = await codex.thread_start(policy=policy)
            nursery.start_soon(run_turn, thread, policy, turn_scope)
            await server.accept_turn()
            server._take = partial(record, written, server._take)
            await server.ask(0, method if method in KINDS else "item/newThing", params_of(method, fault))
            await wait_all_tasks_blocked()
            if fault == "withdrawn":
                await server.notify("serverRequest/resolved", {"threadId": "thread-1", "requestId": 0})
            elif fault == "turn left":
                turn_scope.cancel()
            elif fault == "turn ended":
                await server.end_turn()
            elif fault == "disconnected":
                await server._own.send_eof()
            await wait_all_tasks_blocked()
            seen = list(written), codex.decisions
            if fault != "disconnected":
                await server.end_turn()
        return seen


async def run_turn(thread, policy, scope):
    with scope:
        try:
            await thread.run("hi", policy=policy)
        except (errors.PolicyError, errors.TurnLost):
            await trio.lowlevel.checkpoint()


async def record(written, take, message):
    written.append(message)
    await take(message)


def params_of(method, fault):
    if fault == "unreadable":
        return "nonsense"
    ids = {"threadId": "thread-1", "conversationId": "thread-1", "turnId": "turn-1"}
    params = ASKED.get(method, {"threadId": "thread-1"})
    params = {key: ids.get(key, value) for key, value in params.items()}
    return {**params, "padding": MAX_LINE_BYTES * "x"} if fault == "too long" else params


def over_the_wire(request_id, answer):
    if answer.error is None:
        return {"id": request_id, "result": answer.result}
    return {"id": request_id, "error": dict(zip(("code", "message"), answer.error, strict=True))}


def described(lines):
    """Describe what was written, for the table."""
    return ", then ".join(map(described_line, lines)) or "nothing"


def described_line(line):
    if "method" in line:
        return f"`{line['method']}`"
    if "error" in line:
        return f"the error `{json.dumps(line['error'])}`"
    return f"`{json.dumps(line['result'])}`"


CELLS = [(method, fault) for method in METHODS for fault in faults_of(method)]


@pytest.mark.parametrize(("method", "fault"), CELLS)
async def test_a_refused_request_gets_the_documented_answer(method, fault):
    seen, decisions = await observe(method, fault)
    assert documented().get((method, fault)) == described(seen), "see the docstring of this file"
    replies = [line for line in seen if "method" not in line]
    assert [reply["id"] for reply in replies] == ([] if fault in PARKED else [0])
    [decision] = decisions
    outcome, decided_by = RECORDED[fault]
    kind = KINDS.get(method) or unknown_kind("item/newThing")
    if kind.callback == "tool_call" and outcome == "failed":
        outcome = "answered"  # the answer says that the call failed
    elif fault in DENIED:
        assert replies == [over_the_wire(0, kind.denial)]
    if method in OF_NO_TURN and decided_by == "turn":
        decided_by = "client"
    assert (decision.outcome, decision.decided_by) == (outcome, decided_by)


@pytest.mark.parametrize("method", sorted(OF_NO_TURN))
@pytest.mark.parametrize("fault", ["turn left", "turn ended"])
async def test_a_request_without_a_turn_outlives_every_turn(method, fault):
    seen, decisions = await observe(method, fault)
    assert not [line for line in seen if "method" not in line]
    assert decisions == (), "its callback should still be running"


def test_the_documentation_covers_exactly_every_request_and_reason():
    assert set(documented()) == set(CELLS)


# -- the table -----------------------------------------------------------------------------------------------------


def documented():
    """Return the documented answers, by request and reason."""
    found = TABLE.search(PAGE.read_text())
    assert found, f"{PAGE} has no place for the table"
    cells = {}
    for row in found[0].splitlines()[2:]:
        method, faults, seen = row.removeprefix("| ").removesuffix(" |").split(" | ")
        cells |= {(method.strip("`"), fault): seen for fault in faults.split(", ")}
    return cells


async def write():
    logging.disable()
    rows = ["| Request | Why it is refused | What goes over the wire |\n", "|---|---|---|\n"]
    for method in METHODS:
        reasons = {}
        for fault in faults_of(method):
            seen, _ = await observe(method, fault)
            reasons.setdefault(described(seen), []).append(fault)
        name = f"`{method}`" if method in KINDS else method
        rows += [f"| {name} | {', '.join(faults)} | {seen} |\n" for seen, faults in reasons.items()]
    PAGE.write_text(TABLE.sub(lambda _: "".join(rows), PAGE.read_text()))


if __name__ == "__main__":
    trio.run(write)
