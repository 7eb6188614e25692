"""Ending turns that a lost connection has left running, whatever the server reports."""

from types import SimpleNamespace

import pytest
import trio

from trio_codex import errors
from trio_codex._session.left_behind import LOOKS, LeftTurn, end_left_turns
from trio_codex._session.snapshot import NEWEST_TURNS

EARLIER = {"id": "earlier", "status": "completed", "items": [{}]}
STARTING = {"id": "mine", "status": "interrupted", "items": []}
RUNNING = {"id": "mine", "status": "inProgress", "items": [{}]}
ENDED = {"id": "mine", "status": "interrupted", "items": [{}]}
OTHERS = {"id": "another", "status": "inProgress", "items": [{}]}


class ScriptedServer:
    """Answers each resume of the thread with the next state, the last one forever, and records all requests."""

    def __init__(self, *states):
        self.config = SimpleNamespace(experimental_api=True)
        self.timeouts = SimpleNamespace(sleep=self.sleep)
        self.states = list(states)
        self.looks = 0
        self.done = []

    async def sleep(self, seconds):
        await trio.lowlevel.checkpoint()

    async def request_json(self, method, params):
        await trio.lowlevel.checkpoint()
        assert method == "thread/resume"
        assert params["initialTurnsPage"]["limit"] == NEWEST_TURNS
        self.looks += 1
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return {"initialTurnsPage": {"data": state if isinstance(state, list) else [state]}}

    async def insist(self, method, params, decode=None):
        await trio.lowlevel.checkpoint()
        self.done.append((method, params.get("turnId") or params.get("status")))
        return {"goal": {"status": "active"}}


def left(*turn_ids, earlier=(), is_goal=False, is_rejoined=False):
    return LeftTurn("thread-1", frozenset(turn_ids), frozenset(earlier), is_goal, is_rejoined)


# A review has two ids. It is listed under the second one, and the server never ends that record.
REVIEW = {"id": "second", "rootTurnId": "mine", "status": "inProgress", "items": [{}]}

INTERRUPT = [("turn/interrupt", "mine")]
PAUSE = ("thread/goal/set", "paused")
BUSY = errors.ServerBusyError(-32001, "Server overloaded; retry later.", None, "thread/resume")
NOT_YET = errors.MethodNotFoundError(-32601, "list_turns is not supported yet", None, "thread/resume")
NOT_WRITTEN = errors.InternalRpcError(-32603, "rollout at … is empty", None, "thread/resume")


@pytest.mark.parametrize(
    ("turn", "states", "done"),
    [
        (left("mine"), [RUNNING, ENDED], INTERRUPT),
        (left("mine"), [STARTING, STARTING, RUNNING, RUNNING, ENDED], [*INTERRUPT, *INTERRUPT]),
        (left("mine"), [NOT_YET, EARLIER, RUNNING, ENDED], INTERRUPT),
        (left("mine"), [NOT_WRITTEN, NOT_WRITTEN, RUNNING, ENDED], INTERRUPT),
        (left(), [NOT_WRITTEN, RUNNING, ENDED], INTERRUPT),
        (left("mine"), [ENDED], []),
        (left("mine"), [OTHERS], []),
        # The response was also lost, and the thread has turns that are unknown to this client.
        (left(), [EARLIER, EARLIER, STARTING, RUNNING, ENDED], INTERRUPT),
        (left(earlier=["another"]), [OTHERS], []),
        (left(), [EARLIER], []),
        (left(is_goal=True), [EARLIER, RUNNING, ENDED], [PAUSE, *INTERRUPT]),
        (left("mine", is_rejoined=True), [RUNNING, ENDED], [("thread/goal/get", None), PAUSE, *INTERRUPT]),
        (left("mine"), [BUSY, RUNNING, BUSY, ENDED], INTERRUPT),
        (left("mine"), [REVIEW, [REVIEW, ENDED]], [("turn/interrupt", "second")]),
        (left("mine", "second"), [REVIEW, [REVIEW, ENDED]], [("turn/interrupt", "second")]),
        (left("mine", "second"), [[REVIEW, ENDED]], []),
    ],
)
async def test_a_turn_is_interrupted_until_its_end_is_observed(turn, states, done):
    server, turns = ScriptedServer(*states), [turn]
    with trio.fail_after(5):
        await end_left_turns(server, turns)
    assert server.done == done
    assert turns == []
    assert server.looks <= LOOKS + len(states)


async def test_a_turn_that_does_not_end_stays_in_the_list_and_does_not_block_others():
    refused = errors.InternalRpcError(-32603, "no", None, "thread/resume")
    stuck, fine = left("other"), left("mine")

    class Half(ScriptedServer):
        async def request_json(self, method, params):
            if params["threadId"] == "thread-2":
                raise refused
            return await super().request_json(method, params)

    turns = [LeftTurn("thread-2", stuck.turn_ids, frozenset()), fine]
    with trio.fail_after(5), pytest.raises(errors.InternalRpcError):
        await end_left_turns(Half(RUNNING, ENDED), turns)
    assert [turn.thread_id for turn in turns] == ["thread-2"]
