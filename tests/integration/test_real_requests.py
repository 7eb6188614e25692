"""The real server's requests, each with every decision and every fault: its effect and its records."""

import os
import signal

import msgspec
import pytest
import trio
from questions import COMMAND, PERMISSIONS, SCENARIOS, running

from trio_codex import Policy, TurnStatus, WaitingOn, errors, policies
from trio_codex._link.write_queue import WriteQueue
from trio_codex.testing import Command, ToolCall

pytestmark = pytest.mark.real


@pytest.fixture
def sent(monkeypatch):
    """Yield the lines that the client writes to the pipe."""
    lines = []
    take = WriteQueue._take

    def recording(self, letter):
        lines.append(msgspec.json.decode(letter.line))
        take(self, letter)

    monkeypatch.setattr(WriteQueue, "_take", recording)
    return lines


def asking(scenario, callback):
    """Return a policy that passes only the scenario's request to this callback."""
    return Policy(**{scenario.callback: callback})


def deciding(decision):
    async def decide(_):
        await trio.lowlevel.checkpoint()
        return decision

    return decide


every_request = pytest.mark.parametrize("scenario", SCENARIOS, ids=str)


@every_request
async def test_an_accepted_request_takes_effect(scenario, tmp_path, sent):
    async with running(scenario, tmp_path, sent) as world:
        world.lead_to(scenario)
        result = await world.thread.run("go", policy=asking(scenario, deciding(scenario.accept)))
        await world.codex.models()
    assert scenario.happened(world)
    assert result.status is TurnStatus.completed
    assert scenario.told_accepted in world.told
    assert world.replies == [scenario.accepted(world)]
    assert world.decisions == [("answered", "turn", scenario.accept, None)]


@every_request
async def test_a_declined_request_has_no_effect_and_the_turn_continues(scenario, tmp_path, sent):
    async with running(scenario, tmp_path, sent) as world:
        world.lead_to(scenario)
        result = await world.thread.run("go", policy=asking(scenario, deciding(policies.decline())))
        await world.codex.models()
    assert not scenario.happened(world)
    assert result.status is TurnStatus.completed
    assert scenario.told_denied in world.told
    assert world.replies == [scenario.denied]
    assert world.decisions == [("answered", "turn", policies.decline(), None)]


@every_request
async def test_a_cancelled_request_has_no_effect_and_interrupts_the_turn(scenario, tmp_path, sent):
    async with running(scenario, tmp_path, sent) as world:
        world.lead_to(scenario)
        result = await world.thread.run("go", policy=asking(scenario, deciding(policies.cancel())))
        await world.codex.models()
    assert not scenario.happened(world)
    assert result.status is TurnStatus.interrupted
    assert world.replies == [scenario.cancelled]
    assert world.decisions == [("answered", "turn", policies.cancel(), None)]


@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if one.lasts], ids=str)
@pytest.mark.parametrize(("scope", "asked_twice"), [("once", True), ("session", False)])
async def test_a_request_accepted_for_the_session_is_not_made_again(
    scenario, scope, asked_twice, tmp_path, sent
):
    decision = policies.accept(scope)
    async with running(scenario, tmp_path, sent) as world:
        for _ in range(2):
            world.made.unlink(missing_ok=True)
            world.lead_to(scenario)
            await world.thread.run("go", policy=asking(scenario, deciding(decision)))
            assert scenario.happened(world)
    assert world.decisions == [("answered", "turn", decision, None)] * (1 + asked_twice)
    assert len(world.replies) == len(world.decisions)


@pytest.mark.parametrize(("scope", "holds"), [("once", False), ("session", True)])
async def test_permissions_granted_for_the_session_apply_to_later_turns(scope, holds, tmp_path, sent):
    async with running(PERMISSIONS, tmp_path, sent) as world:
        policy = Policy(permissions=deciding(policies.accept(scope)))
        world.model.request_permissions("why", write=[world.granted])
        world.model.run_command(f"touch {world.granted}/now")
        world.model.say("done")
        await world.thread.run("go", policy=policy)
        world.model.run_command(f"touch {world.granted}/later")
        world.model.say("done")
        await world.thread.run("go on", policy=policy)
    assert set(os.listdir(world.granted)) == ({"now", "later"} if holds else {"now"})
    assert len(world.decisions) == 1


