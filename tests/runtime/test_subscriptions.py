"""Buffers between the reader and its consumers: lag, merging, overflow, wake-ups, and concurrent reads."""

import itertools
import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from runtime.merging_events import Event, subscribe
from trio_codex._link import subscriptions as _subscriptions
from trio_codex._link.subscriptions import LAG_EVENTS, SCHEDULE_EVERY_EVENTS
from trio_codex.errors import ConnectionBroken, SubscriptionOverflow


def delta(text, item="a"):
    return Event(text, item)


async def take(subscription, count):
    with trio.fail_after(5):
        return [await subscription.__anext__() for _ in range(count)]


async def rest_of(subscription):
    with trio.fail_after(5):
        return [event async for event in subscription]


# -- reading -------------------------------------------------------------------------------------------------------


async def test_events_are_returned_in_order_and_then_the_iteration_ends():
    subscription, _ = subscribe()
    events = [Event("1"), delta("2"), delta("3"), Event("4")]
    for event in events:
        subscription.put(event)
    subscription.end()
    assert await rest_of(subscription) == events
    assert await rest_of(subscription) == []


async def test_a_subscription_is_its_own_iterator():
    subscription, _ = subscribe()
    assert aiter(subscription) is subscription


async def test_a_waiting_consumer_is_woken_at_the_end_of_a_chunk():
    subscription, wakeups = subscribe()
    got = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def consume():
                got.extend([event async for event in subscription])

            await wait_all_tasks_blocked()
            subscription.put(Event("1"))
            subscription.put(Event("2"))
            await wait_all_tasks_blocked()
            assert got == []
            wakeups.flush()
            await wait_all_tasks_blocked()
            subscription.put_last(Event("3"))
            wakeups.flush()
    assert got == [Event("1"), Event("2"), Event("3")]


async def test_a_flush_without_anything_to_do_wakes_nobody():
    subscription, wakeups = subscribe()
    wakeups.flush()
    subscription.wake()
    subscription.put(Event("1"))
    wakeups.flush()
    assert await take(subscription, 1) == [Event("1")]


@pytest.mark.parametrize("error", [None, ConnectionBroken], ids=["plain", "broken"])
async def test_a_waiting_consumer_is_woken_by_the_end_without_a_further_chunk(error):
    subscription, _ = subscribe()
    outcome = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def consume():
                with pytest.raises(error or StopAsyncIteration):
                    await subscription.__anext__()
                outcome.append("ended")

            await wait_all_tasks_blocked()
            subscription.end(error and (lambda: ConnectionBroken("gone")))
    assert outcome == ["ended"]


async def test_a_consumer_that_is_cancelled_while_it_waits_loses_nothing():
    subscription, wakeups = subscribe()
    with trio.move_on_after(0) as scope:
        await subscription.__anext__()
    assert scope.cancelled_caught
    subscription.put(Event("1"))
    wakeups.flush()
    assert await take(subscription, 1) == [Event("1")]


async def test_a_consumer_that_is_cancelled_with_a_full_buffer_loses_nothing():
    subscription, _ = subscribe()
    events = [Event(str(number)) for number in range(4)]
    for event in events:
        subscription.put(event)
    got = await take(subscription, 1)
    for _ in range(3):
        with trio.move_on_after(0) as scope:
            await subscription.__anext__()
        assert scope.cancelled_caught
    subscription.end()
    assert got + await rest_of(subscription) == events


async def test_a_pending_wake_up_of_a_cancelled_wait_does_not_end_the_next_wait():
    subscription, wakeups = subscribe()
    got = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                @nursery.start_soon
                async def cancel():
                    await wait_all_tasks_blocked()
                    subscription.put(Event("1"))  # its wake-up is due, but not flushed
                    scope.cancel()

                await subscription.__anext__()
            assert await subscription.__anext__() == Event("1")

            @nursery.start_soon
            async def consume():
                got.extend([event async for event in subscription])

            await wait_all_tasks_blocked()
            wakeups.flush()
            await wait_all_tasks_blocked()
            subscription.put(Event("2"))
            subscription.end()
            wakeups.flush()
    assert got == [Event("2")]


