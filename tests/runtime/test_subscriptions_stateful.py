"""Subscriptions as a state machine: nothing is lost silently, in any order of puts, reads and closes."""

import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime.merging_events import Event, subscribe
from trio_codex.errors import ConnectionBroken, SubscriptionOverflow


def streams(events):
    """Return the text of each item, and all other events, as seen by a consumer."""
    return {
        item: "".join(
            event.text if event.item is not None else f"|{event.text}|"
            for event in events
            if event.item in (item, None)
        )
        for item in ("a", "b")
    }


def at_once(async_fn):
    """Run a function on a mock clock, so that a hang fails immediately."""
    return trio.run(async_fn, clock=MockClock(autojump_threshold=0))


class Buffering(RuleBasedStateMachine):
    """A subscription compared with a plain list of its events."""

    @initialize(
        max_events=st.sampled_from([4, 6, 8, 1, 3]),
        max_bytes=st.sampled_from([10_000, 10_000, 10_000, 40, 10, 1]),
    )
    def subscribe(self, max_events, max_bytes):
        self.max_events, self.max_bytes = max_events, max_bytes
        self.subscription, self.wakeups = subscribe(max_events, max_bytes)
        self.accepted = []
        self.got = []
        self.unread = 0  # accepted events that were not read, counting merged ones individually
        self.unread_bytes = 0
        self.overflowing = False
        self.overflow_told = False
        self.terminal = None
        self.ended = False
        self.error = None
        self.released = False
        self.number = 0

    def fresh_text(self, size):
        self.number += 1
        return f"{self.number}.".ljust(size, "-")

    @rule(
        items=st.lists(
            st.sampled_from("aaab ").map(lambda item: item.strip() or None), min_size=1, max_size=4
        ),
        size=st.sampled_from([0, 0, 0, 15]),
    )
    def put(self, items, size):
        for item in items:
            event = Event(self.fresh_text(size), item)
            self.subscription.put(event)
            if self.ended or self.released or self.overflowing:
                continue
            self.accepted.append(event)
            self.unread += 1
            self.unread_bytes += event.size
            self.overflowing = not self.subscription._accepting
            if self.overflowing:
                # An overflow is allowed only if merging could not prevent it.
                assert self.unread > self.max_events or self.unread_bytes > self.max_bytes

    @rule(item=st.sampled_from("ab"), left=st.integers(0, 2))
    def lag_and_catch_up(self, item, left):
        lag = max(self.max_events // 2, 1)
        self.put([item] * (lag + 1), 0)
        self.read(max(lag - left, 1))

    @precondition(lambda self: self.number > 30)
    @rule(how=st.sampled_from(["put_last", "put_last", "end", "break", "release"]))
    def finish(self, how):
        if how == "release":
            self.subscription.release()
            self.released = True
        elif how == "put_last":
            event = Event(self.fresh_text(0))
            self.subscription.put_last(event)
            if not self.ended and not self.released:
                self.terminal = event
        else:
            self.subscription.end((lambda: ConnectionBroken("gone")) if how == "break" else None)
            if not self.ended:
                self.error = ConnectionBroken if how == "break" else None
        if how != "release":
            self.ended = True

    @rule()
    def flush(self):
        self.wakeups.flush()

    @precondition(lambda self: not self.readable and not self.over)
    @rule()
    def be_refused_as_a_second_consumer(self):
        async def both():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.subscription.__anext__)
                await wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await self.subscription.__anext__()
                nursery.cancel_scope.cancel()

        at_once(both)

    @property
    def readable(self):
        return not self.released and bool(
            self.unread or (self.overflowing and not self.overflow_told) or self.terminal
        )

    @property
    def over(self):
        return self.ended or self.released

    async def read_one(self):
        with trio.move_on_after(5 if self.readable or self.over else 0):
            try:
                self.check(await self.subscription.__anext__())
            except (StopAsyncIteration, ConnectionBroken, SubscriptionOverflow) as exc:
                self.check(exc)
            return
        assert not self.readable
        assert not self.over

    def check(self, got):
        if self.released:
            assert type(got) is (self.error or StopAsyncIteration)
        elif self.unread:
            assert isinstance(got, Event)
            self.got.append(got)
            self.unread -= got.merged
            self.unread_bytes -= got.size
            # No text is lost, duplicated or moved: the text read is a prefix of the text put.
            accepted = streams(self.accepted)
            assert all(accepted[item].startswith(text) for item, text in streams(self.got).items())
        elif self.overflowing and not self.overflow_told:
            assert isinstance(got, SubscriptionOverflow)
            assert got.events <= self.max_events + 1
            assert got.size <= self.max_bytes + 20
            self.overflow_told = True
        elif self.terminal is not None:
            assert got == self.terminal
            self.terminal = None
        else:
            assert self.ended
            assert type(got) is (self.error or StopAsyncIteration)

    @rule(count=st.integers(1, 3))
    def read(self, count):
        async def read_some():
            for _ in range(count):
                await self.read_one()

        at_once(read_some)

    def teardown(self):
        if hasattr(self, "subscription") and not self.released:

            async def read_all():
                entries = 0
                while self.readable:
                    await self.read_one()
                    entries += 1
                return entries

            assert at_once(read_all) <= self.max_events + 3
            assert streams(self.got) == streams(self.accepted)


TestBuffering = Buffering.TestCase
