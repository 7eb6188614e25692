"""Server requests: one task and one scope each, at most one answer, and denial by default."""

import contextvars
import functools
import logging

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_codex._core.rpc import RpcState, ServerRequest
from trio_codex._link.dispatch import Answer, CallbackGroup, Dispatcher, Handler
from trio_codex._link.services import Services, open_services
from trio_codex.errors import PolicyError

DENIAL = Answer({"decision": "decline"})


class StubConnection:
    """A connection that records its answers instead of writing them. It uses real ids."""

    def __init__(self):
        self.rpc = RpcState(1000)
        self.sent = []

    def opened(self, request_id, method="item/ask"):
        """The request as it arrives."""
        line = msgspec.json.encode({"id": request_id, "method": method, "params": {}})
        [request] = self.rpc.receive([line])
        assert isinstance(request, ServerRequest)
        return request

    def _send(self, line):
        if line is not None:
            self.sent.append(msgspec.json.decode(line))
        return line is not None

    def respond(self, request_id, result):
        return self._send(self.rpc.respond(request_id, result))

    def refuse(self, request_id, code, message):
        return self._send(self.rpc.refuse(request_id, code, message))

    def withdraw(self, request_id):
        return self.rpc.withdraw(request_id)


class Bench:
    """A dispatcher with one group, whose callback the test sets."""

    def __init__(self, nursery):
        self.connection = StubConnection()
        self.failures = []
        self.group = CallbackGroup(self.failures.append)
        self.denial = DENIAL
        self.decide = None
        self.outcomes = []
        self.dispatcher = Dispatcher(Services(nursery), self.connection)

    def resolve(self, request):
        return Handler(self.group, self.denial, self.decide and self.answer, self.settled)

    async def answer(self):
        return Answer(await self.decide())

    def settled(self, outcome, reason):
        self.outcomes.append((outcome, reason))

    def ask(self, request_id=0, method="item/ask"):
        request = self.connection.opened(request_id, method)
        self.dispatcher.dispatch(request, self.resolve(request))

    def assert_idle(self):
        """Check that no request remains, here or in the connection."""
        assert len(self.group) == 0
        assert self.connection.rpc.server_requests == frozenset()
        assert not self.dispatcher._open


@pytest.fixture
async def bench(nursery):
    return Bench(nursery)


async def settled():
    with trio.fail_after(5):
        await wait_all_tasks_blocked()


def answers(result):
    async def decide():
        await trio.lowlevel.checkpoint()
        return result

    return decide


def raises(error):
    async def decide():
        await trio.lowlevel.checkpoint()
        raise error

    return decide


ACCEPTED = {"decision": "accept"}


@pytest.mark.parametrize("request_id", [0, 7, -1, "", "0", "abc"])
async def test_a_request_is_answered_once_under_its_own_id(bench, request_id):
    bench.decide = answers(ACCEPTED)
    bench.ask(request_id)
    assert bench.connection.sent == []
    assert len(bench.group) == 1
    await settled()
    assert bench.connection.sent == [{"id": request_id, "result": ACCEPTED}]
    assert bench.failures == []
    bench.assert_idle()


async def test_a_callback_that_never_returns_does_not_block_the_reader(bench):
    bench.decide = trio.sleep_forever
    for request_id in range(100):
        bench.ask(request_id)
    await settled()
    bench.decide = answers(ACCEPTED)
    bench.ask("quick")
    await settled()
    assert bench.connection.sent == [{"id": "quick", "result": ACCEPTED}]
    assert len(bench.group) == 100


async def test_a_request_without_a_callback_is_denied_immediately(bench):
    bench.ask("a")
    assert bench.connection.sent == [{"id": "a", "result": {"decision": "decline"}}]
    bench.denial = Answer(error=(-32601, "no such tool"))
    bench.ask(0)
    assert bench.connection.sent[1:] == [{"id": 0, "error": {"code": -32601, "message": "no such tool"}}]
    bench.assert_idle()


