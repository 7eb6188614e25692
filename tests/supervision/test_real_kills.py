"""Kill the server during various steps, and check what the model receives afterwards."""

import json
import random
import subprocess
from contextlib import suppress

import pytest
import trio
import trio.lowlevel
from supervised import keep_killing, kill, stage, texts_of

from trio_codex import errors, open_supervisor, policies, tool
from trio_codex.instruments import Instrument
from trio_codex.testing import Command, MockModel, Patch, Response, Text, ToolCall, write_offline_home

PATCH = "*** Begin Patch\n*** Add File: new.txt\n+new\n*** End Patch\n"


def outputs(request):
    """Return the outputs of the model's calls by id."""
    items = request.body["input"]
    return {item["call_id"]: json.dumps(item["output"]) for item in items if item["type"].endswith("_output")}


async def killed_in(on, supervisor, thread, prompt, when, **options):
    """Run a prompt, and kill the server once ``when`` returns true."""
    async with thread.turn(prompt, key="1", **options) as turn:
        async for event in turn:
            if supervisor.generation == 1 and when(event):
                kill(await supervisor.ready())
    result = turn.result
    assert result.status == "completed", result
    assert [part.status for part in result.parts] == ["interrupted", "completed"]
    assert on.given().count(prompt) == 1
    return on.model.requests[-1]


def item_started(kind):
    return lambda event: event.method == "item/started" and event.raw["item"]["type"] == kind


async def test_during_a_command():
    async with stage(sandbox_mode="danger-full-access") as on, on.supervisor() as supervisor:
        on.model.respond(Command("echo before", call_id="done"))
        on.model.respond(Command("sleep 60", call_id="killed"))

        def second(event):
            return item_started("commandExecution")(event) and "sleep" in event.raw["item"]["command"]

        async with supervisor.thread("a") as thread:
            told = outputs(await killed_in(on, supervisor, thread, "run it", second))
    assert "before" in told["done"]
    assert "aborted" in told["killed"]


async def test_during_a_pending_approval_of_a_command_or_a_patch():
    for step, kind in (
        (Command("touch x", escalate="please", call_id="asked"), "commandExecution"),
        (Patch(PATCH, call_id="asked"), "fileChange"),
    ):
        parked = []

        async def park(request, parked=parked):
            parked.append(request)
            await trio.sleep_forever()

        policy = policies.Policy(command=park, file_change=park)
        async with stage(approval_policy="on-request") as on, on.supervisor(policy=policy) as supervisor:
            on.model.respond(step)
            async with supervisor.thread("a") as thread:
                told = outputs(await killed_in(on, supervisor, thread, "ask me", item_started(kind)))
        assert "aborted" in told["asked"]
        assert len(parked) <= 1


async def test_during_a_tool_call():
    @tool
    async def wait() -> str:
        """Wait."""
        await trio.sleep_forever()

    async with stage() as on, on.supervisor(tools=[wait]) as supervisor:
        on.model.respond(ToolCall("wait", call_id="called"))
        async with supervisor.thread("a") as thread:
            request = await killed_in(on, supervisor, thread, "call it", item_started("dynamicToolCall"))
    assert "aborted" in outputs(request)["called"]


async def test_during_text_and_during_a_steer():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        on.model.hang("I begin")
        on.model.respond(Text("I steer"))
        async with thread.turn("begin", key="1") as turn:
            async for event in turn:
                if event.method == "item/agentMessage/delta" and supervisor.generation == 1:
                    await turn.steer("the other way")
                    kill(await supervisor.ready())
        assert turn.result.status == "completed"
        on.assert_each_once("begin")
        assert "I begin" not in json.dumps(on.model.requests[-1].body["input"])


async def test_during_a_review_which_is_not_durable_the_thread_loses_nothing():
    async with stage() as on, on.supervisor() as supervisor, supervisor.thread("a") as thread:
        await thread.run("one", key="1")
        codex = await supervisor.ready()
        handle = await codex.thread_resume(thread.id)
        on.model.hang("reviewing")
        with pytest.raises(Exception, match="lost"):
            async with handle.review("look at it") as review:
                await on.model.wait_for_requests(2)
                kill(codex)
                await review.wait()
        await thread.run("two", key="2")
        on.assert_each_once("one", "two")
        assert (await thread.run("one", key="1")).status == "completed"


class Starts(Instrument):
    """Detects the start of a thread."""

    def __init__(self):
        self.seen = trio.Event()

    def request_sent(self, request):
        if request.method == "thread/start":
            self.seen.set()