async def test_other_tasks_run_while_a_full_buffer_is_read():
    count = 4 * SCHEDULE_EVERY_EVENTS
    subscription, _ = subscribe(4 * count)
    for number in range(count):
        subscription.put(Event(str(number)))
    subscription.end()
    read = 0
    seen = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def watch():
                while read < count:
                    seen.append(read)
                    await trio.lowlevel.checkpoint()

            async for _ in subscription:
                read += 1
    # Trio runs ready tasks in any order, so the watcher may miss one step.
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= 2 * SCHEDULE_EVERY_EVENTS
    assert len(seen) >= count // SCHEDULE_EVERY_EVENTS // 2


async def test_other_tasks_run_at_least_every_millisecond_while_a_full_buffer_is_read(monkeypatch):
    now = 0.0
    monkeypatch.setattr(_subscriptions, "perf_counter", lambda: now)
    subscription, _ = subscribe(100)
    for _ in range(20):
        subscription.put(Event("x"))
    subscription.end()
    turns = 0
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def watch():
                nonlocal turns
                while now < 0.02:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            async for _ in subscription:
                now += 0.00101  # as if handling an event took this long
    assert turns >= 15


async def test_every_read_is_a_cancellation_point():
    subscription, _ = subscribe()
    with trio.CancelScope() as scope:
        scope.cancel()
        for event in (Event("1"), Event("2"), None):
            if event is not None:
                subscription.put(event)
            with pytest.raises(trio.Cancelled):
                await subscription.__anext__()
        subscription.end()
        with pytest.raises(trio.Cancelled):
            await subscription.__anext__()
    assert await take(subscription, 2) == [Event("1"), Event("2")]
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(trio.Cancelled):
            await subscription.__anext__()


async def test_a_read_that_does_not_yield_is_a_cancellation_point_too():
    subscription, _ = subscribe()
    for number in range(3):
        subscription.put(Event(str(number)))
    assert await take(subscription, 1) == [Event("0")]
    subscription._slice_end = math.inf  # however slow this machine is
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(trio.Cancelled):
            await subscription.__anext__()
    assert await take(subscription, 2) == [Event("1"), Event("2")]


# -- one consumer --------------------------------------------------------------------------------------------------


async def test_a_second_consumer_is_refused_while_the_first_waits():
    subscription, wakeups = subscribe()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def consume():
                assert await take(subscription, 1) == [Event("1")]

            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await subscription.__anext__()
            subscription.put(Event("1"))
            wakeups.flush()


async def test_a_second_consumer_does_not_end_the_iteration_of_a_first_one_that_was_just_woken():
    subscription, wakeups = subscribe()
    first, second = [], []

    async def consume(into):
        try:
            into.extend([event async for event in subscription])
        except trio.BusyResourceError:
            into.append("busy")
        else:
            into.append("end")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume, first)
            await wait_all_tasks_blocked()
            subscription.put(Event("1"))
            wakeups.flush()
            # The first is scheduled, and has not run yet.
            with pytest.raises(trio.BusyResourceError):
                second.append(await subscription.__anext__())
            await wait_all_tasks_blocked()
            subscription.put(Event("2"))
            subscription.end()
            wakeups.flush()
    assert first == [] or first[-1] == "end"
    assert second == []


async def test_of_two_consumers_of_a_full_buffer_one_gets_the_events_and_one_is_refused():
    subscription, wakeups = subscribe()
    outcomes = []

    async def consume():
        try:
            outcomes.append(await subscription.__anext__())
        except (trio.BusyResourceError, StopAsyncIteration) as exc:
            outcomes.append(type(exc))

    subscription.put(Event("1"))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            nursery.start_soon(consume)
        assert sorted(map(str, outcomes)) == sorted(map(str, [Event("1"), trio.BusyResourceError]))
        subscription.put(Event("2"))
        wakeups.flush()
        assert await take(subscription, 1) == [Event("2")]


