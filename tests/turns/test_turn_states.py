"""A turn ends only once, as first reported, whatever the server sends and in whatever order."""

import json

import attrs
import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from bare_router import bare_router
from trio_codex import TurnStatus, errors
from trio_codex._core.rpc import Notification, OversizeNotification
from trio_codex._link.call import CloseReason
from trio_codex._link.dispatch import CallbackGroup
from trio_codex._link.hooks import Instruments
from trio_codex._session.budget import Meter
from trio_codex._session.owner import TurnOwner
from trio_codex._session.state import PAST_TURNS_KEPT, TurnState
from trio_codex._session.turn_machine import TurnMachine
from trio_codex.instruments import Instrument

THREADS = st.sampled_from(["thread-1", "thread-1", "thread-2"])
IDS = st.sampled_from(["a", "a", "b", "c"])
STATUSES = st.sampled_from(
    ["completed", "failed", "interrupted", "inProgress", "later", "lost", None, 5, ["completed"]]
)
ERRORS = st.sampled_from([None, "why", {"message": "told"}, {"message": 5}, {"message": "x", "later": {}}])


class Listener:
    """A consumer of a turn that fails on events after its end."""

    def __init__(self):
        self.events = 0
        self.ends = []

    def put(self, event):
        assert not self.ends
        self.events += 1

    def put_last(self, event):
        assert not self.ends
        self.ends.append(event)

    def end(self, error=None):
        assert not self.ends
        self.ends.append(error)

    def release(self):
        pass


@attrs.define
class Turn:
    """The expected state of a turn.

    Attributes:
        state: The turn.
        own: Whether a scope of this client started it.
        only_announced: Whether the turn's id is only in its announcement, as for a compaction.
        id: The id in the response.
        active: The id in its announcement.
        root: The other id in its announcement, as for a review.
        answered: Whether its start was answered or refused.
        status: How it ended, once it has.
        error: The last error that was not retried.
        messages: Completed final answers.
        items: The number of completed items.
    """

    state: TurnState
    own: bool
    only_announced: bool = False
    id: str | None = None
    active: str | None = None
    root: str | None = None
    answered: bool = False
    status: object = None
    refused: bool = False
    error: object = None
    messages: list = attrs.field(factory=list)
    items: int = 0

    def goes_by(self, turn_id, past):
        if self.id is None:
            return turn_id not in past and (self.active is None or turn_id in (self.active, self.root))
        return turn_id in (self.id, self.active, self.root)


class Counts(Instrument):
    def __init__(self):
        self.started, self.ended = [], []

    def turn_started(self, turn):
        self.started.append(turn)

    def turn_ended(self, turn):
        self.ended.append(turn)


