"""Budgets: a turn that exceeds one is interrupted on the server, and the error says what was used."""

import time
from contextlib import asynccontextmanager

import pytest
import trio

from trio_codex import Budget, TurnStatus, errors
from trio_codex._session.budget import Meter
from trio_codex._values.usage import TokenUsage
from trio_codex.instruments import Instrument
from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted(**options):
    with trio.fail_after(600):
        async with fake_codex(**options) as both:
            yield both


def breakdown(tokens):
    return {
        "totalTokens": tokens,
        "inputTokens": tokens,
        "cachedInputTokens": 0,
        "outputTokens": 0,
        "reasoningOutputTokens": 0,
    }


async def use(server, total, last, turn_id="turn-1", thread_id="thread-1"):
    usage = {"total": breakdown(total), "last": breakdown(last)}
    params = {"threadId": thread_id, "turnId": turn_id, "tokenUsage": usage}
    await server.notify("thread/tokenUsage/updated", params)


async def interrupted(server, turn_id="turn-1", thread_id="thread-1"):
    asked = await server.expect("turn/interrupt")
    assert asked.params == {"threadId": thread_id, "turnId": turn_id}
    await asked.answer({})
    await server.end_turn(turn_id, thread_id, "interrupted")


class Caught:
    """Runs a turn and records what it raises."""

    def __init__(self):
        self.errors = []

    async def run(self, thread, **options):
        try:
            await thread.run("hi", **options)
        except errors.CodexError as exc:
            self.errors.append(exc)


