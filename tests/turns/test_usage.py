"""Token usage across resumes, compactions and agents, whatever the server reports."""

from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_codex import TokenUsage
from trio_codex._values.usage import THREADS_REMEMBERED, UsageCounters
from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted(**options):
    with trio.fail_after(5):
        async with fake_codex(**options) as both:
            yield both


def breakdown(read, written, cached=0):
    return {
        "totalTokens": read + written,
        "inputTokens": read,
        "cachedInputTokens": cached,
        "cacheWriteInputTokens": 0,
        "outputTokens": written,
        "reasoningOutputTokens": 0,
    }


def report(total, last, turn_id="turn-1", thread_id="thread-1"):
    return {"threadId": thread_id, "turnId": turn_id, "tokenUsage": {"total": total, "last": last}}


async def use(server, total, last, turn_id="turn-1", thread_id="thread-1"):
    await server.notify("thread/tokenUsage/updated", report(total, last, turn_id, thread_id))


# -- the value -----------------------------------------------------------------------------------------------------


def test_an_unreported_number_is_not_zero():
    assert TokenUsage().total_tokens is None
    assert TokenUsage() + TokenUsage() == TokenUsage()
    assert TokenUsage(input_tokens=1) + TokenUsage(output_tokens=2) == TokenUsage(
        input_tokens=1, output_tokens=2
    )
    assert TokenUsage(input_tokens=1) + TokenUsage(input_tokens=2) == TokenUsage(input_tokens=3)
    with pytest.raises(TypeError):
        TokenUsage() + 1


# -- counting ------------------------------------------------------------------------------------------------------


def test_the_first_report_counts_only_its_last_request():
    counters = UsageCounters()
    # The totals of a fork include those of the original thread.
    used = counters.take("t", report(breakdown(1000, 500), breakdown(10, 5)))
    assert (used.input_tokens, used.output_tokens, used.total_tokens) == (10, 5, 15)


def test_a_later_report_counts_by_how_much_the_totals_grew():
    counters = UsageCounters()
    counters.take("t", report(breakdown(10, 5), breakdown(10, 5)))
    # Two requests were made since, so counting only the last one would be wrong.
    used = counters.take("t", report(breakdown(40, 15, cached=8), breakdown(10, 5)))
    assert (used.input_tokens, used.cached_input_tokens, used.output_tokens) == (30, 8, 10)


def test_a_repeated_report_counts_nothing():
    counters = UsageCounters()
    counters.take("t", report(breakdown(10, 5), breakdown(10, 5)))
    assert counters.take("t", report(breakdown(10, 5), breakdown(10, 5))) is None


def test_the_estimate_after_a_compaction_counts_nothing():
    estimate = {**breakdown(0, 0), "totalTokens": 802}
    counters = UsageCounters()
    assert counters.take("t", report(breakdown(10, 5), estimate)) is None
    assert counters.take("t", report(breakdown(10, 5), estimate)) is None
    assert counters.take("t", report(breakdown(20, 10), breakdown(10, 5))).total_tokens == 15


def test_the_last_request_counts_if_the_totals_start_over():
    counters = UsageCounters()
    counters.take("t", report(breakdown(1000, 500), breakdown(10, 5)))
    assert counters.take("t", report(breakdown(30, 5), breakdown(30, 5))).total_tokens == 35
    assert counters.take("t", report(breakdown(40, 5), breakdown(10, 0))).total_tokens == 10


def test_reports_after_a_replay_count_from_the_replayed_total():
    counters = UsageCounters()
    counters.replay("t", report(breakdown(100, 50), breakdown(10, 5)))
    assert counters.take("t", report(breakdown(100, 50), breakdown(10, 5))) is None
    assert counters.take("t", report(breakdown(150, 60), breakdown(10, 5))).total_tokens == 60


def test_threads_are_counted_separately_and_old_ones_are_forgotten():
    counters = UsageCounters()
    for number in range(THREADS_REMEMBERED + 10):
        counters.take(f"t{number}", report(breakdown(10, 5), breakdown(10, 5)))
    assert len(counters._totals) == THREADS_REMEMBERED
    assert counters.take(f"t{number}", report(breakdown(20, 5), breakdown(10, 0))).total_tokens == 10


requests = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)).filter(any), max_size=20)


@given(requests, st.data())
def test_counted_usage_equals_the_sum_of_all_requests(made, data):
    counters, counted, total = UsageCounters(), [0, 0], [0, 0]
    for read, written in made:
        total = [total[0] + read, total[1] + written]
        for _ in range(data.draw(st.integers(1, 2), label="times reported")):
            used = counters.take("t", report(breakdown(*total), breakdown(read, written)))
            if used is not None:
                counted = [counted[0] + used.input_tokens, counted[1] + used.output_tokens]
    assert counted == total


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
strange = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("totalTokens", "inputTokens", "cachedInputTokens", "outputTokens", "somethingElse"), json
    ),
)


@given(st.lists(st.fixed_dictionaries({}, optional={"total": strange | json, "last": strange | json}) | json))
def test_no_report_raises_or_counts_as_negative(reports):
    counters = UsageCounters()
    for reported in reports:
        used = counters.take("t", {"tokenUsage": reported})
        if used is not None:
            assert all(count is None or count >= 0 for count in attrs.astuple(used))
        counters.replay("t", {"tokenUsage": reported})


# -- totals of turns, threads and clients
# -------------------------------------------------------------------------------------------------