async def test_a_rule_accepted_with_a_command_applies_to_later_commands_of_all_threads(tmp_path, sent):
    rule = policies.accept(exec_policy=["touch"])
    async with running(COMMAND, tmp_path, sent) as world:
        policy = asking(COMMAND, deciding(rule))
        world.lead_to(COMMAND)
        await world.thread.run("go", policy=policy)
        assert world.made.exists()
        other = await world.codex.thread_start()
        world.model.run_command("touch other.txt", escalate="may I?")
        world.model.run_command("rm made.txt", escalate="and this?")
        world.model.say("done")
        await other.run("go", policy=asking(COMMAND, deciding(policies.decline())))
    assert "touch" in (tmp_path / "codex_home" / "rules" / "default.rules").read_text()
    assert set(os.listdir(tmp_path / "workspace")) == {"made.txt", "other.txt"}
    assert [record.decision for record in world.codex.decisions] == [rule, policies.decline()]
    assert "rm made.txt" in world.codex.decisions[1].request.command


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
async def test_concurrent_command_approvals_are_decided_in_any_order(order, tmp_path, sent):
    asked = {"first": trio.Event(), "second": trio.Event()}
    decided = {"first": trio.Event(), "second": trio.Event()}

    async def decide(request):
        asked[request.reason].set()
        await decided[request.reason].wait()
        return policies.accept() if request.reason == "first" else policies.decline()

    async with running(COMMAND, tmp_path, sent) as world:
        world.model.respond(*(Command(f"touch {name}", escalate=name) for name in asked))
        world.model.say("done")
        async with world.thread.turn("go", policy=asking(COMMAND, decide)) as turn:
            for event in asked.values():
                await event.wait()
            assert (world.replies, turn.waiting_on) == ([], WaitingOn.approval)
            for number, name in enumerate(order, 1):
                decided[name].set()
                await until(lambda number=number: len(world.replies) == number)
            result = await turn.wait()
    assert result.status is TurnStatus.completed
    assert os.listdir(tmp_path / "workspace") == ["first"]
    assert [record.request.reason for record in world.codex.decisions] == list(order)
    assert len({record.id for record in world.codex.decisions}) == 2


async def test_only_requested_permissions_are_granted(tmp_path, sent):
    generous = policies.grant(write=["/"], network=True)
    async with running(PERMISSIONS, tmp_path, sent) as world:
        world.lead_to(PERMISSIONS)
        await world.thread.run("go", policy=asking(PERMISSIONS, deciding(generous)))
    assert world.told == '{"permissions":{"network":null,"file_system":null},"scope":"turn"}'


# -- agents --------------------------------------------------------------------------------------------------------


def spawn_an_agent_that_asks(world):
    world.model.script("child work").run_command("touch made.txt", escalate="may I?")
    world.model.script("child work").say("the child is done")
    parent = world.model.script("parent work")
    parent.respond(ToolCall("spawn_agent", {"message": "child work"}, namespace="multi_agent_v1"))
    parent.hang("waiting for it")


async def test_an_agents_requests_go_to_the_policy_of_its_parent_turn_and_name_the_agent(tmp_path, sent):
    asked = []

    async def accept(request):
        asked.append(request)
        await trio.lowlevel.checkpoint()
        return policies.accept()

    async with running(COMMAND, tmp_path, sent) as world:
        spawn_an_agent_that_asks(world)
        async with (
            world.codex.events("turn/completed") as ended,
            world.thread.turn("parent work", policy=asking(COMMAND, accept)) as turn,
        ):
            child = (await ended.__anext__()).params
            assert turn.children == (child.thread_id,)
    assert child.turn.status == "completed"
    assert world.made.exists()
    [request] = asked
    assert (request.thread_id, request.ancestors) == (child.thread_id, (world.thread.id,))
    assert world.decisions == [("answered", "turn", policies.accept(), None)]


async def test_an_agents_request_is_answered_after_its_parent_turn_completed(tmp_path, sent):
    asked, gate = trio.Event(), trio.Event()

    async def accept(_):
        asked.set()
        await gate.wait()
        return policies.accept()

    async with running(COMMAND, tmp_path, sent) as world:
        world.model.script("child work").run_command("touch made.txt", escalate="may I?")
        world.model.script("child work").say("the child is done")
        parent = world.model.script("parent work")
        parent.respond(ToolCall("spawn_agent", {"message": "child work"}, namespace="multi_agent_v1"))
        parent.run_command("until test -e asked.txt; do sleep 0.02; done")
        parent.say("the parent is done")
        async with world.codex.events("turn/completed") as ended:
            async with world.thread.turn("parent work", policy=asking(COMMAND, accept)) as turn:
                await asked.wait()
                world.made.with_name("asked.txt").touch()
                await turn.wait()
            gate.set()
            ends = [(await ended.__anext__()).params for _ in range(2)]
    assert [end.turn.status for end in ends] == ["completed", "completed"]
    assert world.made.exists()
    assert world.decisions == [("answered", "turn", policies.accept(), None)]


async def test_leaving_a_turn_cancels_the_requests_of_its_agents(tmp_path, sent):
    parked = Parked()
    async with running(COMMAND, tmp_path, sent) as world:
        spawn_an_agent_that_asks(world)
        async with world.codex.events("turn/completed") as ended:
            async with world.thread.turn("parent work", policy=asking(COMMAND, parked)) as turn:
                await parked.asked.wait()
                assert turn.waiting_on is WaitingOn.approval
            assert parked.cancelled
            ends = [(await ended.__anext__()).params for _ in range(2)]
        await world.codex.models()
    assert {end.thread_id: end.turn.status for end in ends} == dict.fromkeys(
        [world.thread.id, *turn.children], "interrupted"
    )
    assert_nobody_answered(world, COMMAND, {"its turn ended"})