@pytest.mark.parametrize("result", [None, False, 0, "", [], {}])
async def test_a_falsy_answer_is_an_answer(bench, result):
    bench.decide = answers(result)
    bench.ask()
    await settled()
    assert bench.connection.sent == [{"id": 0, "result": result}]


# -- callbacks that fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("x"), ExceptionGroup("g", [ValueError("x")]), StopAsyncIteration()]
)
async def test_a_callback_that_raises_denies_and_fails_its_group_once(bench, error):
    bench.decide = raises(error)
    bench.ask("a", "item/fileChange/requestApproval")
    await settled()
    assert bench.connection.sent == [{"id": "a", "result": {"decision": "decline"}}]
    [failure] = bench.failures
    assert type(failure) is PolicyError
    assert failure.method == "item/fileChange/requestApproval"
    cause = failure.__cause__
    assert cause is error or cause.__cause__ is error
    bench.assert_idle()


async def test_a_policy_error_raised_by_the_policy_is_reported_unchanged(bench):
    error = PolicyError("item/ask", "returned nonsense")
    bench.decide = raises(error)
    bench.ask()
    await settled()
    assert bench.failures == [error]
    assert error.__cause__ is None
    assert bench.connection.sent == [{"id": 0, "result": {"decision": "decline"}}]


@pytest.mark.parametrize("nonsense", [object(), {"a": float("nan")}, "\ud800", {(1, 2): 3}])
async def test_a_decision_that_cannot_be_sent_denies_and_fails_its_group(bench, nonsense):
    bench.decide = answers(nonsense)
    bench.ask()
    await settled()
    assert bench.connection.sent == [{"id": 0, "result": {"decision": "decline"}}]
    [failure] = bench.failures
    assert type(failure) is PolicyError
    assert "cannot be sent" in failure.problem
    bench.assert_idle()


async def test_a_failing_callback_is_answered_with_an_error_if_the_method_has_no_denial(bench):
    bench.denial = Answer(error=(-32603, "no token"))
    bench.decide = raises(ValueError())
    bench.ask("a")
    await settled()
    assert bench.connection.sent == [{"id": "a", "error": {"code": -32603, "message": "no token"}}]
    assert len(bench.failures) == 1


async def test_without_a_turn_a_failure_is_logged_and_nothing_else_ends(bench, caplog):
    bench.group = CallbackGroup()
    cause = ValueError("x")
    bench.decide = raises(cause)
    with caplog.at_level(logging.ERROR, "trio_codex"):
        bench.ask()
        await settled()
    [record] = caplog.records
    assert type(record.exc_info[1]) is PolicyError
    assert record.exc_info[1].__cause__ is cause
    assert bench.connection.sent == [{"id": 0, "result": {"decision": "decline"}}]


async def raise_in_nursery(error):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises(error))
        nursery.start_soon(trio.sleep_forever)


@pytest.mark.parametrize("in_nursery", [False, True])
@pytest.mark.parametrize("exit_request", [KeyboardInterrupt, SystemExit])
async def test_system_exit_in_a_callback_propagates_unchanged(exit_request, in_nursery):
    async def close(services):
        services.stop()

    error, caught, connection = exit_request(), None, StubConnection()
    group = CallbackGroup(pytest.fail)
    decide = functools.partial(raise_in_nursery, error) if in_nursery else raises(error)
    with trio.fail_after(5):
        try:
            async with open_services(close) as services:
                handler = Handler(group, DENIAL, decide, lambda *_: None)
                Dispatcher(services, connection).dispatch(connection.opened(0), handler)
                await trio.sleep_forever()
        except BaseException as exc:
            caught = exc
    assert caught is error
    assert len(group) == 0
    assert not any("result" in line and line["result"] != DENIAL.result for line in connection.sent)


# -- withdrawal ----------------------------------------------------------------------------------------------------


async def test_a_request_that_is_withdrawn_before_its_task_has_started_gets_no_answer(bench):
    bench.decide = answers(ACCEPTED)
    bench.ask()
    bench.dispatcher.withdraw(0)
    await settled()
    assert bench.connection.sent == []
    assert bench.failures == []
    bench.assert_idle()