async def test_during_the_start_of_a_thread():
    """The server does not store a thread before its first turn, so the thread is started again."""
    starts = Starts()
    async with stage(120) as on, on.supervisor(instruments=[starts]) as supervisor:

        async def killer(delay):
            await starts.seen.wait()
            await trio.sleep(delay)
            kill(await supervisor.ready())

        delays = (0, 0.001, 0.003, 0.006, 0.01, 0.02)
        for delay in delays:
            starts.seen = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(killer, delay)
                async with supervisor.thread(str(delay)) as thread:
                    result = await thread.run(f"after {delay}", key="1")
            assert result.status == "completed"
        assert supervisor.generation == 1 + len(delays)
        contexts = [texts_of(request) for request in on.model.requests]
        # If the server dies after the first turn has begun, that turn is continued.
        assert all(
            texts.count(f"after {delay}") == 1
            for delay in delays
            for texts in contexts
            if f"after {delay}" in texts
        )
        stored = [thread async for thread in (await supervisor.ready()).threads()]
        assert len(stored) == len(delays)


async def test_during_the_resume_and_during_the_rollback():
    """Kill within milliseconds of a start. Most kills hit the requests that open the thread."""
    async with stage(120) as on:
        prompts = []
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:

            async def keep_prompting():
                while True:
                    prompts.append(f"do {len(prompts)}")
                    await thread.run(prompts[-1], key=prompts[-1])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_killing, supervisor, random.Random(3), 0.0, 0.06)
                nursery.start_soon(keep_prompting)
                while supervisor.generation <= 5:  # noqa: ASYNC110  # it has no event for this
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
            for text in [*prompts, "two"]:
                assert (await thread.run(text, key=text)).status == "completed"
        assert all(on.given().count(text) <= 1 for text in prompts)
        assert on.given().count("two") == 1


@pytest.mark.parametrize("cut", [*range(1, 8), "the whole turn"])
async def test_a_rollout_without_its_last_lines_yields_a_correct_answer_or_an_error(cut):
    async with stage() as on:
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            await thread.run("one", key="1")
            await thread.run("two", key="2")
        (rollout,) = on.home.codex_home.rglob("rollout-*.jsonl")
        lines = rollout.read_text().splitlines(keepends=True)
        starts = [number for number, line in enumerate(lines) if "task_started" in line]
        rollout.write_text("".join(lines[: starts[-1] if cut == "the whole turn" else -cut]))
        # Otherwise the index, which is ahead of the file, would still contain the turn.
        for index in on.home.codex_home.rglob("*.sqlite*"):
            index.unlink()
        count = len(on.model.requests)
        async with on.supervisor() as supervisor:
            outcome = "a result"
            try:
                async with supervisor.thread("a") as thread:
                    result = await thread.run("two", key="2", on_interrupted="raise")
                    assert result.status == "completed"
            except (errors.HistoryLost, errors.TurnInterrupted) as error:
                outcome = type(error).__name__
            assert cut != "the whole turn" or outcome == "HistoryLost"
        assert len(on.model.requests) == count


async def test_a_missing_or_damaged_history_index_never_causes_a_second_call():
    async with stage() as on:
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            await thread.run("one", key="1")
        indexes = [path for path in on.home.codex_home.rglob("*.sqlite*") if path.is_file()]
        assert indexes
        for path in indexes:
            path.unlink()
        async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
            assert (await thread.run("one", key="1")).final_response == "did it"
        for path in indexes:
            path.write_bytes(b"garbage" * 1000)
        # The server reports most damaged indexes as an error, and occasionally rebuilds one.
        with suppress(errors.CodexError):
            async with on.supervisor() as supervisor, supervisor.thread("a") as thread:
                assert (await thread.run("one", key="1")).final_response == "did it"
        assert len(on.model.requests) == 1


@pytest.fixture
def small_disk(tmp_path):
    """Yield a file system of a few MiB, or skip the test where none can be mounted."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", mounted], capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


async def test_a_prompt_that_ran_while_the_disk_was_full_is_never_sent_again(small_disk, tmp_path):
    """The server completes the turn without storing it and without an error. Only the journal has a record."""
    prompt = "two " + "y" * 30_000
    with trio.fail_after(60):
        async with MockModel() as model:
            model.default = Response(Text("did ", "it"))
            home = write_offline_home(small_disk / "home", model)
            journal = tmp_path / "journal.db"
            async with (
                open_supervisor(home.config(), journal=journal) as supervisor,
                supervisor.thread("a") as thread,
            ):
                await thread.run("one", key="1")
                filler = small_disk / "filler"
                with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                    while True:  # noqa: ASYNC913  # it ends when the disk is full
                        file.write(b"x" * 4096)
                await thread.run(prompt, key="2")
                kill(await supervisor.ready())
            filler.unlink()
            calls, result = len(model.requests), None
            async with (
                open_supervisor(home.config(), journal=journal) as supervisor,
                supervisor.thread("a") as thread,
            ):
                with suppress(errors.HistoryLost):
                    result = await thread.run(prompt, key="2")
                assert (await thread.run("one", key="1")).final_response == "did it"
            assert result is None or result.status == "completed"
            assert len(model.requests) == calls
