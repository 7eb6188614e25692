"""Cancel every scope at each of its checkpoints: everything in progress is undone, and outcomes are reported."""

import os
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
import trio
import trio.testing

from scripted_remote import Remote
from trio_codex import CodexConfig, Policy, TurnStatus, attach_codex, open_codex, policies, tool
from trio_codex.testing import (
    Command,
    Hang,
    MockModel,
    Response,
    Sweep,
    Text,
    ToolCall,
    fake_codex,
    offline_home,
    sweep_cancellation,
)
from trio_codex.testing._fake import FakeServer
from websocket_peer import accept, listening

SEED = int(os.environ["SWEEP_SEED"])
"""The seed of the sampled checkpoints."""


@pytest.fixture
def swept(record_property):
    """Record what a sweep covered, for the summary of the run."""

    def record(sweep):
        record_property("checkpoints", sweep.checkpoints)
        record_property("tried", sweep.tried)
        record_property("seed", sweep.seed)
        return sweep

    return record


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return a directory for this test's temporary files."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return directory


def check_error(error, *, nursery=False):
    """Check that only ``Cancelled`` leaves a block, in a group only if the block has its own nursery."""
    if nursery and isinstance(error, BaseExceptionGroup):
        assert error.split(trio.Cancelled)[1] is None
    else:
        assert error is None or type(error) is trio.Cancelled


# -- the sweep itself ----------------------------------------------------------------------------------------------


async def test_a_sweep_cancels_at_each_checkpoint_and_finally_not_at_all():
    came_to = []

    async def scenario(cancellation):
        steps = 0
        with cancellation:
            for _ in range(3):
                steps += 1
                await trio.lowlevel.checkpoint()
            steps = "end"
        came_to.append((steps, type(cancellation.error)))
        assert cancellation.reached == (0 < cancellation.number <= 3)

    assert await sweep_cancellation(scenario) == Sweep(checkpoints=3, tried=6)
    assert came_to == [(1, trio.Cancelled), (2, trio.Cancelled), (3, trio.Cancelled), ("end", type(None))] * 2


async def test_a_sweep_also_cancels_during_a_wait():
    was_waiting = []

    async def other(event):
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        event.set()

    async def scenario(cancellation):
        event = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other, event)
            with cancellation:
                await event.wait()
            was_waiting.append(cancellation.error is not None)
            nursery.cancel_scope.cancel()

    assert (await sweep_cancellation(scenario)).checkpoints >= 4
    assert sum(was_waiting) >= 3


async def test_a_sweep_misses_no_checkpoint_of_the_block_although_numbers_vary_between_rounds():
    came_to = set()

    async def take_steps(count):
        for _ in range(count):
            await trio.lowlevel.checkpoint()

    async def scenario(cancellation):
        at = "start"
        with cancellation:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_steps, 5 if cancellation.number <= 5 else 0)
            at = "checkpoint"
            await trio.lowlevel.checkpoint()
        came_to.add((at, type(cancellation.error)))

    await sweep_cancellation(scenario)
    assert ("checkpoint", trio.Cancelled) in came_to


async def test_a_sample_is_drawn_with_the_seed_and_reports_what_it_covered():
    async def numbers_of(seed):
        numbers = []

        async def scenario(cancellation):
            numbers.append(cancellation.number)
            with cancellation:
                for _ in range(50):
                    await trio.lowlevel.checkpoint()

        assert await sweep_cancellation(scenario, sample=5, seed=seed) == Sweep(50, 5, seed)
        return numbers

    assert await numbers_of(1) == await numbers_of(1) != await numbers_of(2)


async def test_a_failing_round_reports_where_it_was_cancelled():
    async def scenario(cancellation):
        done = False
        with cancellation:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            done = True
        assert done

    with pytest.raises(AssertionError) as caught:
        await sweep_cancellation(scenario)
    assert caught.value.__notes__ == ["It was cancelled at checkpoint 1."]


async def test_a_round_that_hangs_or_skips_the_block_fails():
    async def outside(_):
        await trio.sleep_forever()

    async def forget(_):
        await trio.lowlevel.checkpoint()

    with pytest.raises(trio.TooSlowError):
        await sweep_cancellation(outside, round_timeout=0.01)
    with pytest.raises(ValueError, match="did not enter"):
        await sweep_cancellation(forget)


