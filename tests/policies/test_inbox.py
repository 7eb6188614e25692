"""Requests in an inbox: each is delivered once, answered once, and withdrawn when its caller is cancelled."""

import functools
import gc
import pickle
import weakref
from types import SimpleNamespace

import asked
import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_codex import Policy, policies
from trio_codex.errors import RequestAnswered, RequestSettled, RequestWithdrawn
from trio_codex.policies import Inbox
from trio_codex.policies._inbox import FOR_PEOPLE
from trio_codex.policies._policy import KINDS


class Asked:
    """A pending request, as the client runs it: a task with its own cancel scope."""

    def __init__(self, nursery, inbox, line):
        self.line = line
        self.scope = trio.CancelScope()
        self.decision = None
        nursery.start_soon(self._run, inbox)

    async def _run(self, inbox):
        with self.scope:
            decision = await inbox.command(asked.command(self.line))
            # Like the client: a decision after a cancellation is not sent.
            if not self.scope.cancel_called:
                self.decision = decision


@pytest.fixture
async def inbox():
    return Inbox()


async def ask(nursery, inbox, line="ls"):
    request = Asked(nursery, inbox, line)
    await wait_all_tasks_blocked()
    return request


async def take(inbox, count=1):
    with trio.fail_after(5):
        return [await inbox.__anext__() for _ in range(count)]


async def test_an_inbox_is_a_policy_for_the_requests_that_people_can_answer():
    inbox = Inbox()
    assert isinstance(inbox, Policy)
    assert {kind for kind in KINDS if getattr(inbox, kind)} == set(FOR_PEOPLE)
    assert inbox
    assert {kind for kind in KINDS if getattr(Inbox(kinds=["current_time"]), kind)} == {"current_time"}
    assert not Inbox(kinds=())
    assert inbox != Inbox()
    assert (inbox.name, Inbox(name="mine").name) == ("inbox", "mine")
    with pytest.raises(ValueError, match="commands"):
        Inbox(kinds=["commands"])


async def test_a_request_is_delivered_once_and_its_answer_is_the_decision(nursery, inbox):
    request = await ask(nursery, inbox)
    assert repr(inbox) == "<Inbox 'inbox': 1 pending>"
    (pending,) = await take(inbox)
    assert (pending.kind, pending.request.command, pending.withdrawn) == ("command", "ls", False)
    assert pending.asked_at <= trio.current_time()
    assert inbox.pending == (pending,)
    await pending.accept("session")
    assert pending.decision == policies.accept("session")
    assert inbox.pending == ()
    await pending.wait_settled()
    await wait_all_tasks_blocked()
    assert request.decision == policies.accept("session")


async def test_every_answer_method_results_in_its_decision(nursery, inbox):
    requests = [await ask(nursery, inbox) for _ in range(5)]
    one, two, three, four, five = await take(inbox, 5)
    await five.cancel()
    await one.decline("no")
    await two.accept(exec_policy=["git", "status"])
    await three.answer(policies.network_rule("example.org", "deny"))
    await four.answer(policies.abstain())
    await wait_all_tasks_blocked()
    assert [request.decision for request in requests] == [
        policies.decline("no"), policies.accept(exec_policy=["git", "status"]),
        policies.network_rule("example.org", "deny"), policies.abstain(), policies.cancel(),
    ]  # fmt: skip


async def test_a_second_answer_is_rejected_and_has_no_effect(nursery, inbox):
    request = await ask(nursery, inbox)
    (pending,) = await take(inbox)
    await pending.decline()
    with pytest.raises(RequestAnswered) as caught:
        await pending.accept()
    assert isinstance(caught.value, RequestSettled)
    assert (caught.value.kind, caught.value.thread_id, caught.value.turn_id) == ("command", "t", "u")
    assert str(caught.value) == "the command request of thread t has been answered already"
    await wait_all_tasks_blocked()
    assert request.decision == policies.decline()


async def test_one_of_two_simultaneous_answers_is_rejected(nursery, inbox):
    request = await ask(nursery, inbox)
    (pending,) = await take(inbox)
    outcomes = []

    async def answer(decision):
        try:
            await pending.answer(decision)
            outcomes.append(decision)
        except RequestAnswered:
            outcomes.append(None)

    async with trio.open_nursery() as both:
        both.start_soon(answer, policies.accept())
        both.start_soon(answer, policies.decline())
    assert outcomes.count(None) == 1
    assert request.decision in outcomes