async def test_another_consumer_may_continue_after_one_has_stopped():
    subscription, _ = subscribe()
    for number in range(3):
        subscription.put(Event(str(number)))
    subscription.end()
    with trio.fail_after(5):
        async for event in subscription:
            assert event == Event("0")
            break
    assert await rest_of(subscription) == [Event("1"), Event("2")]


# -- lag and merging -----------------------------------------------------------------------------------------------


async def test_a_consumer_that_keeps_up_sees_each_delta_as_it_was_sent():
    subscription, _ = subscribe(1000, 100_000)
    for number in range(2000):
        subscription.put(delta(str(number)))
        assert await take(subscription, 1) == [delta(str(number))]


async def test_deltas_are_merged_per_item_once_the_consumer_lags():
    subscription, _ = subscribe(8)
    for number in range(20):
        subscription.put(delta(str(number % 10), "ab"[number % 2]))
    subscription.end()
    assert await rest_of(subscription) == [
        delta("0", "a"),
        delta("1", "b"),
        delta("2", "a"),
        delta("3", "b"),
        Event("46802468", "a", 8),
        Event("57913579", "b", 8),
    ]


async def test_deltas_are_not_merged_across_other_events():
    subscription, _ = subscribe(8)
    events = [*(Event(str(number)) for number in range(4)), delta("a1"), delta("a2"), Event("x"), delta("a3")]
    for event in events:
        subscription.put(event)
    subscription.end()
    got = await rest_of(subscription)
    assert got[4:] == [Event("a1a2", "a", 2), Event("x"), Event("a3", "a", 1)]


async def test_a_delta_is_not_merged_into_one_that_was_already_read():
    subscription, _ = subscribe(4)
    for text in "abcd":
        subscription.put(delta(text))
    assert await take(subscription, 3) == [delta("a"), delta("b"), Event("cd", "a", 2)]
    for text in "efgh":
        subscription.put(delta(text))
    subscription.end()
    assert await rest_of(subscription) == [delta("e"), delta("f"), Event("gh", "a", 2)]


async def test_the_text_of_an_item_keeps_its_order_when_a_lagging_consumer_catches_up_and_lags_again():
    subscription, _ = subscribe(4)
    for text in "012":
        subscription.put(delta(text))  # the third begins to merge
    got = await take(subscription, 2)  # no longer lagging
    subscription.put(delta("3"))
    subscription.put(delta("4"))  # lagging again
    subscription.end()
    got += await rest_of(subscription)
    assert "".join(event.text for event in got) == "01234"


async def test_the_end_of_an_item_stays_behind_its_text_when_a_consumer_catches_up_and_lags_again():
    subscription, _ = subscribe(4)
    for text in "012":
        subscription.put(delta(text))
    got = await take(subscription, 2)
    subscription.put(Event("item/completed"))
    subscription.put(delta("3"))
    subscription.end()
    got += await rest_of(subscription)
    assert [event.text for event in got] == ["0", "1", "2", "item/completed", "3"]


async def test_lag_begins_at_a_thousand_events_whatever_the_buffer_size():
    subscription, _ = subscribe(100 * LAG_EVENTS, 10**9)
    for _ in range(LAG_EVENTS + 100):
        subscription.put(delta("x"))
    subscription.end()
    got = await rest_of(subscription)
    assert len(got) == LAG_EVENTS + 1
    assert got[-1].merged == 100


# -- bounds --------------------------------------------------------------------------------------------------------


async def test_a_consumer_over_the_limit_of_events_gets_buffered_events_and_then_an_overflow():
    subscription, _ = subscribe(4)
    for number in range(100):
        subscription.put(Event(str(number)))
    assert await take(subscription, 5) == [Event(str(number)) for number in range(5)]
    with pytest.raises(SubscriptionOverflow) as caught:
        await take(subscription, 1)
    assert (caught.value.events, caught.value.size) == (5, 5)


