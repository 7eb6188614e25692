"""A prompt, a thread and a supervisor, cancelled at each of their checkpoints."""

import pytest
import trio

from trio_codex import Restart, errors, open_supervisor
from trio_codex.testing import Kills, sweep_cancellation


async def test_cancelling_a_prompt_at_any_checkpoint_leaves_the_thread_usable(autojump_clock):
    async def scenario(cancellation):
        kills = Kills()
        async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
            with cancellation:
                await thread.run("one", key="1")
            first = await thread.run("one", key="1")
            assert first.status in ("interrupted", "completed")
            assert (await thread.run("two", key="2")).status == "completed"
            assert supervisor.status().turns == ()
        # No open handle keeps the thread loaded.
        kept = kills.steps.count("thread/start") - kills.steps.count("thread/delete")
        assert kills.steps.count("thread/unsubscribe") == kept
        assert kills.prompts()["one"] <= 1
        assert kills.calls()["one"] <= 1
        kills.assert_at_most_once("two")

    swept = await sweep_cancellation(scenario, round_timeout=1000)
    assert swept.tried > 20


async def test_cancelling_a_turn_scope_at_any_checkpoint_leaves_the_thread_usable(autojump_clock):
    async def scenario(cancellation):
        kills = Kills()
        async with kills.supervisor() as supervisor, supervisor.thread("a") as thread:
            with cancellation:
                async with thread.turn("one", key="1") as turn:
                    async for _ in turn:
                        pass
            assert (await thread.run("two", key="2")).status == "completed"
        kills.assert_at_most_once("two")

    swept = await sweep_cancellation(scenario, round_timeout=1000)
    assert swept.tried > 20


async def test_after_cancelling_a_supervisor_at_any_checkpoint_the_next_one_completes_the_prompt(
    autojump_clock, tmp_path
):
    number = 0

    async def scenario(cancellation):
        nonlocal number
        number += 1
        kills, journal = Kills(), tmp_path / f"{number}.db"
        with cancellation:
            async with kills.supervisor(journal=journal) as supervisor, supervisor.thread("a") as thread:
                await thread.run("one", key="1")
        async with kills.supervisor(journal=journal) as supervisor, supervisor.thread("a") as thread:
            assert (await thread.run("one", key="1")).status == "completed"
        kills.assert_at_most_once("one")

    swept = await sweep_cancellation(scenario, sample=40, round_timeout=1000)
    assert swept.tried > 20


@pytest.mark.parametrize(
    "options", [{"restart": 3}, {"probe": 3}, {"config": 3}], ids=lambda options: next(iter(options))
)
async def test_arguments_of_another_type_are_refused(options):
    with pytest.raises(TypeError, match=next(iter(options))):
        async with open_supervisor(**options):
            pytest.fail("it was opened")


async def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="max_restarts"):
        Restart(max_restarts=-1)
    async with Kills().supervisor() as supervisor:
        with pytest.raises(ValueError, match="ephemeral"):
            supervisor.thread("a", ephemeral=True)
        with pytest.raises(ValueError, match="paginated"):
            supervisor.thread("a", history_mode="legacy")
        with pytest.raises(ValueError, match="name"):
            supervisor.thread("")
        thread = supervisor.thread("a")
        with pytest.raises(errors.ThreadClosed):
            await thread.run("one", key="1")
        with pytest.raises(errors.ThreadClosed):
            _ = thread.id
        async with thread:
            with pytest.raises(ValueError, match="client_user_message_id"):
                await thread.run("one", key="1", client_user_message_id="x")
            with pytest.raises(ValueError, match="on_interrupted"):
                await thread.run("one", key="1", on_interrupted="stop")
        await trio.lowlevel.checkpoint()