# -- in memory: every checkpoint -----------------------------------------------------------------------------------


class Seen:
    """What a client has started on its server, and how it ended.

    Attributes:
        server: The server process, if there is one.
        turns: Every turn whose scope was entered.
        parked: How many callbacks are waiting.
        parking: Set once a callback waits forever.
    """

    def __init__(self, server=None):
        self.server = server
        self.turns = []
        self.parked = 0
        self.parking = trio.Event()

    async def park(self, _):
        self.parked += 1
        self.parking.set()
        try:
            await trio.sleep_forever()
        finally:
            self.parked -= 1

    async def approve(self, _):
        self.parked += 1
        try:
            await trio.lowlevel.checkpoint()
            return policies.accept()
        finally:
            self.parked -= 1


async def start_and_close(codex, _):
    await codex.aclose()


async def start_a_thread(codex, _):
    async with await codex.thread_start():
        await trio.lowlevel.checkpoint()


async def resume_a_thread(codex, _):
    async with await codex.thread_resume("thread-7"):
        await trio.lowlevel.checkpoint()


async def run(codex, _):
    thread = await codex.thread_start()
    assert (await thread.run("short")).status is TurnStatus.completed


async def stream(codex, seen):
    thread = await codex.thread_start()
    async with thread.turn("short") as turn:
        seen.turns.append(turn)
        assert [text async for text in turn.text()] == ["text"]
    assert (await turn.wait()).status is TurnStatus.completed


async def leave_a_turn(codex, seen):
    thread = await codex.thread_start()
    async with thread.turn("long") as turn:
        seen.turns.append(turn)
        async for _ in turn.text():
            break


async def leave_a_parked_approval(codex, seen):
    thread = await codex.thread_start(policy=Policy(command=seen.park))
    async with thread.turn("approve") as turn:
        seen.turns.append(turn)
        await seen.parking.wait()


async def approve(codex, seen):
    thread = await codex.thread_start(policy=Policy(command=seen.approve))
    async with thread.turn("approve") as turn:
        seen.turns.append(turn)
        assert (await turn.wait()).status is TurnStatus.completed


async def leave_a_parked_call(codex, seen):
    @tool
    async def look() -> None:
        await seen.park("call")

    thread = await codex.thread_start(tools=[look])
    async with thread.turn("call") as turn:
        seen.turns.append(turn)
        await seen.parking.wait()


async def answer_a_call(codex, seen):
    @tool
    async def look() -> str:
        await seen.approve("call")
        return "seen"

    thread = await codex.thread_start(tools=[look])
    async with thread.turn("call") as turn:
        seen.turns.append(turn)
        assert (await turn.wait()).status is TurnStatus.completed


async def steer(codex, seen):
    thread = await codex.thread_start()
    async with thread.turn("long") as turn:
        seen.turns.append(turn)
        await turn.steer("more")
        assert (await turn.wait()).status is TurnStatus.completed


async def interrupt(codex, seen):
    thread = await codex.thread_start()
    async with thread.turn("long") as turn:
        seen.turns.append(turn)
        await turn.interrupt()
        assert (await turn.wait()).status is TurnStatus.interrupted


async def two_turns_at_once(codex, seen):
    async def one(text):
        thread = await codex.thread_start()
        async with thread.turn(text) as turn:
            seen.turns.append(turn)
            async for _ in turn.text():
                break

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "long")
        nursery.start_soon(one, "short")


async def leave_a_command(codex, _):
    async with codex.exec(["cat"]) as process:
        await process.stdin.send_all(b"hi")
        await process.stdout.receive_some()


async def run_a_command(codex, _):
    async with codex.exec(["cat"]) as process:
        await process.stdin.send_all(b"hi")
        await process.stdin.aclose()
        assert b"hi" in b"".join([piece async for piece in process.stdout])
        assert await process.wait() == 0


async def watch(codex, _):
    async with codex.watch("/x") as changes:
        await changes.__anext__()


async def review(codex, seen):
    thread = await codex.thread_start()
    async with thread.review("it") as turn:
        seen.turns.append(turn)
        async for event in turn:  # the real server sends the whole text at the end
            if event.method == "turn/started":
                break


async def compact(codex, _):
    thread = await codex.thread_start()
    with trio.CancelScope() as scope:
        async with thread.events() as events, trio.open_nursery() as nursery:
            nursery.start_soon(thread.compact)
            async for event in events:
                if event.method == "turn/started":
                    scope.cancel()


