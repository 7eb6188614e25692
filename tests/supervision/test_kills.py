"""Kill the server at every step, with a mock clock."""

import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import trio

from trio_codex import Backoff, Restart, errors
from trio_codex.supervision import _fence, _history, _rule
from trio_codex.testing import Kills, sweep_kills
from trio_codex.testing._stored_server import StoredServer

ONE_LIFE = Restart(max_restarts=0)
"""Do not restart: the program ends with its server."""


async def steps(kills):
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        for text in ("one", "two"):
            result = await thread.run(text, key=text)
            assert result.status == "completed"
            assert result.final_response.startswith("did ")
    kills.assert_at_most_once("one", "two")


async def two_threads(kills):
    async def one(supervisor, name):
        async with supervisor.thread(name) as thread:
            assert (await thread.run(name, key="1")).status == "completed"

    async with kills.supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(one, supervisor, "a")
        nursery.start_soon(one, supervisor, "b")
    kills.assert_at_most_once("a", "b")


async def iterated(kills):
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        async with thread.turn("one", key="1") as turn:
            methods = [event.method async for event in turn]
        assert turn.result.status == "completed"
        assert methods.count("trio_codex/generationLost") <= 1
        if not turn.result.parts and "trio_codex/generationLost" not in methods:
            # The text was read while the turn ran, or from the history after its end.
            assert methods == [] or methods[-1] == "turn/completed"
    kills.assert_at_most_once("one")


async def another_key_in_between(kills):
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory, "journal.db")

        async def program(*texts):
            async with (
                kills.supervisor(journal=journal, restart=ONE_LIFE) as supervisor,
                supervisor.thread("a") as thread,
            ):
                for text in texts:
                    assert (await thread.run(text, key=text)).status == "completed"

        orders = [("one",), ("two", "one")]
        while orders:
            try:
                await program(*orders[0])
                del orders[0]
            except (errors.RestartLimitExceeded, errors.StartError):
                # The next program uses another order.
                orders.append(orders.pop(0))
        kills.assert_at_most_once("one", "two")


async def cancelled(kills):
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        with trio.move_on_after(0.5):
            await thread.run("one", key="1")
        result = await thread.run("one", key="1")
        assert result.status in ("interrupted", "completed")
        assert (await thread.run("one", key="1")).status == result.status
        await thread.run("two", key="2")
    assert kills.prompts()["one"] <= 1
    assert kills.calls()["one"] <= 1
    kills.assert_at_most_once("two")


async def left(kills):
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        async with thread.turn("one", key="1") as turn:
            async for event in turn:
                if event.method == "item/completed":
                    break
        assert await thread.fate("1") in ("unknown", "running", "interrupted", "completed")
        await thread.run("two", key="2")
    assert kills.prompts()["one"] <= 1
    kills.assert_at_most_once("two")


async def interrupted(kills):
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        was_lost = False
        async with thread.turn("one", key="1") as turn:
            async for event in turn:
                if event.method == "trio_codex/generationLost":
                    was_lost = True
                    calls = kills.calls()
                    await turn.interrupt()
        if was_lost and turn.result.status != "completed":
            assert turn.result.status == "interrupted"
            assert kills.calls() == calls
        assert await thread.fate("1") == turn.result.status
        assert (await thread.run("one", key="1")).status == turn.result.status
        # The program interrupted it, so it did not continue.
        assert not kills.prompts().keys() - {"one"}
        await thread.run("two", key="2")
    kills.assert_at_most_once("two")


async def restarted(kills):
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: supervisor.restart("an upgrade", drain_timeout=0.5))
            result = await thread.run("one", key="1")
        assert result.status == "completed"
        await thread.run("two", key="2")
    kills.assert_at_most_once("one", "two")


async def raised(kills):
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        try:
            await thread.run("one", key="1", on_interrupted="raise")
        except errors.TurnInterrupted:
            assert (await thread.run("one", key="1")).status == "completed"
        assert (await thread.run("one", key="1")).status == "completed"
    kills.assert_at_most_once("one")


