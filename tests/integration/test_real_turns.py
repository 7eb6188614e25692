"""Turns on the real server, with the model replaced at the HTTP boundary: their controls, and every way they end."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from real import offline

from trio_codex import Policy, Sandbox, TurnStatus, errors, open_codex, policies, wire
from trio_codex.testing import Command, Hang, MockModel, Response, Text, ToolCall, offline_home

pytestmark = pytest.mark.real


# -- run -----------------------------------------------------------------------------------------------------------


async def test_a_run_returns_the_final_text_items_and_usage():
    async with offline() as (codex, model, _):
        model.say("hel", "lo")
        thread = await codex.thread_start()
        result = await thread.run("hello there")
        assert result.status is TurnStatus.completed
        assert result.final_response == "hello"
        kinds = [type(item) for item in result.items]
        assert kinds == [wire.UserMessageThreadItem, wire.AgentMessageThreadItem]
        assert result.usage is not None
        assert result.usage.total.total_tokens > 0
        assert result.duration_ms is not None
        assert model.requests[0].last_user_text == "hello there"
        assert model.requests[0].body["stream"] is True


async def test_a_turn_streams_exactly_its_deltas_and_one_terminal_event():
    async with offline() as (codex, model, _):
        model.say("he", "llo")
        thread = await codex.thread_start()
        async with thread.turn("hi") as turn:
            events = [event async for event in turn]
        deltas = [event.params.delta for event in events if event.method == "item/agentMessage/delta"]
        assert deltas == ["he", "llo"]
        assert [event.method for event in events].count("turn/completed") == 1
        assert events[-1].method == "turn/completed"
        assert turn.result.final_response == "hello"
        assert all(event.emitted_at is not None for event in events)


async def test_raw_response_items_are_typed():
    async with offline() as (codex, model, _):
        model.run_command("true")
        model.say("done")
        thread = await codex.thread_start(experimental_raw_events=True)
        async with thread.turn("hi") as turn:
            raw = [event.params async for event in turn if event.method.startswith("rawResponse")]
    items = [each.item for each in raw if isinstance(each, wire.RawResponseItemCompletedNotification)]
    responses = [each for each in raw if isinstance(each, wire.RawResponseCompletedNotification)]
    assert len(items) + len(responses) == len(raw)
    assert wire.FunctionCallResponseItem in {type(item) for item in items}
    assert [response.usage is not None for response in responses] == [True, True]


async def test_non_ascii_text_crosses_unchanged_in_both_directions():
    text = 'quotes " and \\ and newlines\n\tä € 𝄞 \u2028 end'
    async with offline() as (codex, model, _):
        model.say(text)
        thread = await codex.thread_start()
        result = await thread.run(text)
        assert result.final_response == text
        assert model.requests[0].last_user_text == text


async def test_concurrent_turns_on_two_threads_see_only_their_own_events():
    async with offline() as (codex, model, _):
        gate = model.gate()
        model.respond(Text("a1"), gate, Text("a2"), when=lambda request: request.last_user_text == "ask a")
        model.respond(Text("b1"), gate, Text("b2"), when=lambda request: request.last_user_text == "ask b")
        seen = {}

        async def run(name):
            thread = await codex.thread_start()
            async with thread.turn(f"ask {name}") as turn:
                seen[name] = [piece async for piece in turn.text()]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "a")
            nursery.start_soon(run, "b")
            await model.wait_for_requests(2)
            gate.open()
        assert seen == {"a": ["a1", "a2"], "b": ["b1", "b2"]}


async def test_the_output_schema_reaches_the_model():
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    async with offline() as (codex, model, _):
        model.say('{"n": 1}')
        thread = await codex.thread_start()
        await thread.run("count", output_schema=schema)
        assert model.requests[0].body["text"]["format"]["schema"] == schema


# -- steer and interrupt -------------------------------------------------------------------------------------------


async def test_a_steer_reaches_the_model_within_the_same_turn():
    async with offline() as (codex, model, _):
        model.hang("first")
        model.say("after the steer")
        thread = await codex.thread_start()
        async with thread.turn("start") as turn:
            async for piece in turn.text():
                if piece == "first":
                    await turn.steer("rather this")
                else:
                    assert piece == "after the steer"
        assert turn.result.status is TurnStatus.completed
        assert model.requests[1].last_user_text == "rather this"


async def test_an_interrupt_right_after_the_start_is_not_lost():
    async with offline() as (codex, model, _):
        model.default = Response(Text("never mind"))
        model.script("go", default=Response(Hang()))
        thread = await codex.thread_start()
        for _ in range(5):
            async with thread.turn("go") as turn:
                await turn.interrupt()
                result = await turn.wait()
            assert result.status is TurnStatus.interrupted
        assert (await thread.run("and now")).final_response == "never mind"


async def test_an_interrupted_turn_keeps_its_result_and_leaves_the_thread_usable():
    async with offline() as (codex, model, _):
        model.hang("partial")
        thread = await codex.thread_start()
        async with thread.turn("slow") as turn:
            async for _ in turn.text():
                await turn.interrupt()
        assert turn.result.status is TurnStatus.interrupted
        await model.requests[0].closed.wait()
        assert not model.requests[0].completed
        model.say("usable")
        assert (await thread.run("next")).final_response == "usable"


# -- cancelled by a Trio scope -------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["at the start", "in the middle", "at the end"])
async def test_a_turn_cancelled_by_its_scope_has_ended_on_the_server(moment):
    async with offline() as (codex, model, _):
        thread = await codex.thread_start()
        turns = []
        with trio.CancelScope() as scope:
            text = Text("something")
            model.script("go", default=Response(text) if moment == "at the end" else Response(text, Hang()))
            if moment == "at the start":
                scope.deadline = trio.current_time() + 0.001
            async with thread.turn("go") as turn:
                turns.append(turn)
                async for event in turn:
                    if moment == "in the middle" and event.method == "item/agentMessage/delta":
                        scope.cancel()
                    if moment == "at the end" and event.method == "turn/completed":
                        scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        if turns:
            expected = TurnStatus.completed if moment == "at the end" else TurnStatus.interrupted
            assert turns[0].result.status is expected
        model.say("usable")
        assert (await thread.run("next")).final_response == "usable"
        read = await codex.thread_read(thread.id)
        assert isinstance(read.status, wire.IdleThreadStatus)


async def test_exiting_a_channel_around_a_turn_early_ends_the_turn():
    @trio.as_safe_channel
    async def answer(thread, question):
        async with thread.turn(question) as turn:
            turns.append(turn)
            async for piece in turn.text():
                yield piece  # noqa: ASYNC119  # as_safe_channel makes this safe

    turns = []
    async with offline() as (codex, model, _):
        model.respond(Text("one, "), Hang())
        model.say("next")
        thread = await codex.thread_start()
        async with answer(thread, "Count.") as pieces:
            async for piece in pieces:
                assert piece == "one, "
                break
        assert turns[0].result.status is TurnStatus.interrupted
        assert (await thread.run("Go on.")).final_response == "next"


async def test_a_deadline_around_a_turn_keeps_the_partial_result():
    async with offline() as (codex, model, _):
        model.hang("partial")
        thread = await codex.thread_start()
        pieces = []
        with trio.move_on_after(0.5) as scope:
            async with thread.turn("slow") as turn:
                async for piece in turn.text():
                    pieces.append(piece)  # noqa: PERF401  # a comprehension would lose what came before the deadline
        assert scope.cancelled_caught
        assert pieces == ["partial"]
        assert turn.result.status is TurnStatus.interrupted


async def test_cancelling_a_turn_ends_its_command():
    async with offline(sandbox_mode="danger-full-access") as (codex, model, home):
        marker = f"{home.workspace}/started"
        model.run_command(f"touch {marker}; exec sleep 987")
        thread = await codex.thread_start(sandbox=Sandbox.full_access)
        with trio.CancelScope() as scope:
            async with thread.turn("run it") as turn:
                async for event in turn:
                    if event.method == "item/started" and event.raw["item"]["type"] == "commandExecution":
                        await until(lambda: Path(marker).exists())
                        assert running("sleep 987")
                        scope.cancel()
        assert turn.result.status is TurnStatus.interrupted
        await until(lambda: not running("sleep 987"))


async def test_cancelling_a_turn_ends_its_background_command_but_none_of_earlier_turns():
    async with offline(sandbox_mode="danger-full-access") as (codex, model, _):
        thread = await codex.thread_start(sandbox=Sandbox.full_access)
        model.respond(Command("exec sleep 981", yield_time_ms=250))
        model.say("it runs on")
        await thread.run("leave one behind")
        assert running("sleep 981")
        model.respond(Command("exec sleep 982", yield_time_ms=250))
        model.hang("thinking")
        with trio.CancelScope() as scope:
            async with thread.turn("and another") as turn:
                async for _ in turn.text():
                    assert running("sleep 982")
                    scope.cancel()
        await until(lambda: not running("sleep 982"))
        assert running("sleep 981")


async def test_a_background_command_of_an_interrupted_turn_runs_until_the_scope_exits():
    async with offline(sandbox_mode="danger-full-access") as (codex, model, _):
        thread = await codex.thread_start(sandbox=Sandbox.full_access)
        model.respond(Command("exec sleep 983", yield_time_ms=250))
        model.hang("thinking")
        async with thread.turn("start one") as turn:
            async for _ in turn.text():
                break
            await turn.interrupt()
            assert (await turn.wait()).status is TurnStatus.interrupted
            assert running("sleep 983")
        await until(lambda: not running("sleep 983"))


async def test_cancelling_a_turn_ends_its_agents():
    async with offline() as (codex, model, _):
        child = model.script("child work", default=Response(Text("the child says"), Hang()))
        parent = model.script("parent work")
        parent.respond(ToolCall("spawn_agent", {"message": "child work"}, namespace="multi_agent_v1"))
        parent.respond(Text("waiting for it"), Hang())
        thread = await codex.thread_start()
        ends = {}
        async with codex.events("turn/completed") as ended:
            with trio.CancelScope() as scope:
                async with (
                    thread.turn("parent work") as turn,
                    codex.events("item/agentMessage/delta") as deltas,
                ):
                    said = set()
                    async for event in deltas:
                        said.add(event.params.delta)
                        if said >= {"the child says", "waiting for it"}:
                            scope.cancel()
            assert len(turn.children) == 1
            while len(ends) < 2:
                event = await ended.__anext__()
                ends[event.params.thread_id] = event.params.turn.status
        assert ends == {thread.id: "interrupted", turn.children[0]: "interrupted"}
        assert child.left == 0
        assert [request.completed for request in model.requests] == [True, False, False]


# -- failures of the model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (
            lambda model: model.fail(429),
            wire.ResponseTooManyFailedAttemptsCodexErrorInfo(http_status_code=429),
        ),
        (lambda model: model.fail(500), wire.CodexErrorInfoValue.internal_server_error),
        (lambda model: model.fail_event("server_error", "it broke"), wire.CodexErrorInfoValue.other),
        (lambda model: model.cut("half"), wire.CodexErrorInfoValue.other),
    ],
    ids=["429", "500", "response.failed", "cut"],
)
async def test_a_model_failure_fails_the_turn_and_the_next_one_works(script, kind):
    async with offline() as (codex, model, _):
        thread = await codex.thread_start()
        script(model)
        with pytest.raises(errors.TurnFailed) as caught:
            await thread.run("fail")
        result = caught.value.result
        assert result.status is TurnStatus.failed
        assert result.error is not None
        assert result.error.codex_error_info == kind
        model.say("works")
        assert (await thread.run("again")).final_response == "works"


# -- the server's death --------------------------------------------------------------------------------------------


async def test_killing_the_server_during_a_turn_reports_the_cause_and_the_thread_can_be_resumed():
    with trio.fail_after(20):
        async with MockModel() as model:
            with offline_home(model) as home:
                config = home.config()
                async with open_codex(config) as codex:
                    thread = await codex.thread_start()
                    model.say("first")
                    await thread.run("one")
                    model.hang("partial")
                    start = trio.current_time()
                    with pytest.raises(errors.TurnLost) as caught:
                        async with thread.turn("two") as turn:
                            async for _ in turn.text():
                                start = trio.current_time()
                                os.kill(codex.pid, signal.SIGKILL)
                    assert trio.current_time() - start < 1
                    cause = caught.value.__cause__
                    assert isinstance(cause, errors.ServerExited)
                    assert (cause.returncode, cause.pid, cause.phase) == (
                        -signal.SIGKILL,
                        codex.pid,
                        "running",
                    )
                    with pytest.raises(errors.ServerExited):
                        await codex.models()
                    assert isinstance(await codex.wait_closed(), errors.ServerExited)
                async with open_codex(config) as codex:
                    thread = await codex.thread_resume(thread.id)
                    model.say("second")
                    assert (await thread.run("three")).final_response == "second"
                    texts = model.requests[-1].input_texts
                    assert [text for text in texts if text in ("one", "first", "three")] == [
                        "one",
                        "first",
                        "three",
                    ]


async def test_a_thread_is_resumed_in_a_new_process_with_its_history():
    with trio.fail_after(20):
        async with MockModel() as model:
            model.say("the first answer")
            model.say("the second answer")
            with offline_home(model) as home:
                config = home.config()
                async with open_codex(config) as codex:
                    thread = await codex.thread_start()
                    await thread.run("the first question")
                async with open_codex(config) as codex:
                    listed = await codex.thread_list()
                    assert [entry.id for entry in listed.data] == [thread.id]
                    resumed = await codex.thread_resume(thread.id)
                    assert resumed.id == thread.id
                    assert resumed.info.turns == []
                    await resumed.run("the second question")
                    fork = await codex.thread_fork(thread.id)
                    assert fork.id != thread.id
        assert "the first answer" in model.requests[1].input_texts


# -- approvals -----------------------------------------------------------------------------------------------------

DECISIONS = {"accepted": policies.accept(), "declined": policies.decline(), "cancelled": policies.cancel()}


@pytest.mark.parametrize("decision", DECISIONS)
async def test_a_command_approval(decision):
    asked = []

    async def decide(request):
        asked.append(request)
        return DECISIONS[decision]

    async with offline(approval_policy="on-request") as (codex, model, home):
        model.run_command("touch made.txt", escalate="may I?")
        model.say("done")
        thread = await codex.thread_start(policy=Policy(command=decide))
        result = await thread.run("make it")
        assert [request.reason for request in asked] == ["may I?"]
        assert "touch made.txt" in asked[0].command
        assert (home.workspace / "made.txt").exists() is (decision == "accepted")
        assert result.status == ("interrupted" if decision == "cancelled" else "completed")


@pytest.mark.parametrize("decision", DECISIONS)
async def test_a_patch_approval(decision):
    asked = []

    async def decide(request):
        asked.append(request)
        return DECISIONS[decision]

    async with offline(approval_policy="on-request") as (codex, model, home):
        model.apply_patch("*** Begin Patch\n*** Add File: new.txt\n+new line\n*** End Patch\n")
        model.say("done")
        thread = await codex.thread_start(policy=Policy(file_change=decide))
        result = await thread.run("patch it")
        assert [(Path(change.path).name, change.diff) for change in asked[0].changes] == [
            ("new.txt", "new line\n")
        ]
        assert (home.workspace / "new.txt").exists() is (decision == "accepted")
        assert result.status == ("interrupted" if decision == "cancelled" else "completed")
        if decision == "accepted":
            assert result.diff is not None
            assert "+new line" in result.diff


PATCH = """\
*** Begin Patch
*** Update File: kept.txt
@@
 one