async def run_in_the_shell(codex, _):
    thread = await codex.thread_start()
    with trio.CancelScope() as scope:
        async with thread.events() as events, trio.open_nursery() as nursery:
            nursery.start_soon(thread.shell_command, "sleep 1")
            async for event in events:
                if event.method == "item/started":
                    scope.cancel()


async def pursue_a_goal(codex, _):
    thread = await codex.thread_start()
    async with thread.goal("reach it") as goal:
        texts = goal.text()
        await anext(texts)
        await anext(texts)  # of its second turn


USES = [
    start_and_close, start_a_thread, resume_a_thread, run, stream, leave_a_turn, leave_a_parked_approval, approve,
    leave_a_parked_call, answer_a_call, steer, interrupt, two_turns_at_once, leave_a_command, run_a_command, watch,
    review, compact, run_in_the_shell, pursue_a_goal,
]  # fmt: skip


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
async def test_cancelling_a_scope_anywhere_ends_its_remote_work(use, swept):
    async def scenario(cancellation):
        seen, tasks = Seen(), trio.lowlevel.current_statistics().tasks_living
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            remote = Remote(server)
            nursery.start_soon(remote.play)
            with cancellation:
                await use(codex, seen)
            check_error(cancellation.error, nursery=use in (two_turns_at_once, compact, run_in_the_shell))
            check_ended(remote, seen)
            if use in (start_a_thread, resume_a_thread):
                assert remote.subscribed == set(), "the thread is still open"
            # An abandoned request with nothing to undo may still be pending.
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert trio.lowlevel.current_statistics().tasks_living == tasks

    assert swept(await sweep_cancellation(scenario)).checkpoints >= 4


def check_ended(remote, seen):
    assert remote.running == {}, "something outlived its scope"
    assert remote.questions == {}, "a request outlived its turn"
    assert remote.goal != "active", "the goal was not paused"
    assert seen.parked == 0, "a callback outlived its turn"
    for turn in seen.turns:
        assert turn.result.status == remote.ended[turn.id], "the server has another outcome"


async def test_an_exception_raised_on_cancellation_propagates_unchanged(swept):
    class OfTheBody(Exception):
        pass

    async def scenario(cancellation):
        raised = caught = None
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            remote, seen = Remote(server), Seen()
            nursery.start_soon(remote.play)
            thread = await codex.thread_start()
            try:
                with cancellation:
                    async with thread.turn("long") as turn:
                        seen.turns.append(turn)
                        try:
                            async for _ in turn.text():
                                break
                            await trio.testing.wait_all_tasks_blocked()
                        except trio.Cancelled:
                            raised = OfTheBody()
                            raise raised from None
            except OfTheBody as exc:
                caught = exc
            assert caught is raised
            check_ended(remote, seen)
            nursery.cancel_scope.cancel()

    assert swept(await sweep_cancellation(scenario)).checkpoints >= 10


async def test_cancelling_a_client_over_a_stream_anywhere_closes_it(swept):
    async def scenario(cancellation):
        tasks = trio.lowlevel.current_statistics().tasks_living
        with cancellation:
            async with fake_codex() as (codex, _):
                await codex.thread_start()
        check_error(cancellation.error, nursery=True)
        assert trio.lowlevel.current_statistics().tasks_living == tasks

    assert swept(await sweep_cancellation(scenario)).checkpoints >= 10


# -- processes -----------------------------------------------------------------------------------------------------

SERVER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "initialize":
        result = {"userAgent": "fake/0.0.1", "codexHome": "/", "platformFamily": "unix", "platformOs": "linux"}
        print(json.dumps({"id": message["id"], "result": result}), flush=True)