# -- callbacks that fail -------------------------------------------------------------------------------------------


async def raises(_):
    raise RuntimeError("boom")


async def returns_nonsense(_):
    return "accept"


async def times_out(_):
    with trio.fail_after(0.01):
        await trio.sleep_forever()


only_differs_on_our_side = pytest.mark.long
FAILURES = {
    raises: ("RuntimeError: boom", ()),
    returns_nonsense: ("returned str, which is not a decision", only_differs_on_our_side),
    times_out: ("TooSlowError", only_differs_on_our_side),
}


@every_request
@pytest.mark.parametrize(
    ("fails", "problem"),
    [
        pytest.param(fails, problem, id=fails.__name__, marks=marks)
        for fails, (problem, marks) in FAILURES.items()
    ],
)
async def test_a_failing_policy_denies_the_request_and_ends_the_turn_with_its_error(
    scenario, fails, problem, tmp_path, sent
):
    policy = asking(scenario, fails)
    async with running(scenario, tmp_path, sent) as world:
        world.lead_to(scenario)
        if not scenario.fails_turn:
            result = await world.thread.run("go", policy=policy)
        else:
            with pytest.raises(errors.PolicyError, match=problem):
                async with world.thread.turn("go", policy=policy) as turn:
                    await turn.wait()
            result = turn.result
        await world.codex.models()
    assert not scenario.happened(world)
    [(outcome, decided_by, decision, reason)] = world.decisions
    assert (decided_by, decision) == ("turn", None)
    assert problem in reason
    if scenario.fails_turn:
        assert outcome == "failed"
        assert result.status is TurnStatus.interrupted
        assert world.replies == [scenario.denied]
    else:
        assert outcome == "answered"
        assert result.status is TurnStatus.completed
        [reply] = world.replies
        assert reply["success"] is False
        assert problem in world.told


@every_request
@only_differs_on_our_side
async def test_a_policy_whose_own_scope_is_cancelled_may_still_decide(scenario, tmp_path, sent):
    async def decide(_):
        with trio.move_on_after(0.01):
            await trio.sleep_forever()
        return policies.decline("it took too long")

    async with running(scenario, tmp_path, sent) as world:
        world.lead_to(scenario)
        result = await world.thread.run("go", policy=asking(scenario, decide))
    assert not scenario.happened(world)
    assert result.status is TurnStatus.completed
    assert len(world.replies) == 1
    decision = policies.decline("it took too long")
    assert world.decisions == [("answered", "turn", decision, "it took too long")]


# -- callbacks that are still running --------------------------------------------------------------------------------


class Parked:
    """A callback that never decides."""

    def __init__(self):
        self.asked = trio.Event()
        self.cancelled = False

    async def __call__(self, _):
        self.asked.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled = True
            raise


@every_request
async def test_a_pending_request_of_an_interrupted_turn_is_not_answered(scenario, tmp_path, sent):
    parked = Parked()
    async with running(scenario, tmp_path, sent) as world:
        world.lead_to(scenario)
        async with world.thread.turn("go", policy=asking(scenario, parked)) as turn:
            await parked.asked.wait()
            await turn.interrupt()
            result = await turn.wait()
        assert parked.cancelled
        await world.codex.models()
    assert_nobody_answered(world, scenario, {"its turn ended", "the server withdrew it"})
    assert result.status is TurnStatus.interrupted


@every_request
async def test_a_pending_request_is_not_answered_once_its_turns_scope_exits(scenario, tmp_path, sent):
    parked = Parked()
    async with running(scenario, tmp_path, sent) as world:
        world.lead_to(scenario)
        async with world.thread.turn("go", policy=asking(scenario, parked)) as turn:
            await parked.asked.wait()
        assert parked.cancelled
        await world.codex.models()
    assert_nobody_answered(world, scenario, {"its turn ended"})
    assert turn.result.status is TurnStatus.interrupted


@every_request
async def test_a_pending_request_is_not_answered_once_the_server_is_killed(scenario, tmp_path, sent):
    parked = Parked()
    async with running(scenario, tmp_path, sent) as world:
        world.lead_to(scenario)
        with pytest.raises(errors.TurnLost) as caught:
            async with world.thread.turn("go", policy=asking(scenario, parked)) as turn:
                await parked.asked.wait()
                os.kill(world.codex.pid, signal.SIGKILL)
                await turn.wait()
        assert parked.cancelled
    assert isinstance(caught.value.__cause__, errors.ServerExited)
    assert_nobody_answered(world, scenario, {"the connection ended"})


def assert_nobody_answered(world, scenario, reasons):
    assert not scenario.happened(world)
    assert world.told is None
    assert world.replies == []
    [(outcome, decided_by, decision, reason)] = world.decisions
    assert (outcome, decided_by, decision) == ("withdrawn", "turn", None)
    assert reason in reasons


async def until(condition):
    """Wait for a condition that no event announces."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)