-two
+2
*** Add File: new.txt
+new
*** Delete File: old.txt
*** End Patch
"""


@pytest.mark.usefixtures("needs_git")
@pytest.mark.parametrize("directory", [".", "below"])
async def test_a_patch_is_undone_with_its_diff_and_messages_with_a_rollback(directory):
    async with offline(sandbox_mode="workspace-write") as (codex, model, home):
        git_init(home.workspace)
        cwd = home.workspace / directory
        cwd.mkdir(exist_ok=True)
        before = {"kept.txt": "one\ntwo\n", "old.txt": "old\n"}
        for name, text in before.items():
            (cwd / name).write_text(text)

        def files():
            return {path.name: path.read_text() for path in cwd.iterdir() if path.is_file()}

        model.say("hello")
        model.apply_patch(PATCH)
        model.say("done")
        thread = await codex.thread_start(cwd=cwd)
        first = await thread.run("hello")
        result = await thread.run("patch it")
        assert files() == {"kept.txt": "one\n2\n", "new.txt": "new\n"}

        # Paths in the diff are relative to the root of the repository.
        async with codex.exec(["git", "apply", "--reverse"], cwd=home.workspace) as git:
            await git.stdin.send_all(result.diff.encode())
            await git.stdin.aclose()
            assert await git.wait() == 0
        assert files() == before
        await thread.revert(result.id)
        assert [turn.id async for turn in thread.turns()] == [first.id]
        model.say("hello again")
        await thread.run("and now?")
        assert "patch it" not in str(model.requests[-1].body)


@pytest.mark.usefixtures("needs_git")
async def test_the_diff_of_a_turn_contains_patches_but_not_writes_by_commands():
    async with offline(sandbox_mode="workspace-write") as (codex, model, home):
        git_init(home.workspace)
        model.run_command("echo text >written.txt")
        model.say("done")
        thread = await codex.thread_start()
        result = await thread.run("write it")
        assert (home.workspace / "written.txt").exists()
        assert result.diff is None


def git_init(directory):
    subprocess.run(["git", "init", "-q"], cwd=directory, check=True)


async def test_without_a_policy_a_command_is_denied(caplog):
    async with offline(approval_policy="on-request") as (codex, model, home):
        model.run_command("touch made.txt", escalate="may I?")
        model.say("done")
        thread = await codex.thread_start()
        result = await thread.run("make it")
        assert result.status is TurnStatus.completed
        assert not (home.workspace / "made.txt").exists()
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1
        assert "no policy" in warnings[0].getMessage()


async def test_other_requests_work_while_an_approval_is_pending():
    async with offline(approval_policy="on-request") as (codex, model, home):
        parked, release = trio.Event(), trio.Event()

        async def park(_):
            parked.set()
            await release.wait()
            return policies.accept()

        model.run_command("touch made.txt", escalate="may I?")
        model.say("done")
        thread = await codex.thread_start(policy=Policy(command=park))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, "make it")
            await parked.wait()
            for _ in range(10):
                assert (await codex.models()).data
            assert not (home.workspace / "made.txt").exists()
            release.set()
        assert (home.workspace / "made.txt").exists()


async def test_cancelling_a_turn_cancels_its_pending_policy_callback():
    async with offline(approval_policy="on-request") as (codex, model, home):
        outcome = []
        scope = trio.CancelScope()

        async def park(_):
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                outcome.append("cancelled")

        model.run_command("touch made.txt", escalate="may I?")
        thread = await codex.thread_start(policy=Policy(command=park))
        with scope:
            async with thread.turn("make it") as turn:
                await turn.wait()
        assert outcome == ["cancelled"]
        assert turn.result.status is TurnStatus.interrupted
        assert not (home.workspace / "made.txt").exists()


# -- helpers -------------------------------------------------------------------------------------------------------


def running(command):
    """Return whether a process with this command line is running."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip() == command:
                    return (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


async def until(condition):
    """Wait for a condition outside this program that no event announces."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_leaving_one_handle_does_not_affect_another_handle_of_the_thread():
    async with offline() as (codex, model, _):
        thread = await codex.thread_start()
        model.say("one")
        await thread.run("hello")
        async with await codex.thread_resume(thread.id):
            pass
        model.say("two")
        assert (await thread.run("again")).final_response == "two"


async def test_the_cwd_of_a_thread_follows_turns_and_settings(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    seen = []

    async def look(request):
        seen.append(request.cwd)
        return policies.decline()

    async with offline(approval_policy="on-request", policy=Policy(file_change=look)) as (codex, model, _):

        async def change(**options):
            model.apply_patch("*** Begin Patch\n*** Add File: made.txt\n+now\n*** End Patch\n")
            model.say("done")
            await thread.run("make it", **options)

        thread = await codex.thread_start(cwd=one, sandbox="read-only")
        await change()
        await change(cwd=other)
        await thread.update_settings(cwd=one)
        await change()
    assert seen == [str(one), str(other), str(one)]