class Turns(RuleBasedStateMachine):
    """The router compared with a model of two threads."""

    @initialize()
    def connect(self):
        self.counts = Counts()
        self.instruments = Instruments([self.counts], Instrument)
        self.router, registry, _ = bare_router(self.instruments)
        self.threads = {name: registry.thread(name) for name in ("thread-1", "thread-2")}
        for state in self.threads.values():
            state.handles = (self,)
        self.open = dict.fromkeys(self.threads)
        self.past = {name: [] for name in self.threads}
        self.turns = []
        self.results = {}
        self.dead = False

    def send(self, method, thread, **params):
        line = msgspec.Raw(json.dumps({"threadId": thread, **params}).encode())
        self.router.on_notifications([Notification(method, line)])
        self.router.on_lines_end()

    def fed(self, thread, turn_id):
        """Return the open turn that an event with these ids belongs to."""
        turn = self.open[thread]
        return turn if turn is not None and turn.goes_by(turn_id, self.past[thread]) else None

    def ended(self, thread, turn, status):
        turn.status = status
        self.open[thread] = None
        self.past[thread] = [*self.past[thread], *{turn.id, turn.active} - {None}][-PAST_TURNS_KEPT:]

    # -- this client

    @rule(thread=THREADS, only_announced=st.booleans())
    def begin(self, thread, only_announced):
        if self.dead or self.open[thread] is not None:
            return
        state = TurnState(
            self.threads[thread],
            TurnMachine(named_by_announcement=only_announced),
            TurnOwner(None, Listener(), CallbackGroup(), None, Meter("turn"), None),
            self.instruments,
        )
        self.threads[thread].turn = state
        self.open[thread] = Turn(state, own=True, only_announced=only_announced)
        self.turns.append(self.open[thread])

    def starting(self):
        return [turn for turn in self.turns if turn.own and not turn.answered]

    @precondition(lambda self: self.starting())
    @rule(turn_id=IDS | st.none() | st.just(5))
    def answer(self, turn_id):
        turn = self.starting()[0]
        told = None if turn.only_announced or turn_id == 5 else turn_id
        turn.state.bind(json.dumps({} if turn.only_announced else {"turn": {"id": turn_id}}).encode())
        turn.answered = True
        turn.id = told or turn.active
        turn.active = turn.active or turn.id

    @precondition(lambda self: any(turn.status is None for turn in self.starting()))
    @rule()
    def refuse(self):
        turn = next(turn for turn in self.starting() if turn.status is None)
        turn.state.never_started()
        turn.answered = turn.refused = True
        turn.status = TurnStatus.lost
        self.open[turn.state.thread.id] = None

    # -- the server

    @rule(thread=THREADS, turn_id=IDS, root=IDS | st.none(), items=st.just([]))
    def started(self, thread, turn_id, root, items):
        self.send("turn/started", thread, turn={"id": turn_id, "rootTurnId": root, "items": items})
        if turn_id in self.past[thread]:
            return
        turn = self.open[thread]
        if turn is None:
            turn = self.open[thread] = Turn(self.threads[thread].turn, own=False, id=turn_id)
            self.turns.append(turn)
        turn.active, turn.root = turn_id, root
        if turn.only_announced:
            turn.id = turn_id

    @rule(thread=THREADS, turn_id=IDS, status=STATUSES, error=ERRORS, times=st.integers(1, 2))
    def completed(self, thread, turn_id, status, error, times):
        for _ in range(times):
            turn = self.fed(thread, turn_id)
            self.send("turn/completed", thread, turn={"id": turn_id, "status": status, "error": error})
            if turn is not None:
                turn.error = error or turn.error
                self.ended(thread, turn, status if isinstance(status, str) else TurnStatus.lost)

    @rule(thread=THREADS, turn_id=IDS)
    def completed_without_saying_how(self, thread, turn_id):
        turn = self.fed(thread, turn_id)
        self.send("turn/completed", thread, turnId=turn_id, turn=None)
        if turn is not None:
            self.ended(thread, turn, TurnStatus.lost)

    @rule(thread=THREADS, turn_id=IDS)
    def completed_beyond_the_bound(self, thread, turn_id):
        turn = self.fed(thread, turn_id)
        head = b'{"method":"turn/completed","params":{"threadId":"%b","turn":{"id":"%b","items":["'
        head %= (thread.encode(), turn_id.encode())
        self.router.on_oversize(OversizeNotification("turn/completed", head, 10**9))
        if turn is not None:
            self.ended(thread, turn, TurnStatus.lost)

    @rule(thread=THREADS, turn_id=IDS, error=ERRORS, retried=st.sampled_from([True, False, None, "true"]))
    def error(self, thread, turn_id, error, retried):
        turn = self.fed(thread, turn_id)
        self.send("error", thread, turnId=turn_id, error=error, willRetry=retried)
        if turn is not None and retried is not True:
            turn.error = error

    @rule(thread=THREADS, turn_id=IDS, text=st.sampled_from(["one", "two", 5, None]))
    def message(self, thread, turn_id, text):
        turn = self.fed(thread, turn_id)
        item = {"type": "agentMessage", "id": "i", "text": text, "phase": "final_answer"}
        self.send("item/started", thread, turnId=turn_id, item=item)
        self.send("item/completed", thread, turnId=turn_id, item=item)
        if turn is not None:
            turn.items += 1
            turn.messages += [text] if isinstance(text, str) else []

    @rule(thread=THREADS, turn_id=IDS, other=THREADS)
    def spawn(self, thread, turn_id, other):
        item = {"type": "collabAgentToolCall", "id": "x", "receiverThreadIds": [other, "thread-3", 5, None]}
        self.send("item/started", thread, turnId=turn_id, item=item)

    @rule(
        thread=THREADS,
        turn_id=IDS | st.none() | st.just(5),
        method=st.sampled_from(
            [
                "item/agentMessage/delta", "item/started", "item/completed", "turn/started", "turn/diff/updated",
                "thread/tokenUsage/updated", "thread/status/changed", "serverRequest/resolved", "later/thing",
            ]
        ),
    )  # fmt: skip
    def noise(self, thread, turn_id, method):
        if method == "turn/started" and isinstance(turn_id, str):
            return
        self.send(
            method, thread, turnId=turn_id, item=5, turn=[], tokenUsage={"total": "x"}, status=None, diff=3
        )

    @precondition(lambda self: len(self.turns) > 3)
    @rule()
    def die(self):
        self.dead = True
        self.router.on_close(CloseReason(errors.ConnectionBroken("gone")))
        for thread, turn in self.open.items():
            if turn is not None:
                self.ended(thread, turn, TurnStatus.lost)

    @invariant()
    def the_model_agrees(self):
        if not hasattr(self, "turns"):
            return
        for name, thread in self.threads.items():
            expected = self.open[name]
            assert thread.turn is (None if expected is None else expected.state)
        for turn in self.turns:
            self.check(turn)
        assert len(self.counts.started) == len(self.turns)
        assert len(self.counts.ended) == len({*map(id, self.counts.ended)})
        assert len(self.counts.ended) == sum(turn.status is not None for turn in self.turns)

    def check(self, turn):
        state = turn.state
        assert state.ended.is_set() == (turn.status is not None)
        for sink in state.sinks:
            assert len(sink.ends) == (turn.status is not None and not turn.refused)
        result = state.result()
        assert result.thread_id == state.thread.id
        assert len(result.items) == turn.items
        assert result.final_response == (turn.messages[-1] if turn.messages else None)
        assert result.status == (TurnStatus.lost if turn.status is None else turn.status)
        fits = isinstance(turn.error, dict) and isinstance(turn.error["message"], str)
        assert (None if result.error is None else result.error.message) == (
            turn.error["message"] if fits else None
        )
        if turn.status is not None:
            # The first end counts: later messages do not change the result.
            assert self.results.setdefault(id(state), result) is result


async def test_a_turn_ends_once_whatever_the_server_sends():
    run_machine(Turns)  # in a task, because a turn reads Trio's clock