"""


async def test_cancelling_the_startup_anywhere_leaves_nothing_behind(swept, temporary):
    # The fixture that checks for leftovers after the test covers all rounds.
    config = CodexConfig(launch_args_override=[sys.executable, "-S", "-u", "-c", SERVER])

    async def scenario(cancellation):
        tasks = trio.lowlevel.current_statistics().tasks_living
        with cancellation:
            async with open_codex(config) as codex:
                await trio.lowlevel.checkpoint()
                assert codex.pid is not None
        check_error(cancellation.error)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert os.listdir(temporary) == []

    assert swept(await sweep_cancellation(scenario)).checkpoints >= 10


# -- an attached server ---------------------------------------------------------------------------


class Shared:
    """A server that keeps running when a client leaves.

    Attributes:
        remotes: What each client had started on it.
    """

    def __init__(self):
        self.remotes = []

    async def serve(self, stream):
        peer, _ = await accept(stream)
        server = FakeServer(peer)
        remote = Remote(server)
        self.remotes.append(remote)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remote.play)
            await server.serve()
            nursery.cancel_scope.cancel()


async def wait_for_tasks(count):
    """Wait until only this many tasks are left, because a server may notice late that a client has left."""
    while trio.lowlevel.current_statistics().tasks_living != count:  # noqa: ASYNC110
        await trio.lowlevel.checkpoint()


async def attach_and_leave(codex, _):
    await trio.lowlevel.checkpoint()


ATTACHED_USES = [
    attach_and_leave, leave_a_turn, leave_a_parked_approval, two_turns_at_once, leave_a_command, pursue_a_goal,
]  # fmt: skip


@pytest.mark.parametrize("use", ATTACHED_USES, ids=lambda use: use.__name__)
async def test_cancelling_an_attached_client_anywhere_leaves_nothing_on_either_side(use, swept):
    shared = Shared()
    async with listening(shared.serve) as address:
        tasks = trio.lowlevel.current_statistics().tasks_living

        async def scenario(cancellation):
            seen = Seen()
            shared.remotes.clear()
            with cancellation:
                async with attach_codex(f"ws://{address}") as codex:
                    await use(codex, seen)
            check_error(cancellation.error, nursery=use is two_turns_at_once)
            await wait_for_tasks(tasks)
            for remote in shared.remotes:
                check_ended(remote, seen)

        assert swept(await sweep_cancellation(scenario)).checkpoints >= 10


async def leave_a_turn_running(codex, seen):
    thread = await codex.thread_start()
    async with thread.turn("long", leave_running=True) as turn:
        seen.turns.append(turn)
        await anext(turn.text())


async def leave_a_question_running(codex, seen):
    thread = await codex.thread_start(policy=Policy(command=seen.park))
    async with thread.turn("approve", leave_running=True) as turn:
        seen.turns.append(turn)
        await seen.parking.wait()


@pytest.mark.parametrize(
    "use", [leave_a_turn_running, leave_a_question_running], ids=lambda use: use.__name__
)
async def test_with_leave_running_a_turn_continues_wherever_it_is_cancelled_after_its_start(use, swept):
    shared = Shared()
    async with listening(shared.serve) as address:
        tasks = trio.lowlevel.current_statistics().tasks_living

        async def scenario(cancellation):
            seen = Seen()
            shared.remotes.clear()
            with cancellation:
                async with attach_codex(f"ws://{address}") as codex:
                    await use(codex, seen)
            check_error(cancellation.error)
            await wait_for_tasks(tasks)
            assert seen.parked == 0, "a callback outlived its scope"
            running = [turn_id for remote in shared.remotes for turn_id in remote.running]
            assert running == [turn.id for turn in seen.turns]
            assert all(
                turn_id in running for remote in shared.remotes for turn_id in remote.questions.values()
            )

        assert swept(await sweep_cancellation(scenario)).checkpoints >= 10


@pytest.mark.parametrize("end", [False, True])
async def test_cancelling_a_rejoined_turn_anywhere_ends_it_only_if_requested(end, swept):
    async def scenario(cancellation):
        seen = Seen()
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            remote = Remote(server)
            remote.running["theirs"] = ("theirs", "thread-7")
            nursery.start_soon(remote.play)
            with cancellation:
                async with await codex.thread_resume("thread-7") as thread, thread.rejoin(end=end) as turn:
                    seen.turns.append(turn)
                    await anext(aiter(turn))
            check_error(cancellation.error)
            assert not any(thread.turn and thread.turn.owned for thread in codex._session.threads)
            if end and seen.turns:
                assert (remote.running, turn.result.status) == ({}, TurnStatus.interrupted)
            else:
                assert list(remote.running) == ["theirs"]
            await codex.aclose()
            nursery.cancel_scope.cancel()
        assert len(remote.running) == (not (end and seen.turns))

    assert swept(await sweep_cancellation(scenario)).checkpoints >= 5


# -- the real server -----------------------------------------------------------------------------------------------


async def watch_a_directory(codex, seen):
    async with codex.watch("watched") as changes:
        assert is_watched(seen.server, changes.path), (
            "the check for an ended watch would not notice a running one"
        )
        (Path(changes.path) / "file").write_text("changed")
        await anext(changes)


REAL_USES = [
    start_a_thread, run, stream, leave_a_turn, leave_a_parked_approval, approve, leave_a_parked_call, answer_a_call,
    steer, interrupt, two_turns_at_once, leave_a_command, run_a_command, watch_a_directory, review, pursue_a_goal,
]  # fmt: skip
ASKS = Response(Command("echo", escalate="may I?"))
CALLS = Response(ToolCall("look", {}))
GOES_ON = Response(Text("text"), Hang())
FIRST_ANSWERS = {
    leave_a_turn: GOES_ON, interrupt: GOES_ON, two_turns_at_once: GOES_ON, review: GOES_ON,
    leave_a_parked_approval: ASKS, approve: ASKS, leave_a_parked_call: CALLS, answer_a_call: CALLS,
}  # fmt: skip
"""The model's response to the input of a turn, unless it is just text."""
HOW_MANY = [
    pytest.param(None, marks=pytest.mark.long, id="all"),
    pytest.param(4, id="a-sample"),
]


