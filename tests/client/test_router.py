"""The fast path for the text of a turn delivers to the same consumers as the slow path."""

import json

import msgspec
import trio
from hypothesis import given
from hypothesis import strategies as st

from bare_router import bare_router
from trio_codex._core.rpc import Notification
from trio_codex._session.listeners import KEYED_NOTIFICATIONS
from trio_codex._session.state import TurnState
from trio_codex._session.turn_machine import TurnMachine
from trio_codex._values.turn_result import REDUCED
from trio_codex.wire._registry import TEXT_DELTAS

METHODS = [*TEXT_DELTAS, "item/started", "turn/started", "turn/completed", "warning"]
IDS = st.sampled_from(["1", "2", "3", None])


class Everything:
    """A subscriber to all events, which disables the fast path."""

    def __init__(self):
        self.got = []

    def put(self, event):
        self.got.append(event)

    def end(self, error=None):
        pass


def client(*, shared):
    """Return a router with three turns: one that has started, one that is starting, and one of an agent."""
    router, threads, listeners = bare_router()
    turns = []
    for name, turn_id in (("1", "1"), ("2", None), ("3", "3")):
        state = threads.thread(name)
        state.held = 1
        state.turn = TurnState(state, TurnMachine(turn_id))
        state.turn.sinks = (listeners.subscription(),)
        turns.append(state.turn)
    threads.thread("3").parent = turns[0]
    listener = Everything()
    if shared:
        listeners.attach(listener)
    return router, turns, listener


def taken(turn):
    return [(event.method, bytes(event.json), event.emitted_at) for event in turn.sinks[0]._buffer], turn.id


notifications = st.builds(
    lambda method, ids, where: Notification(
        method, msgspec.Raw(json.dumps({**ids, **where, "delta": "x"}).encode()), 5
    ),
    st.sampled_from(METHODS),
    st.fixed_dictionaries({}, optional={"threadId": IDS, "turnId": IDS}),
    st.sampled_from([{}, {"turn": {"id": "1"}}, {"turn": {"id": "2"}}, {"thread": {"id": "2"}}]),
)


@given(rows=st.lists(st.lists(notifications, max_size=6), max_size=4))
def test_the_fast_path_delivers_the_same_as_the_slow_path(rows):
    async def lead():
        straight, turns, _ = client(shared=False)
        around, other_turns, listener = client(shared=True)
        for row in rows:
            for router in (straight, around):
                router.on_notifications(row)
                router.on_lines_end()
        assert [taken(turn) for turn in turns] == [taken(turn) for turn in other_turns]
        assert len(listener.got) == sum(map(len, rows))

    trio.run(lead)


def test_only_readers_of_a_turn_subscribe_to_its_text():
    handled = bare_router()[0]._handlers
    assert not TEXT_DELTAS.keys() & {*handled, *REDUCED, *KEYED_NOTIFICATIONS, "turn/completed"}