SCENARIOS = [
    steps,
    two_threads,
    iterated,
    another_key_in_between,
    cancelled,
    left,
    interrupted,
    restarted,
    raised,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_the_model_receives_a_prompt_once_wherever_the_server_dies(scenario, autojump_clock):
    swept = await sweep_kills(scenario)
    assert swept.steps > 20
    assert swept.killed["write the user's message"] >= 1


async def keep_the_tail(thread, anchor):
    turn = await anext(thread.turns(), None)
    return None if turn is None else turn.id


@pytest.mark.parametrize("scenario", [steps, another_key_in_between], ids=lambda scenario: scenario.__name__)
async def test_unless_the_tail_is_removed_the_model_receives_a_prompt_twice(
    scenario, autojump_clock, monkeypatch
):
    """Control: with the rule "send again if absent", the sweep fails."""
    monkeypatch.setattr(_fence, "take_back_tail", keep_the_tail)

    async def nothing_is_hidden(self, row):
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(_rule.OpenThread, "_check_nothing_hidden", nothing_is_hidden)
    with pytest.raises(AssertionError, match="write the user's message"):
        await sweep_kills(scenario)


async def test_without_the_anchor_the_model_receives_a_prompt_twice_if_another_key_comes_between(
    autojump_clock, monkeypatch
):
    """Control: removing the tail when its key is repeated is not enough if another key comes first."""

    async def take_back_now(self, row):
        with suppress(errors.InvalidRequestError):  # nothing of the thread is stored yet
            await _history.take_back_tail(self.thread, None)

    monkeypatch.setattr(_fence, "take_back_tail", keep_the_tail)
    monkeypatch.setattr(_rule.OpenThread, "_check_nothing_hidden", take_back_now)
    await sweep_kills(steps)
    with pytest.raises(AssertionError, match="write the user's message"):
        await sweep_kills(another_key_in_between)


async def test_a_tail_that_was_not_removed_is_detected_before_anything_is_sent(autojump_clock, monkeypatch):
    monkeypatch.setattr(_fence, "take_back_tail", keep_the_tail)
    with pytest.raises(errors.HistoryLost, match="items are missing"):
        await sweep_kills(another_key_in_between)


async def test_events_of_an_ended_generation_do_not_reach_a_turn(autojump_clock):
    kills = Kills()
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        async with thread.turn("one", key="1") as turn:
            first = turn.id
            await trio.sleep(0.5)
            (await supervisor.ready()).give_up("killed for the test")
            while supervisor.generation == 1 or turn.id in (None, first):  # noqa: ASYNC110  # it has no event for this
                await trio.sleep(0.1)
            events = [event async for event in turn]
        assert events[0].method == "trio_codex/generationLost"
        assert {event.turn_id for event in events[1:]} == {turn.result.id}
        assert events[-1].method == "turn/completed"
    with pytest.raises(errors.ConnectionClosed):
        await supervisor.ready()


@pytest.mark.parametrize("error", [None, ValueError("mine")], ids=["returns", "raises"])
async def test_a_turn_whose_scope_exits_early_has_a_result(error, autojump_clock):
    kills = Kills()
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        with nullcontext() if error is None else pytest.raises(ValueError, match="mine"):
            async with thread.turn("one", key="1") as turn:
                await trio.sleep(0.5)
                if error is not None:
                    raise error
        assert turn.result.status == "interrupted"
        assert turn.id == turn.result.id
        assert [item.type for item in turn.result.items] == ["userMessage"]
        assert await turn.wait() is turn.result
        assert [event async for event in turn] == []
        assert (await thread.run("one", key="1")).id == turn.id
        await thread.run("two", key="2")
    kills.assert_at_most_once("one", "two")


async def test_a_turn_whose_scope_exits_between_two_generations_stays_interrupted(autojump_clock):
    kills = Kills()
    slow = Restart(backoff=Backoff(first=100))
    async with kills.supervisor(restart=slow) as supervisor, supervisor.thread("a") as thread:
        async with thread.turn("one", key="1") as turn:
            await trio.sleep(0.5)
            (await supervisor.ready()).give_up("lost for the test")
            await trio.sleep(1)
        assert turn.result.status == "lost"
        assert (await thread.run("one", key="1")).status == "interrupted"
        await thread.run("two", key="2")
    kills.assert_at_most_once("one", "two")


async def test_a_turn_whose_server_died_does_not_count_as_left_by_the_program(autojump_clock):
    kills = Kills()
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        for _ in range(2):
            with pytest.raises(errors.TurnInterrupted):
                async with thread.turn("one", key="1", on_interrupted="raise") as turn:
                    await trio.sleep(0.5)
                    (await supervisor.ready()).give_up("lost for the test")
                    await turn.wait()
            assert await thread.fate("1") == "running"
        result = await thread.run("one", key="1")
        assert (result.status, len(result.parts)) == ("completed", 2)
    kills.assert_at_most_once("one")


@pytest.mark.parametrize(
    "error", [errors.NoTurnRuns("thread-9"), errors.ConnectionBroken("mine")], ids=["missed", "lost"]
)
async def test_an_exception_from_on_interrupted_propagates_once(error, autojump_clock):
    kills, results = Kills(), []

    async def decide(result):
        results.append(result)
        await trio.lowlevel.checkpoint()
        raise error

    async with (
        kills.supervisor() as supervisor,
        supervisor.thread("a") as thread,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def _():
            await trio.sleep(0.5)
            (await supervisor.ready()).give_up("lost for the test")

        with trio.fail_after(60), pytest.raises(type(error)) as caught:
            await thread.run("one", key="1", on_interrupted=decide)
        assert caught.value is error
        assert (error.__cause__, error.__context__) == (None, None)
        assert [result.status for result in results] == ["interrupted"]
        assert (await thread.run("one", key="1")).status == "completed"
    kills.assert_at_most_once("one")


async def test_a_thread_whose_history_cannot_be_read_is_not_left_open(autojump_clock, monkeypatch):
    def refuse(self, params):
        raise LookupError("the history is damaged")

    kills = Kills()
    async with kills.supervisor() as supervisor:
        async with supervisor.thread("a") as thread:
            await thread.run("one", key="1")
        before = len(kills.steps)
        with monkeypatch.context() as patched:
            patched.setattr(StoredServer, "_on_thread_turns_list", refuse)
            with pytest.raises(errors.InvalidRequestError, match="damaged"):
                await supervisor.thread("a").__aenter__()
        assert kills.steps[before:].count("thread/unsubscribe") == 1
        async with supervisor.thread("a") as thread:
            assert (await thread.run("one", key="1")).status == "completed"


async def test_a_turn_whose_supervisor_gives_up_continues_in_the_next_program(autojump_clock, tmp_path):
    kills, journal = Kills(), tmp_path / "journal.db"
    with pytest.raises(errors.RestartLimitExceeded):
        async with (
            kills.supervisor(journal=journal, restart=Restart(max_restarts=0)) as supervisor,
            supervisor.thread("a") as thread,
            thread.turn("one", key="1") as turn,
        ):
            await trio.sleep(0.5)
            (await supervisor.ready()).give_up("lost for the test")
            await turn.wait()
    async with kills.supervisor(journal=journal) as supervisor, supervisor.thread("a") as thread:
        result = await thread.run("one", key="1")
        assert (result.status, len(result.parts)) == ("completed", 2)
    kills.assert_at_most_once("one")


@pytest.mark.parametrize("error", [None, ValueError("mine")], ids=["returns", "raises"])
async def test_a_turn_interrupted_by_the_end_of_its_supervisor_continues_in_the_next_one(
    error, autojump_clock, tmp_path
):
    kills, journal, ends = Kills(), tmp_path / "journal.db", []

    async def run(thread):
        try:
            await thread.run("one", key="1")
        except errors.ConnectionClosed as exc:
            ends.append(exc)

    with nullcontext() if error is None else pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery, kills.supervisor(journal=journal) as supervisor:
            thread = await supervisor.thread("a").__aenter__()
            nursery.start_soon(run, thread)
            await trio.sleep(0.5)
            if error is not None:
                raise error
    assert len(ends) == 1
    async with kills.supervisor(journal=journal) as supervisor, supervisor.thread("a") as thread:
        result = await thread.run("one", key="1")
        assert (result.status, len(result.parts)) == ("completed", 2)
    kills.assert_at_most_once("one")


async def test_a_thread_is_opened_once_per_generation_for_all_waiting_tasks(autojump_clock):
    kills = Kills()
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        for text in ("one", "two", "three"):
            await thread.run(text, key=text)
        (await supervisor.ready()).give_up("lost for the test")
        before, fates = len(kills.steps), []

        async def ask(key):
            fates.append((key, await thread.fate(key)))

        async with trio.open_nursery() as nursery:
            for key in ("one", "two", "three", "four") * 3:
                nursery.start_soon(ask, key)
            nursery.start_soon(lambda: thread.run("four", key="four"))
        assert kills.steps[before:].count("thread/resume") == 1
        known = {fate for fate in fates if fate[0] != "four"}
        assert known == {("one", "completed"), ("two", "completed"), ("three", "completed")}
    kills.assert_at_most_once("one", "two", "three", "four")


async def test_the_fates_of_several_keys_are_read_with_one_request(autojump_clock):
    kills = Kills()
    async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
        for number in range(50):
            await thread.run(f"text {number}", key=str(number))
        # Simulate a program that was killed before it recorded their end.
        thread._journal.write("update keys set state='running', status=null")
        fates = []

        async def ask(key):
            fates.append(await thread.fate(key))

        async with trio.open_nursery() as nursery:
            for number in (0, 10, 49, 30):
                nursery.start_soon(ask, str(number))
        assert fates == ["completed"] * 4