@asynccontextmanager
async def real_parts():
    """Yield the scripted model and a function that runs the real server with it."""
    async with MockModel() as model:
        model.default = Response(Text("text"))
        with offline_home(model, approval_policy="on-request") as home:
            yield model, CodexConfig(env=home.env, inherit_env=False, cwd=home.workspace)


@pytest.mark.real
@pytest.mark.parametrize("sample", HOW_MANY)
async def test_cancelling_a_session_of_the_real_server_anywhere_leaves_nothing_behind(
    sample, swept, temporary
):
    async with real_parts() as (_, config):
        (temporary / "before").touch()
        before = set(os.listdir(temporary))

        async def scenario(cancellation):
            seen = Seen()
            with cancellation:
                async with open_codex(config) as codex:
                    await leave_a_turn(codex, seen)
            check_error(cancellation.error)
            assert all(turn.result.status in ("completed", "interrupted") for turn in seen.turns)
            assert set(os.listdir(temporary)) == before

        assert swept(await sweep_cancellation(scenario, sample=sample, seed=SEED)).tried


def names_below(process):
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            yield child.name()


def is_watched(process, directory):
    """Return whether a process has an inotify watch on a directory."""
    watch = f" ino:{os.stat(directory).st_ino:x} "
    for descriptor in Path(f"/proc/{process.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime; an inotify descriptor stays open
            if watch in descriptor.read_text():
                return True
    return False


@pytest.mark.real
@pytest.mark.parametrize("sample", HOW_MANY)
@pytest.mark.parametrize("use", REAL_USES, ids=lambda use: use.__name__)
async def test_cancelling_a_scope_anywhere_ends_its_work_on_the_real_server(use, sample, swept):
    async with real_parts() as (model, config), open_codex(config) as codex:
        if use in FIRST_ANSWERS:
            model.script(lambda request: "call_id" not in request.input[-1], default=FIRST_ANSWERS[use])
        server = psutil.Process(codex.pid)
        directory, checked = config.cwd / "watched", set()
        directory.mkdir()

        async def scenario(cancellation):
            seen = Seen(server)
            with cancellation:
                await use(codex, seen)
            check_error(cancellation.error, nursery=use is two_turns_at_once)
            assert seen.parked == 0, "a callback outlived its turn"
            assert "cat" not in names_below(server)
            assert not is_watched(server, directory)
            for turn in seen.turns:
                assert turn.result.status in ("completed", "interrupted")
            # If the turn had not ended, the server would treat the next one as more input to it.
            threads = {*(await codex.api.thread.loaded_list()).data}
            for thread_id in threads - checked:
                assert (await codex.thread_read(thread_id)).status.type == "idle"
                goal = (await codex.api.thread.goal_get(thread_id=thread_id)).goal
                assert goal is None or goal.status != "active", "the goal was not paused"
            checked.update(threads)

        assert swept(await sweep_cancellation(scenario, sample=sample, seed=SEED)).tried