@pytest.mark.parametrize("max_events", [4, 1000], ids=["lagging", "keeping up"])
async def test_a_consumer_over_the_limit_of_bytes_gets_an_overflow(max_events):
    subscription, _ = subscribe(max_events, 100)
    for number in range(10):
        subscription.put(delta("x" * 30, str(number % 2)))
    with pytest.raises(SubscriptionOverflow) as caught:
        await rest_of(subscription)
    assert caught.value.size == 120


async def test_merged_text_counts_toward_the_limit_of_bytes():
    subscription, _ = subscribe(2, 1000)
    for _ in range(1000):
        subscription.put(delta("\N{GRINNING FACE}"))
    got = await take(subscription, 2)
    assert sum(event.size for event in got) <= 1004
    with pytest.raises(SubscriptionOverflow) as caught:
        await take(subscription, 1)
    assert caught.value.size <= 1004


async def test_reading_frees_space():
    subscription, _ = subscribe(4, 100)
    for _ in range(50):
        for _ in range(3):
            subscription.put(delta("x" * 30))
        assert sum(len(event.text) for event in await take(subscription, 3)) == 90
    subscription.end()
    assert await rest_of(subscription) == []


async def test_the_terminal_event_comes_after_an_overflow():
    subscription, _ = subscribe(4)
    for number in range(100):
        subscription.put(Event(str(number)))
    subscription.put_last(Event("turn/completed"))
    subscription.put(Event("later"))
    subscription.put_last(Event("much later"))
    await take(subscription, 5)
    with pytest.raises(SubscriptionOverflow):
        await take(subscription, 1)
    assert await rest_of(subscription) == [Event("turn/completed")]


async def test_after_an_overflow_a_consumer_waits_for_the_terminal_event():
    subscription, wakeups = subscribe(2)
    for number in range(10):
        subscription.put(Event(str(number)))
    await take(subscription, 3)
    with pytest.raises(SubscriptionOverflow):
        await take(subscription, 1)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def consume():
                assert await rest_of(subscription) == [Event("turn/completed")]

            await wait_all_tasks_blocked()
            subscription.put(Event("lost"))
            subscription.put_last(Event("turn/completed"))
            wakeups.flush()


async def test_a_terminal_event_of_any_size_does_not_overflow():
    subscription, _ = subscribe(2, 10)
    subscription.put_last(Event("x" * 1000))
    assert await rest_of(subscription) == [Event("x" * 1000)]


# -- the end -------------------------------------------------------------------------------------------------------


async def test_an_error_follows_buffered_events_and_is_a_new_exception_each_time():
    subscription, _ = subscribe()
    subscription.put(Event("1"))
    subscription.end(lambda: ConnectionBroken("gone", pid=7))
    subscription.end()
    subscription.put(Event("2"))
    assert await take(subscription, 1) == [Event("1")]
    caught = []
    for _ in range(2):
        with pytest.raises(ConnectionBroken) as info:
            await take(subscription, 1)
        caught.append(info.value)
    assert [error.pid for error in caught] == [7, 7]
    assert caught[0] is not caught[1]


async def test_an_error_after_the_terminal_event_is_ignored():
    subscription, _ = subscribe()
    subscription.put_last(Event("turn/completed"))
    subscription.end(lambda: ConnectionBroken("gone"))
    assert await rest_of(subscription) == [Event("turn/completed")]


async def test_a_released_buffer_is_dropped_and_accepts_nothing_more():
    subscription, _ = subscribe(4)
    for number in range(4):
        subscription.put(delta(str(number)))
    subscription.release()
    subscription.put(Event("later"))
    subscription.put_last(Event("last"))
    assert await rest_of(subscription) == []


async def test_releasing_a_subscription_ends_the_iteration():
    subscription, _ = subscribe()
    subscription.release()
    assert await rest_of(subscription) == []


async def test_releasing_a_subscription_wakes_its_waiting_consumer():
    subscription, _ = subscribe()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def consume():
                assert await rest_of(subscription) == []

            await wait_all_tasks_blocked()
            subscription.release()
