"""Combined policies: which policy decides, what is logged, and what a timeout does."""

import logging
import math

import asked
import pytest
import trio
from trio.testing import MockClock

from trio_codex import Policy, policies
from trio_codex.policies import first_of, logged, with_timeout
from trio_codex.policies._policy import KINDS


def deciding(decision, name=None):
    async def my_callback(_):
        await trio.lowlevel.checkpoint()
        return decision

    return Policy(name=name, command=my_callback)


async def hang(_):
    await trio.sleep_forever()


async def fail(_):
    await trio.lowlevel.checkpoint()
    raise RuntimeError("boom")


async def decide(policy, line="ls"):
    return await policy.command(asked.command(line))


def kinds_of(policy):
    return {kind for kind in KINDS if getattr(policy, kind) is not None}


# -- first_of ------------------------------------------------------------------------------------------------------


async def test_first_of_returns_the_first_decision_and_asks_no_later_policy():
    policy = first_of(
        deciding(policies.abstain()), deciding(policies.decline("no"), "second"), Policy(command=fail)
    )
    decision = await decide(policy)
    assert decision == policies.decline("no")
    assert decision.rule == "second"


async def test_first_of_abstains_if_all_its_policies_abstain():
    assert (
        await decide(first_of(deciding(policies.abstain()), deciding(policies.abstain())))
        == policies.abstain()
    )


async def test_first_of_handles_exactly_the_kinds_that_its_policies_handle():
    policy = first_of(policies.allow_commands("ls"), policies.allow_paths("."), policies.system_clock)
    assert kinds_of(policy) == {"command", "file_change", "permissions", "current_time"}
    assert not first_of()
    assert await policy.current_time(asked.current_time())


async def test_first_of_keeps_the_rule_of_a_decision_or_sets_it_to_the_policy_name():
    inner = first_of(policies.allow_commands("ls"), deciding(policies.accept()))
    policy = first_of(deciding(policies.abstain()), inner, policies.decline_all)
    assert (await decide(policy)).rule == "allow_commands: ls"
    assert (await decide(policy, "rm x")).rule == "deciding.<locals>.my_callback"
    assert policy.name == "first_of(policy, first_of(allow_commands, policy), decline_all)"
    assert first_of(policy, name="mine").name == "mine"


async def test_first_of_propagates_the_error_of_a_policy():
    with pytest.raises(RuntimeError, match="boom"):
        await decide(first_of(Policy(command=fail), policies.accept_all))


async def test_cancelling_first_of_cancels_the_current_policy():
    with trio.move_on_after(0) as scope:
        await decide(first_of(deciding(policies.abstain()), Policy(command=hang), policies.accept_all))
    assert scope.cancelled_caught


# -- with_timeout --------------------------------------------------------------------------------------------------


async def test_a_decision_before_the_timeout_is_returned_with_the_policy_name(mock_clock):
    policy = with_timeout(deciding(policies.accept(), "quick"), 10)
    decision = await decide(policy)
    assert decision == policies.accept()
    assert (policy.name, decision.rule) == ("quick", "quick")
    assert kinds_of(policy) == {"command"}


async def test_a_timeout_cancels_the_callback_and_returns_the_fallback_decision(autojump_clock):
    ended = []

    async def linger(_):
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    decision = await decide(with_timeout(Policy(command=linger), 10))
    assert decision == policies.decline("no decision before the timeout")
    assert decision.rule == "with_timeout: 10 s"
    assert ended == [10]
    assert await decide(with_timeout(Policy(command=linger), 5, policies.abstain())) == policies.abstain()
    assert await decide(with_timeout(Policy(command=linger), 0, policies.cancel())) == policies.cancel()


async def test_an_infinite_timeout_never_cancels_the_callback(autojump_clock):
    with trio.move_on_after(1e6) as scope:
        await decide(with_timeout(Policy(command=hang), math.inf))
    assert scope.cancelled_caught


def test_an_outer_cancellation_wins_over_a_timeout_at_the_same_instant():
    """Both expire at the same instant. A turn whose scope is cancelled must not receive a decision."""

    async def main():
        with trio.CancelScope() as outer:
            outer.deadline = trio.current_time() + 10
            await decide(with_timeout(Policy(command=hang), 10))
            raise AssertionError("it decided")
        assert outer.cancelled_caught

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_an_error_before_the_timeout_propagates(autojump_clock):
    with pytest.raises(RuntimeError, match="boom"):
        await decide(with_timeout(Policy(command=fail), 10))


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_an_invalid_timeout_is_rejected(seconds):
    with pytest.raises(ValueError, match="seconds"):
        with_timeout(policies.decline_all, seconds)


def test_a_fallback_that_is_not_a_decision_is_rejected_at_creation():
    with pytest.raises(TypeError, match="decision"):
        with_timeout(policies.decline_all, 1, "decline")


# -- logged --------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, "trio_codex.policies")
    return caplog


async def test_each_decision_is_logged_as_one_record_with_its_rule(log, autojump_clock):
    policy = logged(first_of(policies.allow_commands("ls *"), policies.decline_all))
    assert kinds_of(policy) == set(KINDS)
    await decide(policy, "ls secret")
    await decide(policy, "rm secret")
    assert [record.getMessage() for record in log.records] == [
        "command: accept thread_id='t' turn_id='u' item_id='i' rule='allow_commands: ls *' seconds=0.0",
        "command: decline thread_id='t' turn_id='u' item_id='i' rule='decline_all' seconds=0.0",
    ]
    assert log.records[0].decision["outcome"] == "accept"
    assert {record.levelno for record in log.records} == {logging.INFO}


async def test_the_record_contains_the_elapsed_seconds_and_names_failures_and_withdrawals(
    log, autojump_clock
):
    await decide(logged(with_timeout(Policy(command=hang), 2.5)))
    with trio.move_on_after(1):
        await decide(logged(Policy(command=hang)))
    with pytest.raises(RuntimeError):
        await decide(logged(Policy(command=fail)))
    assert [(record.decision["outcome"], record.decision["seconds"]) for record in log.records] == [
        ("decline", 2.5), ("withdrawn", 1.0), ("failed: RuntimeError", 0.0),
    ]  # fmt: skip


async def test_the_content_of_a_request_is_logged_only_on_demand(log):
    paths = first_of(policies.allow_paths("/secret"), policies.accept_all)
    for show in (False, True):
        policy = logged(paths, show=show, level=logging.DEBUG)
        await decide(policy, "ls secret")
        await policy.file_change(asked.file_change("/w/secret"))
        await policy.user_input(asked.user_input())
        assert ["secret" in record.getMessage() for record in log.records] == [show, show, False]
        assert {record.levelno for record in log.records} == {logging.DEBUG}
        log.clear()


async def test_a_token_is_never_logged(log):
    async def attest(_):
        await trio.lowlevel.checkpoint()
        return policies.Attestation("s3cret")

    await logged(Policy(attestation=attest), show=True).attestation(None)
    assert "s3cret" not in log.records[0].getMessage()
    assert "Attestation" in log.records[0].getMessage()


async def test_the_records_use_the_given_logger_and_level(caplog):
    other = logging.getLogger("elsewhere")
    caplog.set_level(logging.WARNING, "elsewhere")
    await decide(logged(policies.accept_all, logger=other))
    assert not caplog.records
    await decide(logged(policies.accept_all, logger=other, level=logging.WARNING))
    assert [record.name for record in caplog.records] == ["elsewhere"]