async def test_a_synchronous_callback_does_not_answer_a_withdrawn_request(bench):
    async def decide():
        return ACCEPTED

    bench.decide = decide
    bench.ask()
    bench.dispatcher.withdraw(0)
    await settled()
    assert bench.connection.sent == []
    bench.assert_idle()


async def test_withdrawing_a_request_cancels_its_waiting_callback_and_sends_no_answer(bench):
    ended = []

    async def decide():
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    bench.decide = decide
    bench.ask("a")
    bench.ask("b")
    await settled()
    bench.dispatcher.withdraw("a")
    await settled()
    assert ended == [True]
    assert len(bench.group) == 1
    assert bench.connection.rpc.server_requests == {"b"}
    assert bench.connection.sent == []
    assert bench.failures == []


async def test_a_withdrawal_after_the_answer_changes_nothing(bench):
    bench.decide = answers(ACCEPTED)
    bench.ask()
    await settled()
    bench.dispatcher.withdraw(0)
    bench.dispatcher.withdraw("never heard of")
    await settled()
    assert len(bench.connection.sent) == 1
    bench.assert_idle()


async def test_a_withdrawal_that_races_the_answer_results_in_at_most_one_line(bench):
    answered = trio.Event()

    async def decide():
        await answered.wait()
        return ACCEPTED

    bench.decide = decide
    for request_id in range(20):
        bench.ask(request_id)
    await settled()
    answered.set()  # all of them are scheduled, and none has run yet
    for request_id in range(0, 20, 2):
        bench.dispatcher.withdraw(request_id)
    await settled()
    assert sorted(line["id"] for line in bench.connection.sent) == list(range(1, 20, 2))
    bench.assert_idle()


async def test_a_callback_that_swallows_its_cancellation_and_decides_sends_nothing(bench):
    async def decide():
        with trio.move_on_after(1):
            await trio.sleep_forever()
        return ACCEPTED

    async def stubborn():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return ACCEPTED

    for bench.decide in (decide, stubborn):
        bench.ask()
        await settled()
        bench.dispatcher.withdraw(0)
        await settled()
        assert bench.connection.sent == []
        bench.assert_idle()


async def test_a_callback_that_fails_while_it_is_withdrawn_sends_nothing(bench):
    async def decide():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    bench.decide = decide
    bench.ask()
    await settled()
    bench.dispatcher.withdraw(0)
    await settled()
    assert bench.connection.sent == []
    assert [type(failure.__cause__) for failure in bench.failures] == [ValueError]
    bench.assert_idle()


async def test_a_request_that_the_connection_has_forgotten_gets_no_answer(bench):
    bench.decide = answers(ACCEPTED)
    bench.ask()
    bench.connection.rpc.close()
    await settled()
    assert bench.connection.sent == []
    bench.assert_idle()


async def test_an_id_reused_while_the_old_callback_is_ending_is_a_separate_request(
    bench,
):
    reap_later = trio.Event()

    async def slow_to_end():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await reap_later.wait()

    bench.decide = slow_to_end
    bench.ask(0)
    await settled()
    bench.dispatcher.withdraw(0)
    await settled()
    answered = trio.Event()

    async def decide():
        await answered.wait()
        return ACCEPTED

    bench.decide = decide
    bench.ask(0)
    await settled()
    reap_later.set()
    await settled()
    answered.set()
    await settled()
    assert bench.connection.sent == [{"id": 0, "result": ACCEPTED}]
    assert bench.failures == []
    bench.assert_idle()


# -- groups --------------------------------------------------------------------------------------------------------


async def test_cancelling_a_group_ends_only_its_callbacks(bench):
    other = CallbackGroup(bench.failures.append)
    bench.decide = trio.sleep_forever
    bench.ask(1)
    bench.ask(2)
    mine, bench.group = bench.group, other
    bench.ask(3)
    await settled()
    mine.cancel()
    assert len(mine) == 2
    with trio.fail_after(5):
        await mine.wait_empty()
    assert len(mine) == 0
    assert len(other) == 1
    assert bench.connection.rpc.server_requests == {3}
    assert bench.connection.sent == []


