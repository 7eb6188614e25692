"""Policies made of policies: who decides, what is said of it, and what a deadline does."""

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


async def test_the_first_that_does_not_abstain_decides_and_no_later_one_is_asked():
    policy = first_of(
        deciding(policies.abstain()), deciding(policies.decline("no"), "second"), Policy(command=fail)
    )
    decision = await decide(policy)
    assert decision == policies.decline("no")
    assert decision.rule == "second"


async def test_if_all_abstain_so_does_the_first_of_them():
    assert (
        await decide(first_of(deciding(policies.abstain()), deciding(policies.abstain())))
        == policies.abstain()
    )


async def test_what_none_of_them_handles_falls_through():
    policy = first_of(policies.allow_commands("ls"), policies.allow_paths("."), policies.system_clock)
    assert kinds_of(policy) == {"command", "file_change", "permissions", "current_time"}
    assert not first_of()
    assert await policy.current_time(asked.current_time())


async def test_a_rule_that_a_decision_names_is_kept_and_otherwise_the_policy_is_named():
    inner = first_of(policies.allow_commands("ls"), deciding(policies.accept()))
    policy = first_of(deciding(policies.abstain()), inner, policies.decline_all)
    assert (await decide(policy)).rule == "allow_commands: ls"
    assert (await decide(policy, "rm x")).rule == "deciding.<locals>.my_callback"
    assert policy.name == "first_of(policy, first_of(allow_commands, policy), decline_all)"
    assert first_of(policy, name="mine").name == "mine"


async def test_an_error_of_a_policy_is_not_an_abstention():
    with pytest.raises(RuntimeError, match="boom"):
        await decide(first_of(Policy(command=fail), policies.accept_all))


async def test_first_of_is_cancelled_with_the_policy_that_it_asks():
    with trio.move_on_after(0) as scope:
        await decide(first_of(deciding(policies.abstain()), Policy(command=hang), policies.accept_all))
    assert scope.cancelled_caught


# -- with_timeout --------------------------------------------------------------------------------------------------


async def test_a_decision_in_time_is_taken_and_names_its_policy(mock_clock):
    policy = with_timeout(deciding(policies.accept(), "quick"), 10)
    decision = await decide(policy)
    assert decision == policies.accept()
    assert (policy.name, decision.rule) == ("quick", "quick")
    assert kinds_of(policy) == {"command"}


async def test_when_the_time_is_over_it_decides_by_itself_and_the_callback_is_cancelled(autojump_clock):
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


async def test_without_an_end_it_waits_for_ever(autojump_clock):
    with trio.move_on_after(1e6) as scope:
        await decide(with_timeout(Policy(command=hang), math.inf))
    assert scope.cancelled_caught


def test_whatever_cancels_from_outside_wins_over_a_deadline_at_the_same_time():
    """Both are due in the same instant: there must be no decision for a turn that is being left."""

    async def main():
        with trio.CancelScope() as outer:
            outer.deadline = trio.current_time() + 10
            await decide(with_timeout(Policy(command=hang), 10))
            raise AssertionError("it decided")
        assert outer.cancelled_caught

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_an_error_in_time_is_an_error(autojump_clock):
    with pytest.raises(RuntimeError, match="boom"):
        await decide(with_timeout(Policy(command=fail), 10))


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds"):
        with_timeout(policies.decline_all, seconds)


def test_what_is_no_decision_is_refused_before_it_is_needed():
    with pytest.raises(TypeError, match="decision"):
        with_timeout(policies.decline_all, 1, "decline")


# -- logged --------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, "trio_codex.policies")
    return caplog


async def test_each_decision_is_one_record_that_says_by_which_rule(log, autojump_clock):
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


async def test_it_counts_seconds_and_tells_a_failure_and_a_withdrawal(log, autojump_clock):
    await decide(logged(with_timeout(Policy(command=hang), 2.5)))
    with trio.move_on_after(1):
        await decide(logged(Policy(command=hang)))
    with pytest.raises(RuntimeError):
        await decide(logged(Policy(command=fail)))
    assert [(record.decision["outcome"], record.decision["seconds"]) for record in log.records] == [
        ("decline", 2.5), ("withdrawn", 1.0), ("failed: RuntimeError", 0.0),
    ]  # fmt: skip


async def test_what_was_asked_is_in_no_record_unless_it_is_asked_for(log):
    paths = first_of(policies.allow_paths("/secret"), policies.accept_all)
    for show in (False, True):
        policy = logged(paths, show=show, level=logging.DEBUG)
        await decide(policy, "ls secret")
        await policy.file_change(asked.file_change("/w/secret"))
        await policy.user_input(asked.user_input())
        assert ["secret" in record.getMessage() for record in log.records] == [show, show, False]
        assert {record.levelno for record in log.records} == {logging.DEBUG}
        log.clear()


async def test_a_token_is_in_no_record_at_all(log):
    async def attest(_):
        await trio.lowlevel.checkpoint()
        return policies.Attestation("s3cret")

    await logged(Policy(attestation=attest), show=True).attestation(None)
    assert "s3cret" not in log.records[0].getMessage()
    assert "Attestation" in log.records[0].getMessage()


async def test_the_records_go_where_they_are_wanted(caplog):
    other = logging.getLogger("elsewhere")
    caplog.set_level(logging.WARNING, "elsewhere")
    await decide(logged(policies.accept_all, logger=other))
    assert not caplog.records
    await decide(logged(policies.accept_all, logger=other, level=logging.WARNING))
    assert [record.name for record in caplog.records] == ["elsewhere"]