async def test_an_unsuitable_decision_is_rejected_and_the_request_stays_open(nursery, inbox):
    request = await ask(nursery, inbox)
    (pending,) = await take(inbox)
    for wrong in (policies.answers({}), None, True, policies.accept):
        with pytest.raises(TypeError, match="cannot answer a command request with "):
            await pending.answer(wrong)
    await pending.accept()
    await wait_all_tasks_blocked()
    assert request.decision == policies.accept()


async def test_answering_a_withdrawn_request_raises(nursery, inbox):
    request = await ask(nursery, inbox)
    (pending,) = await take(inbox)
    request.scope.cancel()
    await pending.wait_settled()
    assert pending.withdrawn
    assert inbox.pending == ()
    with pytest.raises(RequestWithdrawn) as caught:
        await pending.accept()
    assert pickle.loads(pickle.dumps(caught.value)).kind == "command"
    assert pending.decision is None
    assert request.decision is None


@pytest.mark.parametrize("answered_first", [True, False])
async def test_an_answer_that_races_with_a_withdrawal_is_not_reported_as_sent(nursery, inbox, answered_first):
    request = await ask(nursery, inbox)
    (pending,) = await take(inbox)

    if answered_first:
        woken = pending._answered
        pending._answered = SimpleNamespace(set=lambda: (woken.set(), request.scope.cancel()))
    else:
        request.scope.cancel()
    with pytest.raises(RequestWithdrawn):
        await pending.accept()
    assert pending.withdrawn
    assert request.decision is None


async def test_an_answer_cancelled_before_its_checkpoint_has_no_effect(nursery, inbox):
    request = await ask(nursery, inbox)
    (pending,) = await take(inbox)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pending.decline()
    assert scope.cancelled_caught
    await pending.accept()
    await wait_all_tasks_blocked()
    assert request.decision == policies.accept()


async def test_an_answer_cancelled_after_its_decision_was_set_still_counts(nursery, inbox):
    request = await ask(nursery, inbox)
    (pending,) = await take(inbox)
    give = pending._answered.set
    with trio.CancelScope() as scope:
        pending._answered = SimpleNamespace(set=lambda: (give(), scope.cancel()))
        await pending.accept()
    assert not scope.cancelled_caught
    assert request.decision == pending.decision == policies.accept()


async def test_each_iteration_is_a_checkpoint_even_if_a_request_is_ready(nursery, inbox):
    await ask(nursery, inbox)
    with trio.testing.assert_checkpoints():
        (pending,) = await take(inbox)
    await pending.accept()


async def test_a_request_withdrawn_before_delivery_is_skipped_and_released(nursery, inbox):
    first = await ask(nursery, inbox, "first")
    await ask(nursery, inbox, "second")
    forgotten = weakref.ref(inbox.pending[0])
    first.scope.cancel()
    await wait_all_tasks_blocked()
    gc.collect()
    assert forgotten() is None
    (pending,) = await take(inbox)
    assert pending.request.command == "second"
    await pending.accept()


async def test_several_consumers_share_the_requests_and_cancelling_one_loses_none_of_them(nursery, inbox):
    got = []

    async def consume(scope):
        with scope:
            async for pending in inbox:
                got.append(pending.request.command)
                await pending.accept()

    scopes = [trio.CancelScope() for _ in range(3)]
    for scope in scopes:
        nursery.start_soon(consume, scope)
    await wait_all_tasks_blocked()
    for name in "abcdef":
        Asked(nursery, inbox, name)
    scopes[0].cancel()
    await wait_all_tasks_blocked()
    assert sorted(got) == list("abcdef")
    for scope in scopes:
        scope.cancel()


async def test_undelivered_requests_stay_for_the_next_iteration(nursery, inbox):
    for name in "abc":
        await ask(nursery, inbox, name)
    async for pending in inbox:
        await pending.accept()
        break
    assert [pending.request.command for pending in await take(inbox, 2)] == ["b", "c"]
    for pending in inbox.pending:
        await pending.accept()


async def test_a_timeout_around_an_inbox_withdraws_unanswered_requests(autojump_clock):
    inbox = Inbox()
    policy = policies.with_timeout(inbox, 60)
    assert (await policy.command(asked.command("ls"))).rule == "with_timeout: 60 s"
    assert inbox.pending == ()