@pytest.mark.parametrize("fails", [True, False])
async def test_a_decision_made_after_its_group_was_cancelled_is_not_sent(bench, fails):
    async def decide():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            if fails:
                raise ValueError from None
            return ACCEPTED

    bench.decide = decide
    bench.ask()
    await settled()
    bench.group.cancel()
    await settled()
    assert bench.connection.sent == []
    assert len(bench.failures) == fails
    bench.assert_idle()


async def test_a_denial_may_be_null(bench):
    bench.denial = Answer(None)
    bench.ask()
    assert bench.connection.sent == [{"id": 0, "result": None}]


async def test_a_request_for_a_cancelled_group_gets_no_answer(bench):
    bench.group.cancel()
    bench.decide = answers(ACCEPTED)
    bench.ask()
    await settled()
    assert bench.connection.sent == []
    bench.assert_idle()


async def test_waiting_for_a_group_waits_for_all_its_callbacks_even_if_it_was_empty_in_between(bench):
    with trio.fail_after(5):
        await bench.group.wait_empty()
        bench.decide = answers(ACCEPTED)
        bench.ask(1)
        await bench.group.wait_empty()
        bench.decide = trio.sleep_forever
        bench.ask(2)
        bench.ask(3)
        bench.dispatcher.withdraw(2)
        await settled()
        with trio.move_on_after(0) as scope:
            await bench.group.wait_empty()
        assert scope.cancelled_caught
        bench.dispatcher.withdraw(3)
        await bench.group.wait_empty()
    bench.assert_idle()


async def test_the_end_of_the_connection_cancels_every_callback(bench):
    groups = [CallbackGroup(bench.failures.append) for _ in range(3)]
    bench.decide = trio.sleep_forever
    for number, bench.group in enumerate(groups):
        bench.ask(2 * number)
        bench.ask(2 * number + 1)
    await settled()
    bench.dispatcher.cancel()
    await settled()
    assert [len(group) for group in groups] == [0, 0, 0]
    assert bench.connection.sent == []
    assert bench.failures == []


variable = contextvars.ContextVar("variable", default="reader")


async def test_a_callback_runs_in_the_context_of_its_turn(bench):
    async def decide():
        return variable.get()

    context = contextvars.copy_context()
    context.run(variable.set, "turn")
    bench.group = CallbackGroup(context=context)
    bench.decide = decide
    bench.ask(1)
    bench.group = CallbackGroup()
    bench.ask(2)
    await settled()
    assert sorted(bench.connection.sent, key=lambda line: line["id"]) == [
        {"id": 1, "result": "turn"},
        {"id": 2, "result": "reader"},
    ]


async def test_a_callback_that_fails_under_an_outer_cancellation_is_not_an_internal_error():
    """A callback with its own nursery raises a group of ``Cancelled`` and its error."""

    async def close(services):
        services.stop()

    async def fail_in_cleanup():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    async def decide():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail_in_cleanup)

    connection, failures = StubConnection(), []
    handler = Handler(CallbackGroup(failures.append), DENIAL, decide, lambda *_: None)
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_services(close) as services:
            Dispatcher(services, connection).dispatch(connection.opened(0), handler)
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert all(isinstance(failure, PolicyError) for failure in failures)


async def test_an_outer_cancellation_of_a_callback_with_its_own_nursery_is_not_a_failure():
    async def close(services):
        services.stop()

    async def decide():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    connection, failures = StubConnection(), []
    group = CallbackGroup(failures.append)
    handler = Handler(group, DENIAL, decide, lambda *_: None)
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_services(close) as services:
            Dispatcher(services, connection).dispatch(connection.opened(0), handler)
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert len(group) == 0
    assert failures == []
    assert connection.sent == []