@pytest.mark.parametrize("limit", ["tokens", "turns", "seconds"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_is_positive(limit, value):
    with pytest.raises(ValueError, match=limit):
        Budget(**{limit: value})


async def test_a_turn_that_exceeds_its_token_budget_is_interrupted_and_reports_its_usage():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        caught = Caught()
        nursery.start_soon(lambda: caught.run(thread, budget=Budget(tokens=100)))
        await server.accept_turn()
        await use(server, 100, 100)
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == [], "usage equal to the limit is allowed"
        await use(server, 101, 1)
        await use(server, 150, 49)
        await interrupted(server)
        await trio.testing.wait_all_tasks_blocked()
        [error] = caught.errors
        assert isinstance(error, errors.BudgetExceeded)
        assert (error.carrier, error.limit, error.allowed, error.used) == ("turn", "tokens", 100, 101)
        assert error.usage.total_tokens == 101
        assert error.result.status is TurnStatus.interrupted
        assert error.result.turn_usage.total_tokens == 150


async def test_usage_of_agents_counts_toward_the_budget_of_their_turn():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        caught = Caught()
        nursery.start_soon(lambda: caught.run(thread, budget=Budget(tokens=100)))
        await server.accept_turn()
        spawned = {"id": "s", "type": "collabAgentToolCall", "receiverThreadIds": ["child"]}
        await server.item("completed", spawned)
        await server.start_turn("turn-c", "child")
        await use(server, 101, 101, "turn-c", "child")
        await interrupted(server)
        await interrupted(server, "turn-c", "child")
        await trio.testing.wait_all_tasks_blocked()
        assert caught.errors[0].result.agents_usage.total_tokens == 101


async def test_a_turn_that_exceeds_its_budget_with_its_last_request_also_raises():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        caught = Caught()
        nursery.start_soon(lambda: caught.run(thread, budget=Budget(tokens=100)))
        await server.accept_turn()
        await use(server, 101, 101)
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        [error] = caught.errors
        assert error.result.status is TurnStatus.completed
        assert server.unexpected() in ([], ["turn/interrupt"])


async def test_the_budget_of_a_thread_covers_all_its_turns_and_refuses_turns_once_exhausted():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start(budget=Budget(tokens=100))
        await run_one(nursery, server, thread, "turn-1", total=60, last=60)
        caught = Caught()
        nursery.start_soon(caught.run, thread)
        await server.accept_turn("turn-2")
        await use(server, 120, 60, "turn-2")
        await interrupted(server, "turn-2")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(caught.run, thread)
        await trio.testing.wait_all_tasks_blocked()
        crossed, spent = caught.errors
        assert (crossed.carrier, crossed.used) == ("thread", 120)
        assert (spent.carrier, spent.used, spent.result) == ("thread", 120, None)
        assert server.unexpected() == []


async def test_the_budget_of_a_client_ends_every_open_turn():
    async with scripted(budget=Budget(tokens=100)) as (codex, server), trio.open_nursery() as nursery:
        one, two = await codex.thread_start(), await codex.thread_fork("thread-1")
        caught = Caught()
        nursery.start_soon(caught.run, one)
        await server.accept_turn()
        nursery.start_soon(caught.run, two)
        await server.accept_turn("turn-2")
        await use(server, 60, 60)
        await use(server, 60, 60, "turn-2", "thread-2")
        for _ in range(2):
            asked = await server.expect("turn/interrupt")
            await asked.answer({})
            await server.end_turn(asked.params["turnId"], asked.params["threadId"], "interrupted")
        await trio.testing.wait_all_tasks_blocked()
        assert [error.carrier for error in caught.errors] == ["client", "client"]
        assert [error.used for error in caught.errors] == [120, 120]
        assert codex.usage.total_tokens == 120


async def test_a_budget_of_turns_counts_started_turns():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start(budget=Budget(turns=1))
        caught = Caught()
        nursery.start_soon(caught.run, thread)
        await (await server.expect("turn/start")).refuse("not now")
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(caught.errors.pop(), errors.InvalidRequestError), "which did not count"
        await run_one(nursery, server, thread, "turn-1")
        nursery.start_soon(caught.run, thread)
        await trio.testing.wait_all_tasks_blocked()
        [error] = caught.errors
        assert (error.carrier, error.limit, error.allowed, error.used) == ("thread", "turns", 1, 1)
        assert server.unexpected() == []


async def test_instruments_are_not_notified_of_a_turn_refused_by_a_budget():
    class Turns(Instrument):
        started = ended = 0

        def turn_started(self, turn):
            self.started += 1

        def turn_ended(self, turn):
            self.ended += 1

    turns = Turns()
    async with scripted(instruments=[turns]) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start(budget=Budget(turns=1))
        await run_one(nursery, server, thread, "turn-1")
        with pytest.raises(errors.BudgetExceeded):
            await thread.run("one more")
    assert (turns.started, turns.ended) == (1, 1)


async def test_a_turn_budget_cannot_limit_turns():
    async with scripted() as (codex, _):
        thread = await codex.thread_start()
        with pytest.raises(ValueError, match="turns"):
            thread.turn("hi", budget=Budget(turns=1))


async def test_exceeding_the_time_limit_interrupts_the_turn(autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        caught = Caught()
        nursery.start_soon(lambda: caught.run(thread, budget=Budget(seconds=30)))
        await server.accept_turn()
        began = trio.current_time()
        await interrupted(server)
        assert trio.current_time() - began == pytest.approx(30)
        await trio.testing.wait_all_tasks_blocked()
        [error] = caught.errors
        assert (error.carrier, error.limit, error.allowed) == ("turn", "seconds", 30)
        assert error.used == pytest.approx(30)
        assert error.usage is None


async def test_the_time_of_a_thread_budget_passes_only_while_a_turn_is_open(autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start(budget=Budget(seconds=30))
        await run_one(nursery, server, thread, "turn-1", takes=20)
        await trio.sleep(300)
        caught = Caught()
        nursery.start_soon(caught.run, thread)
        await server.accept_turn("turn-2")
        began = trio.current_time()
        await interrupted(server, "turn-2")
        assert trio.current_time() - began == pytest.approx(10)
        await trio.testing.wait_all_tasks_blocked()
        assert caught.errors[0].used == pytest.approx(30)


async def test_an_ended_turn_uses_no_time_while_its_scope_is_open(autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start(budget=Budget(seconds=30))
        left = []

        async def body():
            async with thread.turn("hi", budget=Budget(seconds=20)) as turn:
                await turn.wait()
                await trio.sleep(100)
            left.append(turn.result.status)

        nursery.start_soon(body)
        await server.accept_turn()
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(10)
        await server.end_turn()
        await trio.sleep(101)
        assert left == ["completed"]
        # 20 of the 30 seconds are left.
        caught = Caught()
        nursery.start_soon(caught.run, thread)
        await server.accept_turn("turn-2")
        began = trio.current_time()
        await interrupted(server, "turn-2")
        assert trio.current_time() - began == pytest.approx(20)


async def test_a_turn_that_ended_while_the_program_was_blocked_has_not_exceeded_its_time():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        @nursery.start_soon
        async def body():
            async with thread.turn("hi", budget=Budget(seconds=0.3)) as turn:
                nursery.start_soon(server.end_turn)
                time.sleep(0.5)  # noqa: ASYNC251  # block the event loop
                assert (await turn.wait()).status == "completed"

        await server.accept_turn()


async def test_usage_of_other_turns_does_not_affect_an_ended_turn():
    async with scripted(budget=Budget(tokens=100)) as (codex, server), trio.open_nursery() as nursery:
        thread, other = await codex.thread_start(), await codex.thread_fork("thread-1")
        left, leave = [], trio.Event()

        async def body():
            async with thread.turn("hi") as turn:
                await turn.wait()
                await leave.wait()
            left.append(turn.result.status)

        nursery.start_soon(body)
        await server.accept_turn()
        await server.end_turn()
        caught = Caught()
        nursery.start_soon(caught.run, other)
        await server.accept_turn("turn-2")
        await use(server, 101, 101, "turn-2", "thread-2")
        asked = await server.expect("turn/interrupt")
        await asked.answer({})
        await server.end_turn("turn-2", "thread-2", status="interrupted")
        await trio.testing.wait_all_tasks_blocked()
        assert [error.carrier for error in caught.errors] == ["client"]
        leave.set()
        await trio.testing.wait_all_tasks_blocked()
        assert left == ["completed"]


async def test_a_turn_refused_while_its_thread_is_closing_does_not_count():
    async with scripted(budget=Budget(turns=1)) as (codex, server), trio.open_nursery() as nursery:
        leave = trio.Event()

        async def run(thread):
            with pytest.raises(errors.InvalidRequestError):
                await thread.run("hi")

        async def body():
            async with await codex.thread_start() as thread:
                nursery.start_soon(run, thread)
                await leave.wait()

        nursery.start_soon(body)
        asked = await server.expect("turn/start")
        leave.set()
        await trio.testing.wait_all_tasks_blocked()
        await asked.refuse("no")
        await trio.testing.wait_all_tasks_blocked()
        thread = await codex.thread_start()
        await run_one(nursery, server, thread, "turn-1")
        with pytest.raises(errors.BudgetExceeded):
            await thread.run("one too many")


async def test_an_exception_in_the_body_takes_precedence_and_notes_the_exceeded_budget():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        caught = []

        async def body():
            try:
                async with thread.turn("hi", budget=Budget(tokens=1)) as turn:
                    try:
                        await turn.wait()
                    finally:
                        raise LookupError
            except LookupError as exc:
                caught.append(exc)

        nursery.start_soon(body)
        await server.accept_turn()
        await use(server, 5, 5)
        await interrupted(server)
        await trio.testing.wait_all_tasks_blocked()
        assert "its budget is 1" in caught[0].__notes__[0]


async def test_a_budget_that_is_not_exceeded_has_no_effect():
    async with scripted(budget=Budget(tokens=100, turns=2, seconds=500)) as (codex, server):
        thread = await codex.thread_start(budget=Budget(tokens=100))
        async with trio.open_nursery() as nursery:
            await run_one(nursery, server, thread, "turn-1", total=99, last=99)
        assert server.unexpected() == []


async def run_one(nursery, server, thread, turn_id, *, total=None, last=None, takes=0):
    nursery.start_soon(thread.run, "hi")
    await server.accept_turn(turn_id)
    if total is not None:
        await use(server, total, last, turn_id)
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(takes)
    await server.end_turn(turn_id)
    await trio.testing.wait_all_tasks_blocked()


async def test_the_total_is_computed_if_the_server_does_not_report_it():
    await trio.lowlevel.checkpoint()
    meter = Meter("turn")
    assert meter.tokens == 0
    meter.add(TokenUsage(input_tokens=3, output_tokens=4))
    assert meter.tokens == 7


# -- budgets of several handles ---------------------------------------------------------------------------------------


async def test_a_second_handles_budget_leaves_that_of_the_first_in_effect_on_an_open_turn():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        first = await codex.thread_start(budget=Budget(tokens=10))
        nursery.start_soon(server.accept_turn)
        with pytest.raises(errors.BudgetExceeded) as caught:
            async with first.turn("x"):
                await codex.thread_resume("thread-1", budget=Budget(tokens=1000))
                nursery.start_soon(interrupted, server)
                await use(server, 500, 500)
                await trio.sleep_forever()
    assert (caught.value.limit, caught.value.allowed) == ("tokens", 10)


@pytest.mark.parametrize("limit", [{"tokens": 100}, {"seconds": 5}])
async def test_a_budget_of_a_handle_opened_during_a_turn_ends_that_turn(limit, autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        first = await codex.thread_start()
        nursery.start_soon(server.accept_turn)
        with pytest.raises(errors.BudgetExceeded) as caught:
            async with first.turn("x"):
                await use(server, 400, 400)
                await trio.sleep(60)
                await codex.thread_resume("thread-1", budget=Budget(**limit))
                nursery.start_soon(interrupted, server)
                await use(server, 450, 50)
                await trio.sleep(1)
                await use(server, 600, 150)
                await trio.sleep_forever()
    assert caught.value.limit == next(iter(limit))
    assert (caught.value.allowed, first.usage.total_tokens) == (*limit.values(), 600)


async def test_the_budget_of_a_closed_handle_no_longer_applies():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        first = await codex.thread_start()
        nursery.start_soon(server.accept_turn)
        async with first.turn("x") as turn:
            async with await codex.thread_resume("thread-1", budget=Budget(tokens=100, turns=1)):
                pass
            await use(server, 500, 500)
            await server.end_turn()
            assert (await turn.wait()).status == TurnStatus.completed
        nursery.start_soon(server.accept_turn, "turn-2")
        async with first.turn("y") as turn:
            await server.end_turn("turn-2")
            assert (await turn.wait()).status == TurnStatus.completed
        assert first.usage.total_tokens == 500