async def test_an_inbox_accepts_any_selection_of_kinds(nursery):
    inbox = Inbox(kinds=["current_time", "user_input"])
    decisions = []

    async def ask_for(callback, request):
        decisions.append(await callback(request))

    nursery.start_soon(ask_for, inbox.user_input, asked.user_input())
    (pending,) = await take(inbox)
    with pytest.raises(TypeError):
        await pending.accept()
    await pending.answer(policies.answers({"a": "b"}))
    nursery.start_soon(ask_for, inbox.current_time, asked.current_time())
    (pending,) = await take(inbox)
    await pending.answer(policies.CurrentTime(1))
    await wait_all_tasks_blocked()
    assert decisions == [policies.answers({"a": "b"}), policies.CurrentTime(1)]


# -- any interleaving ----------------------------------------------------------------------------------------------


class Interleavings(RuleBasedStateMachine):
    """Sends, answers and withdraws requests, and starts and cancels consumers, in any order."""

    requests = Bundle("requests")

    def __init__(self):
        super().__init__()
        self.steps = []

    @initialize()
    def start(self):
        self.steps.clear()

    @rule(target=requests)
    def ask(self):
        self.steps.append(("ask", sum(step[0] == "ask" for step in self.steps)))
        return self.steps[-1][1]

    @rule(which=requests, decision=st.sampled_from(["accept", "decline", "cancel", "abstain"]))
    def answer(self, which, decision):
        self.steps.append(("answer", which, decision))

    @rule(which=requests)
    def withdraw(self, which):
        self.steps.append(("withdraw", which))

    @rule()
    def consume(self):
        self.steps.append(("consume",))

    @rule()
    def cancel_a_consumer(self):
        self.steps.append(("cancel_consumer",))

    @rule()
    def settle(self):
        self.steps.append(("settle",))

    def teardown(self):
        trio.run(functools.partial(play, self.steps), clock=MockClock(autojump_threshold=0))


async def play(steps):
    """Run the steps concurrently up to each settle step, and check the outcome of each request."""
    inbox = Inbox()
    asked_so_far, by_request, given, outcomes = [], {}, [], []

    async def answer(which, decision):
        pending = by_request.get(which)
        if pending is None:
            return
        decision = getattr(policies, decision)()
        was_settled = pending.withdrawn or pending.decision is not None
        try:
            await pending.answer(decision)
        except RequestWithdrawn:
            assert pending.withdrawn
            outcomes.append((which, None))
        except RequestAnswered:
            assert pending._decision is not None
        else:
            assert not was_settled
            outcomes.append((which, decision))

    async def consume(scope):
        with scope:
            async for pending in inbox:
                given.append(pending)  # noqa: PERF401  # the iteration never ends

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            consumers = []
            for step in steps:
                match step:
                    case ("ask", which):
                        asked_so_far.append(Asked(nursery, inbox, str(which)))
                    case ("answer", which, decision):
                        nursery.start_soon(answer, which, decision)
                    case ("withdraw", which):
                        asked_so_far[which].scope.cancel()
                    case ("consume",):
                        consumers.append(trio.CancelScope())
                        nursery.start_soon(consume, consumers[-1])
                    case ("cancel_consumer",) if consumers:
                        consumers.pop().cancel()
                    case _:
                        await wait_all_tasks_blocked()
                by_request |= {int(pending.request.command): pending for pending in inbox.pending}
            await wait_all_tasks_blocked()
            by_request |= {int(pending.request.command): pending for pending in inbox.pending}
            for which, request in enumerate(asked_so_far):
                sent = [decision for each, decision in outcomes if each == which and decision is not None]
                # An answer that was reported as sent was sent exactly once, and no other was.
                assert sent == ([] if request.decision is None else [request.decision])
                if which in by_request:
                    pending = by_request[which]
                    assert pending.withdrawn == (request.scope.cancel_called and not sent)
                    assert (pending in inbox.pending) == (not pending.withdrawn and not sent)
            assert len(given) == len(set(given))
            if consumers:
                assert set(inbox.pending) <= set(given)
            nursery.cancel_scope.cancel()
    assert inbox.pending == ()
    assert not inbox._state.undelivered


TestInterleavings = Interleavings.TestCase
