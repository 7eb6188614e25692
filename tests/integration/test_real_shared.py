"""Two clients of one real server: resuming the other's thread does not take it over."""

import pytest
import trio

from shared_server import two_clients
from trio_codex import DecidedBy, Policy, TurnStatus, errors, policies

pytestmark = pytest.mark.real


async def test_a_turn_of_another_client_is_neither_steered_nor_ended():
    async with two_clients() as (owner, other, model):
        model.hang()
        thread = await owner.thread_start()
        async with thread.turn("the first") as turn:
            await model.wait_for_requests(1)
            async with await other.thread_resume(thread.id) as resumed:
                with pytest.raises(errors.TurnActive) as caught:
                    await resumed.run("the second")
                assert caught.value.turn_id == turn.id
            assert turn.waiting_on is not None
        assert turn.result.status is TurnStatus.interrupted
        assert len(await model.wait_for_requests(1)) == 1


@pytest.mark.parametrize("given", ["nothing", "a policy for the client", "a policy for the thread"])
async def test_another_client_decides_an_approval_only_with_a_policy_for_that_thread(
    given,
):
    asked = trio.Event()

    async def wait(_):
        asked.set()
        await trio.sleep_forever()

    async def accept(_):
        await trio.lowlevel.checkpoint()
        return policies.accept()

    async with (
        two_clients(approval_policy="on-request") as (owner, other, model),
        trio.open_nursery() as nursery,
    ):
        if given == "a policy for the client":
            other._session.approvals.policy = Policy(command=accept)
        model.run_command("true", escalate="need")
        model.say("done")
        thread = await owner.thread_start(policy=Policy(command=wait))
        ended = trio.Event()

        @nursery.start_soon
        async def _():
            await thread.run("go")
            ended.set()

        await asked.wait()
        # The response to the resume arrives after the question.
        policy = Policy(command=accept) if given == "a policy for the thread" else None
        await other.thread_resume(thread.id, policy=policy)
        if policy is not None:
            await ended.wait()
            assert [record.decided_by for record in other.decisions] == [DecidedBy.thread]
        else:
            with trio.move_on_after(0.5):
                await ended.wait()
            assert [record.outcome for record in other.decisions] == ["left"]
            assert not owner.decisions, "only the owner may decide"
            nursery.cancel_scope.cancel()
