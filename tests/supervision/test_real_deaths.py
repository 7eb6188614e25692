"""Kill the server, the program, or both many times at random moments, and lose the connection to an attached server."""

import json
import random

import pytest
import trio
from supervised import AT_ONCE, Program, keep_killing, stage

from shared_server import shared_server
from trio_codex import Attachment, Thread, attach_codex, errors, open_supervisor, policies
from trio_codex.testing import Command, Gate


def steps(number):
    return [f"do step-{each}" for each in range(number)]


async def outlive(on, server, deaths, count, *options, random, longest):
    """Run the program of keyed steps, kill and restart it this often, and let the last run complete."""
    killed = 0
    while True:
        program = Program(server, on.home.workspace, on.journal, count, *options)
        try:
            await program.wait_ready()
            if killed == deaths:
                return await program.wait()
            await trio.sleep(random.uniform(0, longest))
        finally:
            killed += await program.end()


@pytest.mark.parametrize(
    ("deaths", "count", "both"),
    [
        (2, 4, False),
        pytest.param(100, 60, False, marks=pytest.mark.long),
        pytest.param(50, 25, True, marks=pytest.mark.long),
    ],
)
async def test_a_killed_program_resumes_where_it_was(deaths, count, both):
    rnd = random.Random(deaths)
    async with stage(1200 if deaths > 2 else 60) as on:
        environment = json.dumps(dict(on.home.env))
        seed = str(rnd.randrange(10**6)) if both else "-"
        longest = 1.2 if both else 0.6
        returncode = await outlive(on, environment, deaths, count, seed, random=rnd, longest=longest)
        assert returncode == 0
        on.assert_each_once(*steps(count))


@pytest.mark.long
async def test_without_removing_the_tail_the_real_server_repeats_a_prompt(monkeypatch):
    """Control. It needs about a hundred kills, sometimes several hundred: the critical moment lasts milliseconds."""
    from trio_codex.supervision import _fence, _rule

    async def keep_the_tail(thread, anchor):
        turn = await anext(thread.turns(), None)
        return None if turn is None else turn.id

    async def nothing_is_hidden(self, row):
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(_fence, "take_back_tail", keep_the_tail)
    monkeypatch.setattr(_rule.OpenThread, "_check_nothing_hidden", nothing_is_hidden)
    kills = seed = 0
    while kills < 1000:
        seed += 1
        async with stage(300) as on:
            async with on.supervisor() as supervisor, trio.open_nursery() as nursery:
                nursery.start_soon(keep_killing, supervisor, random.Random(seed), 0.03, 0.3)
                async with supervisor.thread("a") as thread:
                    for text in steps(12):
                        await thread.run(text, key=text)
                nursery.cancel_scope.cancel()
            kills += supervisor.generation - 1
            if any(on.given().count(text) > 1 for text in steps(12)):
                return
    pytest.fail(f"no prompt was repeated in {kills} kills")


@pytest.mark.long
async def test_in_two_hundred_kills_the_model_receives_each_prompt_once_and_some_tails_are_removed(
    monkeypatch,
):
    taken_back, kills = [], 0
    revert = Thread.revert

    async def counted(self, turn_id):
        taken_back.append(turn_id)
        return await revert(self, turn_id)

    monkeypatch.setattr(Thread, "revert", counted)
    seed = 0
    while kills < 200:
        seed += 1
        async with stage(600) as on:
            async with on.supervisor() as supervisor, trio.open_nursery() as nursery:
                nursery.start_soon(keep_killing, supervisor, random.Random(seed), 0.03, 0.4)
                async with supervisor.thread("a") as thread:
                    results = [await thread.run(text, key=text) for text in steps(20)]
                nursery.cancel_scope.cancel()
            kills += supervisor.generation - 1
            assert {result.final_response for result in results} == {"did it"}
            on.assert_each_once(*steps(20))
    assert taken_back