async def test_turns_threads_and_clients_each_report_their_usage():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        assert (thread.usage, codex.usage) == (None, None)
        results = []

        async def body():
            for _ in range(2):
                async with thread.turn("hi") as turn:
                    results.append(await turn.wait())

        nursery.start_soon(body)
        await server.accept_turn()
        await use(server, breakdown(10, 5), breakdown(10, 5))
        await use(server, breakdown(30, 10), breakdown(20, 5))
        await server.end_turn()
        await server.accept_turn("turn-2")
        await use(server, breakdown(31, 11), breakdown(1, 1), "turn-2")
        await server.end_turn("turn-2")
        await trio.testing.wait_all_tasks_blocked()
        assert [result.turn_usage.total_tokens for result in results] == [40, 2]
        assert [result.agents_usage for result in results] == [None, None]
        assert results[1].usage.total.total_tokens == 42
        assert thread.usage.total_tokens == 42
        assert codex.usage == thread.usage


async def test_a_turn_without_reports_has_no_usage():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        results = []

        async def body():
            results.append(await thread.run("hi"))

        nursery.start_soon(body)
        await server.accept_turn()
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert results[0].turn_usage is None
        assert results[0].usage is None


async def test_usage_replayed_on_a_resume_is_not_counted_even_while_a_turn_starts():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_resume("thread-1")
        results = []

        async def body():
            results.append(await thread.run("hi"))

        nursery.start_soon(body)
        asked = await server.expect("turn/start")
        await use(server, breakdown(1000, 500), breakdown(100, 50), "turn-of-yesterday")
        await asked.answer({"turn": {"id": "turn-1", "items": [], "status": "inProgress"}})
        await server.start_turn()
        await use(server, breakdown(1010, 505), breakdown(10, 5))
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert results[0].turn_usage.total_tokens == 15
        assert results[0].usage.total.total_tokens == 1515
        assert codex.usage.total_tokens == 15


async def test_a_report_after_the_end_of_its_turn_still_counts_for_the_thread():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await server.end_turn()
        await use(server, breakdown(10, 5), breakdown(10, 5))
        await trio.testing.wait_all_tasks_blocked()
        assert thread.usage.total_tokens == codex.usage.total_tokens == 15


async def test_usage_of_agents_at_any_depth_counts_for_the_root_turn():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        results = []

        async def body():
            async with thread.turn("hi") as turn:
                results.append(await turn.wait())

        nursery.start_soon(body)
        await server.accept_turn()
        await use(server, breakdown(10, 5), breakdown(10, 5))
        await spawn(server, "child", by="turn-1", of="thread-1")
        await server.start_turn("turn-c", "child")
        await spawn(server, "grandchild", by="turn-c", of="child")
        await server.start_turn("turn-g", "grandchild")
        await use(server, breakdown(100, 0), breakdown(100, 0), "turn-c", "child")
        await use(server, breakdown(200, 0), breakdown(200, 0), "turn-g", "grandchild")
        await server.end_turn("turn-c", "child")
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert results[0].turn_usage.total_tokens == 315
        assert results[0].agents_usage.total_tokens == 300
        assert results[0].usage.total.total_tokens == 15
        assert thread.usage.total_tokens == codex.usage.total_tokens == 315


async def spawn(server, child, *, by, of):
    item = {
        "id": f"spawn-{child}",
        "type": "collabAgentToolCall",
        "receiverThreadIds": [child],
        "status": "completed",
        "tool": "spawnAgent",
    }
    await server.item("completed", item, by, of)


# -- listening to agents -------------------------------------------------------------------------------------------


async def test_events_of_agents_can_be_read_while_the_turn_runs():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        heard, of_the_turn = [], []

        async def body():
            async with thread.turn("hi") as turn, turn.agent_events() as agents, trio.open_nursery() as inner:
                inner.start_soon(listen, agents)
                of_the_turn.extend([event.method async for event in turn])

        async def listen(agents):
            heard.extend([(event.thread_id, event.turn_id, event.method) async for event in agents])

        nursery.start_soon(body)
        await server.accept_turn()
        await trio.testing.wait_all_tasks_blocked()
        await spawn(server, "child", by="turn-1", of="thread-1")
        await server.start_turn("turn-c", "child")
        await server.delta("I am the child", "m", "turn-c", "child")
        await spawn(server, "grandchild", by="turn-c", of="child")
        await server.delta("I am its child", "m", "turn-g", "grandchild")
        await server.delta("I am nobody's", "m", "turn-x", "stranger")
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [
            ("child", "turn-c", "turn/started"),
            ("child", "turn-c", "item/agentMessage/delta"),
            ("child", "turn-c", "item/completed"),
            ("grandchild", "turn-g", "item/agentMessage/delta"),
        ]
        assert of_the_turn == ["turn/started", "item/completed", "turn/completed"]


async def test_listening_to_agents_of_an_ended_turn_ends_immediately():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            async with thread.turn("hi") as turn:
                await turn.wait()
                async with turn.agent_events() as agents:
                    assert [event async for event in agents] == []

        nursery.start_soon(body)
        await server.accept_turn()
        await server.end_turn()


async def test_listening_to_agents_fails_with_the_turn_when_it_is_lost():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        seen = []

        async def body():
            try:
                async with thread.turn("hi") as turn, turn.agent_events() as agents:
                    await agents.__anext__()
            except Exception as exc:
                seen.append(type(exc).__name__)

        nursery.start_soon(body)
        await server.accept_turn()
        await server.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["TurnLost"]
