"""The state machine of a turn: random sequences of transitions, checked against the table in its docstring."""

import re

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_codex._link.call import CloseReason
from trio_codex._session import turn_machine
from trio_codex._session.turn_machine import Phase, TurnMachine
from trio_codex.errors import ConnectionBroken

IDS = st.sampled_from(["a", "b", "c"])
LIVE = {Phase.starting, Phase.running, Phase.ending}
GONE = CloseReason(ConnectionBroken("gone"))


class Lives(RuleBasedStateMachine):
    """Any transition at any time, as caused by the server or the scope."""

    @initialize(turn_id=st.none() | IDS, named=st.booleans())
    def begin(self, turn_id, named):
        self.machine = TurnMachine(turn_id, named_by_announcement=named)
        self.named = named
        self.phases = [Phase.starting if turn_id is None else Phase.running]
        self.id = self.active = turn_id
        self.left = self.done = False
        self.loss = None

    @property
    def phase(self):
        return self.phases[-1]

    @rule(turn_id=IDS, root_id=st.none() | IDS)
    def announce(self, turn_id, root_id):
        self.machine.announce(turn_id, root_id)
        self.active = turn_id
        if self.named:
            self.id = turn_id
        assert self.machine.root_id == root_id

    @precondition(lambda self: self.phase in {Phase.starting, Phase.ending})
    @rule(turn_id=st.none() | IDS)
    def bind(self, turn_id):
        self.machine.bind(turn_id)
        self.id = turn_id or self.active
        self.active = self.active or self.id
        if self.phase is Phase.starting:
            self.phases.append(Phase.running)

    @precondition(lambda self: self.phase in {Phase.starting, Phase.ending})
    @rule()
    def refuse(self):
        self.machine.refuse()
        self.phases.append(Phase.ended)

    @precondition(lambda self: self.phase in LIVE)
    @rule(turn_id=IDS)
    def rename(self, turn_id):
        self.machine.rename(turn_id)
        self.active = turn_id

    @rule()
    def leave(self):
        self.machine.leave()
        if self.phase in LIVE:
            self.left = True
            self.phases.append(Phase.ending)

    @rule()
    def end(self):
        self.machine.end()
        if self.phase in LIVE:
            self.phases.append(Phase.ended)

    @rule(reason=st.sampled_from([None, GONE]))
    def lose(self, reason):
        was_live = self.phase in LIVE
        assert self.machine.lose("its end was not observed", reason) is was_live
        if was_live:
            self.loss = ("its end was not observed", reason)
            self.phases.append(Phase.lost)

    @rule()
    def clean_up(self):
        self.machine.clean_up()
        self.done = True

    @invariant()
    def it_is_where_the_model_is(self):
        if not hasattr(self, "machine"):
            return
        machine = self.machine
        assert machine.phase is self.phase
        assert (machine.id, machine.active_id) == (self.id, self.active)
        assert (machine.was_left, machine.is_cleaned_up, machine.loss) == (self.left, self.done, self.loss)
        assert machine.is_live is (self.phase in LIVE)
        assert machine.is_orphan is (self.done and machine.is_live)
        assert machine.ids() == {self.id, self.active} - {None}
        assert machine.can_be_ended is (self.named or self.active is not None)
        assert not machine.goes_by(None)
        assert all(machine.goes_by(turn_id) for turn_id in machine.ids())

    def teardown(self):
        """Check that a turn ends exactly once."""
        order = list(Phase)
        assert [order.index(phase) for phase in self.phases] == sorted(map(order.index, self.phases))
        assert sum(phase not in LIVE for phase in self.phases) <= 1


TestLives = Lives.TestCase


def test_the_table_of_transitions_names_every_transition():
    table = re.findall(r"^``(\w+)``", turn_machine.__doc__, re.MULTILINE)
    public = [
        name for name, value in vars(TurnMachine).items() if callable(value) and not name.startswith("_")
    ]
    assert table == [name for name in public if name not in {"goes_by", "ids"}]


@pytest.mark.parametrize("turn_id", [None, "a"])
def test_a_turn_left_early_is_still_marked_as_left_after_its_end(turn_id):
    machine = TurnMachine(turn_id)
    machine.leave()
    machine.end()
    assert (machine.phase, machine.was_left) == (Phase.ended, True)


def test_a_turn_that_ended_on_its_own_is_not_marked_as_left():
    machine = TurnMachine("a")
    machine.end()
    machine.leave()
    assert (machine.phase, machine.was_left) == (Phase.ended, False)