# -- on an attached server -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("losses", [4, pytest.param(40, marks=pytest.mark.long)])
async def test_lost_connections_lose_and_repeat_nothing(losses):
    rnd, lost, texts = random.Random(losses), 0, []
    async with stage(300) as on, shared_server(on.home, "unix") as (url, _, process):
        async with (
            attach_codex(url) as other,
            open_supervisor(Attachment(url), journal=on.journal, restart=AT_ONCE) as supervisor,
            trio.open_nursery() as nursery,
        ):
            on.model.script("theirs").hang("busy")
            theirs = await other.thread_start()

            @nursery.start_soon
            async def _():
                async with theirs.turn("theirs") as turn:
                    await turn.wait()

            @nursery.start_soon
            async def _():
                nonlocal lost
                while lost < losses:
                    codex, number = await supervisor.ready(), supervisor.generation
                    await trio.sleep(rnd.uniform(0.02, 0.2))
                    codex.give_up("lost for the test")
                    lost += 1
                    while supervisor.generation == number:  # noqa: ASYNC110  # it has no event for this
                        await trio.sleep(0.001)

            async with supervisor.thread("a") as thread:
                # At least three prompts, so that the longest context is this thread's.
                while lost < losses or len(texts) < 3:
                    texts.append(f"do {len(texts)}")
                    assert (await thread.run(texts[-1], key=texts[-1])).status == "completed"
            nursery.cancel_scope.cancel()
        assert process.returncode is None
        on.assert_each_once(*texts)


async def test_a_turn_rejoined_after_a_lost_connection_keeps_its_policy():
    asked = []

    async def decide(request):
        asked.append(request.command)
        if len(asked) == 1:
            (await supervised.ready()).give_up("lost for the test")
            await trio.sleep_forever()
        return policies.accept()

    async with stage(60, approval_policy="on-request") as on, shared_server(on.home, "unix") as (url, _, _):
        on.model.respond(Command("touch granted", escalate="please", call_id="asked"))
        async with (
            open_supervisor(Attachment(url), journal=on.journal, restart=AT_ONCE) as supervisor,
            supervisor.thread("a", cwd=on.home.workspace) as thread,
        ):
            supervised = supervisor
            result = await thread.run("touch it", key="1", policy=policies.Policy(command=decide))
        assert (result.status, result.parts) == ("completed", ())
        assert len(asked) == 2
        assert (on.home.workspace / "granted").exists()


async def test_a_turn_that_outlives_its_program_is_rejoined_by_the_next_one():
    async with stage(60) as on, shared_server(on.home, "unix") as (url, _, _):
        on.model.say("it ", "goes ", "on", delay=0.7)
        program = Program(url, on.home.workspace, on.journal, 1, "-")
        await on.model.wait_for_requests(1)
        assert await program.end()
        async with (
            open_supervisor(Attachment(url), journal=on.journal) as supervisor,
            supervisor.thread("a") as thread,
        ):
            result = await thread.run("do step-0", key="step-0")
        assert result.final_response == "it goes on"
        assert result.parts == ()
        assert len(on.model.requests) == 1


@pytest.mark.parametrize("ends", [True, False])
async def test_a_prompt_waits_for_a_turn_that_began_after_the_history_was_read(ends):
    async with stage(60) as on, shared_server(on.home, "unix") as (url, _, _), attach_codex(url) as other:
        async with (
            open_supervisor(Attachment(url), journal=on.journal, restart=AT_ONCE) as supervisor,
            supervisor.thread("a") as thread,
            trio.open_nursery() as nursery,
        ):
            await thread.run("do 0", key="0")
            gate = Gate()
            on.model.script("late").say("not ", gate, "yet")

            @nursery.start_soon
            async def _():
                async with await other.thread_resume(thread.id) as theirs:
                    await theirs.run("late")

            await gate.reached()
            if ends:
                nursery.start_soon(open_soon, gate)
                assert (await thread.run("do 1", key="1")).final_response == "did it"
            else:
                with pytest.raises(errors.TurnActive):
                    await thread.run("do 1", key="1")
                gate.open()
        on.assert_each_once("do 0", *(["do 1"] if ends else []), "late")


async def open_soon(gate):
    await trio.sleep(0.2)
    gate.open()


async def test_a_rejoin_that_misses_its_turn_is_tried_again(monkeypatch):
    rejoin, calls = Thread.rejoin, []

    def missed_once(self, **options):
        calls.append(options)
        if len(calls) == 1:
            raise errors.NoTurnRuns(self.id)
        return rejoin(self, **options)

    monkeypatch.setattr(Thread, "rejoin", missed_once)
    async with stage(60) as on, shared_server(on.home, "unix") as (url, _, _):
        on.model.say("it ", "goes ", "on", delay=0.7)
        async with (
            open_supervisor(Attachment(url), journal=on.journal, restart=AT_ONCE) as supervisor,
            supervisor.thread("a") as thread,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def _():
                await on.model.wait_for_requests(1)
                (await supervisor.ready()).give_up("lost for the test")

            result = await thread.run("go on", key="1")
        assert result.final_response == "it goes on"
        assert len(calls) == 2
        assert len(on.model.requests) == 1
