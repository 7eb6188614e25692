"""Programs run in sequence on the same journal, while servers and programs die at arbitrary steps."""

import tempfile
from contextlib import suppress
from pathlib import Path

import trio
import trio.testing
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from trio_codex import Backoff, Restart, errors
from trio_codex.supervision._journal import Journal
from trio_codex.testing import Kills

TEXTS = ("one", "two", "three", "four", "five")

KEYS = st.sampled_from(TEXTS)

STEPS = st.sampled_from(
    [
        "thread/start", "thread/resume", "turn/start", "turn/interrupt", "send an answer", "send turn/started",
        "write the start of the turn", "write the message for the model", "write the user's message",
        "call the model", "write the answer", "write the end of the turn", "write the revert",
    ]
)  # fmt: skip
"""The step at which the server dies."""

PERIOD = 100
"""The period of the restart limit in seconds."""

FOR_EVER = 100_000
"""Seconds after which every program that is not killed has ended."""


class NamedKills(Kills):
    """Steps at which the server dies, by number or by name."""

    names = ()

    def _step(self, what):
        if what in self.names:
            self.names = tuple(name for name in self.names if name != what)
            self.numbers |= {len(self.steps) + 1}
        super()._step(what)


class Programs(RuleBasedStateMachine):
    """Each rule runs a program, or makes the server die during a later program.

    The server writes its history in the same order as the real one, and dies at exactly the chosen step. A killed
    program writes nothing more to its journal, not even late writes.
    """

    def __init__(self):
        super().__init__()
        self.kills = NamedKills()
        self.directory = tempfile.TemporaryDirectory()
        self.journal = Path(self.directory.name, "journal.db")
        self.answers = {}

    def teardown(self):
        # Whatever has happened, each prompt can be completed, and has reached the model at most once.
        with self.directory:
            while self.answers.keys() < {*TEXTS}:
                self.run(self.prompts(*TEXTS))
            for key, result in self.answers.items():
                if result.status == "completed":
                    assert self.kills.prompts()[key] == 1, (key, self.kills.killed)
                else:
                    assert result.status == "interrupted"

    # -- rules --------------------------------------------------------------------------------------------------

    @rule(names=st.lists(STEPS, min_size=1, max_size=2, unique=True))
    def the_server_will_die(self, names):
        self.kills.names = tuple(names)

    @rule(steps=st.lists(st.integers(1, 60), min_size=1, max_size=4))
    def the_server_will_die_by_number(self, steps):
        self.kills.numbers |= {len(self.kills.steps) + step for step in steps}

    @rule(keys=st.lists(KEYS, min_size=1, max_size=3), most=st.integers(0, 4))
    def a_program_runs(self, keys, most):
        self.run(self.prompts(*keys), most=most)

    @rule(key=KEYS, seconds=st.floats(0, 3))
    def a_program_is_killed(self, key, seconds):
        self.run(self.prompts(key), killed_after=seconds)

    @rule(key=KEYS, seconds=st.floats(0, 3))
    def a_prompt_is_cancelled(self, key, seconds):
        async def cancelled(supervisor, thread):
            with trio.move_on_after(seconds):
                await self.prompt(thread, key)

        self.run(cancelled)

    @rule(key=KEYS, stop_at=st.integers(1, 9), killed=st.booleans())
    def a_turn_is_iterated_and_left(self, key, stop_at, killed):
        async def iterated(supervisor, thread):
            seen = 0
            async with thread.turn(key, key=key) as turn:
                async for event in turn:
                    # No event of an ended generation reaches the turn.
                    assert event.turn_id in (None, turn.id)
                    seen += 1
                    if seen == stop_at:
                        break
            self.note(key, turn.result)
            if killed:
                write_nothing_more(supervisor)
                raise Killed

        self.run(iterated)

    @rule(keys=st.lists(KEYS, max_size=3))
    def fates_are_asked_while_a_prompt_runs(self, keys):
        async def asked(supervisor, thread):
            async with trio.open_nursery() as nursery:
                for key in keys:
                    nursery.start_soon(thread.fate, key)
                await self.prompt(thread, "five")

        self.run(asked)

    @rule(key=KEYS, patience=st.floats(0, 3))
    def the_server_is_replaced_on_purpose(self, key, patience):
        async def replaced(supervisor, thread):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: supervisor.restart("an upgrade", drain_timeout=patience))
                await self.prompt(thread, key)

        self.run(replaced)

    # -- invariants ---------------------------------------------------------------------------------------------

    @invariant()
    def a_prompt_is_given_at_most_once(self):
        prompts, calls = self.kills.prompts(), self.kills.calls()
        for key in TEXTS:
            assert max(prompts[key], calls[key]) <= 1, (key, self.kills.killed)

    @invariant()
    def the_journal_opens(self):
        if self.journal.exists():
            Journal(self.journal).close()

    def note(self, key, result):
        """Check that the result of a completed prompt never changes."""
        if result.status == "lost":
            return
        earlier = self.answers.setdefault(key, result)
        assert earlier.status == result.status
        assert [part.id for part in earlier.parts or (earlier,)] == [
            part.id for part in result.parts or (result,)
        ]

    async def prompt(self, thread, key):
        self.note(key, await thread.run(key, key=key))

    def prompts(self, *keys):
        async def run(supervisor, thread):
            for key in keys:
                await self.prompt(thread, key)

        return run

    def run(self, body, *, most=1000, killed_after=FOR_EVER):
        """Run a program until it ends, is killed, or its server has died too often."""

        async def program():
            restart = Restart(
                max_restarts=most, period=PERIOD, backoff=Backoff(first=0, then=0.1), strikes=1000
            )
            async with trio.open_nursery() as waiters, trio.open_nursery() as nursery:
                try:
                    async with self.kills.supervisor(journal=self.journal, restart=restart) as supervisor:
                        waiters.start_soon(wait_for_the_end, supervisor)
                        with trio.CancelScope() as scope:
                            nursery.start_soon(kill_program, supervisor, scope, killed_after)
                            async with supervisor.thread("a") as thread:
                                await body(supervisor, thread)
                        check_restarts(supervisor, most)
                        if scope.cancelled_caught:
                            raise Killed
                except* (errors.RestartLimitExceeded, errors.StartError, Killed):
                    pass
                nursery.cancel_scope.cancel()

        async def main():
            with trio.fail_after(2 * FOR_EVER):
                await program()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


class Killed(Exception):
    """The program was killed."""


async def wait_for_the_end(supervisor):
    """Wait like a task of the program outside the supervisor's scope."""
    with suppress(errors.ConnectionClosed, errors.RestartLimitExceeded):
        while True:
            await (await supervisor.ready()).wait_closed()


async def kill_program(supervisor, scope, seconds):
    await trio.sleep(seconds)
    write_nothing_more(supervisor)
    scope.cancel()


def write_nothing_more(supervisor):
    journal = supervisor._generations.journal
    journal._late.clear()
    journal._used.clear()
    journal.write = journal.write_late = lambda *_, **__: None
    journal.commit = lambda: None


def check_restarts(supervisor, most):
    deaths = [each.ended for each in supervisor.generations()[:-1] if isinstance(each.cause, Exception)]
    for first in deaths:
        assert sum(first <= death <= first + PERIOD for death in deaths) <= most


def test_the_model_receives_each_key_at_most_once_whatever_dies():
    chosen = settings(max_examples=20, stateful_step_count=8, deadline=None, phases=[Phase.generate])
    run_state_machine_as_test(Programs, settings=chosen)
