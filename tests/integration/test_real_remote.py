"""The real server: commands, file watches, goals, reviews, compaction and shell commands as scopes."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from real import offline

from trio_codex import CodexConfig, EventBuffer, Sandbox, TurnStatus, errors, wire
from trio_codex.testing import Command, Failed, Hang, Response, Text, ToolCall

pytestmark = pytest.mark.real

FULL = Sandbox.full_access


def seconds(number):
    """Return a duration to sleep that no other test run on this machine uses."""
    return f"{number}.{os.getpid()}"


def sleeping(number):
    command = f"sleep\0{seconds(number)}\0".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has just ended
            if path.read_bytes() == command:
                return True
    return False


async def until(condition):
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # other processes send no event
            await trio.sleep(0.02)


# -- commands ------------------------------------------------------------------------------------------------------


async def test_a_command_receives_stdin_and_returns_both_outputs_and_its_exit_status():
    async with offline() as (codex, _, home):
        async with codex.exec(["sh", "-c", "cat; echo oops >&2; pwd; exit 3"]) as process:
            await process.stdin.send_all(b"in ")
            await process.stdin.aclose()
            assert await process.wait() == 3
            stdout = b"".join([piece async for piece in process.stdout])
            stderr = b"".join([piece async for piece in process.stderr])
        assert stdout == f"in {home.workspace}\n".encode()
        assert stderr == b"oops\n"


async def test_a_command_runs_with_the_given_environment_and_directory():
    async with offline() as (codex, _, home):
        (home.workspace / "below").mkdir()
        options = {"env": {"GREETING": "hi", "LANG": None}, "cwd": "below", "stdin": False, "sandbox": FULL}
        async with codex.exec(["sh", "-c", "echo $GREETING $LANG; pwd; cat"], **options) as process:
            assert await process.wait() == 0
            assert await process.stdout.receive_some() == f"hi\n{home.workspace}/below\n".encode()


async def test_a_command_runs_in_its_sandbox():
    async with offline() as (codex, _, home):
        for sandbox, status in ((Sandbox.read_only, 1), (FULL, 0)):
            async with codex.exec(["touch", "made"], sandbox=sandbox) as process:
                assert await process.wait() == status
        assert (home.workspace / "made").exists()


async def test_starting_a_missing_program_raises():
    async with offline() as (codex, _, _home):
        with pytest.raises(errors.InternalRpcError, match="failed to spawn"):
            async with codex.exec(["no-such-program"], sandbox=FULL):
                pytest.fail("the body must not run")


async def test_a_command_may_end_immediately():
    async with offline() as (codex, _, _home):
        for _ in range(10):
            async with codex.exec(["true"], sandbox=FULL) as process:
                assert await process.wait() == 0


async def test_a_terminal_takes_input_and_can_be_resized():
    async with offline() as (codex, _, _home):
        script = "stty size; read line; stty size; echo [$line]"
        async with codex.exec(["sh", "-c", script], tty=True, size=(100, 30)) as process:
            assert await process.stdout.receive_some() == b"30 100\r\n"
            await process.resize(80, 24)
            await process.stdin.send_all(b"typed\n")
            assert await process.wait() == 0
            printed = b"".join([piece async for piece in process.stdout])
        assert printed.endswith(b"24 80\r\n[typed]\r\n")


async def test_leaving_a_command_ends_its_children_except_in_another_session():
    async with offline() as (codex, _, _home):
        with trio.CancelScope() as scope:
            first, escaped, last = map(seconds, (971, 972, 973))
            script = f"sleep {first} & setsid sleep {escaped} >/dev/null 2>&1 & echo up; exec sleep {last}"
            async with codex.exec(["sh", "-c", script], sandbox=FULL) as process:
                await process.stdout.receive_some()
                await until(lambda: all(sleeping(n) for n in (971, 972, 973)))
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert process.returncode == 137
        await until(lambda: not sleeping(971) and not sleeping(973))
        assert sleeping(972), "the child in another session"
    await until(lambda: not sleeping(972))


async def test_64_open_commands_all_end_although_the_request_window_is_smaller():
    async with offline(CodexConfig(request_window=64)) as (codex, _, _home):
        processes = []
        all_open = trio.Event()

        async def one():
            async with codex.exec(["sh", "-c", f"echo up; exec sleep {seconds(974)}"]) as process:
                # A command that is killed right after its start may be left running by the server (Q60).
                await process.stdout.receive_some()
                processes.append(process)
                if len(processes) == 64:
                    all_open.set()
                await all_open.wait()
                await codex.models()

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(one)
        assert {process.returncode for process in processes} == {137}
        # The sandbox exits first; the kernel kills the processes inside it a moment later.
        await until(lambda: not sleeping(974))


async def test_megabytes_cross_in_both_directions():
    size = 8_000_000
    async with offline() as (codex, _, _home), codex.exec(["cat"]) as process, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            await process.stdin.send_all(bytes(size))
            await process.stdin.aclose()

        received = 0
        async for piece in process.stdout:
            received += len(piece)
        assert received == size
        assert await process.wait() == 0


async def test_unread_output_is_bounded_and_does_not_block_the_client():
    async with (
        offline(CodexConfig(event_buffer=EventBuffer(size=100_000))) as (codex, _, _home),
        codex.exec(["head", "-c", "5000000", "/dev/zero"]) as process,
    ):
        assert await process.wait() == 0
        kept = 0
        with pytest.raises(trio.BrokenResourceError) as caught:
            async for piece in process.stdout:
                kept += len(piece)
        # The chunk that did not fit is no larger than one read by the server.
        assert 100_000 - 65_536 < kept <= 100_000
        assert isinstance(caught.value.__cause__, errors.SubscriptionOverflow)


async def test_a_command_with_a_full_input_queue_ends_only_with_its_server():
    # While the input queue is full, the server does not accept the request to end the command (Q51).
    async with offline(CodexConfig(interrupt_grace=0.5)) as (codex, _, _home):
        with pytest.raises(errors.ConnectionBroken, match="interrupt_grace"):
            async with codex.exec(["sleep", seconds(975)]) as process:
                with trio.move_on_after(1) as scope:
                    for _ in range(200):
                        await process.stdin.send_all(b"x" * 1000)
                assert scope.cancelled_caught
        assert isinstance(await codex.wait_closed(), errors.ConnectionBroken)
    await until(lambda: not sleeping(975))


# -- watches -------------------------------------------------------------------------------------------------------


async def test_watches_report_their_own_changes_and_stop_with_their_scopes():
    async with offline() as (codex, _, home):
        file = home.workspace / "file"
        async with codex.watch(".") as directory, codex.watch(file) as single:
            file.write_text("made")
            (home.workspace / "other").write_text("made")
            seen = set()
            while len(seen) < 2:
                seen |= set(await directory.__anext__())
            assert seen == {str(file), str(home.workspace / "other")}
            assert await single.__anext__() == (str(file),)
            file.unlink()
            assert await single.__anext__() == (str(file),)
        async with codex.events("fs/changed") as events, codex.watch(home.codex_home / "a") as last:
            file.write_text("again")
            (home.codex_home / "a").write_text("made")
            await last.__anext__()
            assert (await events.__anext__()).params.changed_paths == [str(home.codex_home / "a")]


# -- goals ---------------------------------------------------------------------------------------------------------


async def goal_on_server(thread):
    return (await thread._session.server.request("thread/goal/get", {"threadId": thread.id})).goal


async def test_a_goal_starts_turns_until_it_is_reached():
    async with offline() as (codex, model, _):
        model.say("begun")
        model.say("half way")
        model.respond(ToolCall("update_goal", {"status": "complete"}))
        model.say("reached")
        thread = await codex.thread_start()
        async with thread.goal("reach it") as goal:
            assert [text async for text in goal.text()] == ["begun", "half way", "reached"]
        assert goal.result.status is wire.ThreadGoalStatus.complete
        assert [turn.final_response for turn in goal.result.turns] == ["begun", "half way", "reached"]
        assert goal.result.goal.tokens_used > 0
        assert "reach it" in model.requests[0].last_user_text
        model.say("usable")
        assert (await thread.run("next")).final_response == "usable"


async def test_leaving_a_goal_early_pauses_it_and_ends_its_turn():
    async with offline() as (codex, model, _):
        model.say("begun")
        model.hang("going on")
        thread = await codex.thread_start()
        with trio.CancelScope() as scope:
            async with thread.goal("reach it") as goal:
                async for text in goal.text():
                    if text == "going on":
                        scope.cancel()
        assert [turn.status for turn in goal.turns] == [TurnStatus.completed, TurnStatus.interrupted]
        assert goal.result.status is wire.ThreadGoalStatus.paused
        assert (await goal_on_server(thread)).status is wire.ThreadGoalStatus.paused
        model.say("usable")
        assert (await thread.run("next")).final_response == "usable"


async def test_a_goal_left_between_two_turns_starts_no_more_turns():
    # If a goal is paused between turns, the server starts one more (Q52).
    async with offline() as (codex, model, _):
        model.default = Response(Text("again"))
        thread = await codex.thread_start()
        for _ in range(5):
            async with thread.goal("reach it") as goal:
                async for event in goal:
                    if event.method == "turn/completed":
                        break
            asked = len(model.requests)
            assert (await thread.run("next")).final_response == "again"
            assert len(model.requests) == asked + 1, "no turn was running to be ended"


async def test_steering_a_goal_reaches_its_running_turn():
    async with offline() as (codex, model, _):
        model.say("begun")
        model.hang("second")
        model.respond(ToolCall("update_goal", {"status": "complete"}))
        model.say("that way it is")
        thread = await codex.thread_start()
        async with thread.goal("reach it") as goal:
            async for text in goal.text():
                if text == "second":
                    await goal.steer("that way")
        assert goal.result.final_response == "that way it is"
        assert model.requests[2].last_user_text == "that way"
        with pytest.raises(errors.InvalidRequestError):
            await goal.steer("too late")


async def test_after_interrupting_a_goal_its_thread_stays_usable():
    async with offline() as (codex, model, _):
        model.hang("begun")
        thread = await codex.thread_start()
        async with thread.goal("reach it") as goal:
            async for _ in goal.text():
                await goal.interrupt()
            assert (await goal.wait()).status is wire.ThreadGoalStatus.paused
        model.say("usable")
        assert (await thread.run("next")).final_response == "usable"


@pytest.mark.parametrize(
    ("failure", "status"), [("insufficient_quota", "usageLimited"), ("server_error", "blocked")]
)
async def test_a_failing_model_ends_the_goal_and_a_new_goal_starts_from_scratch(failure, status):
    async with offline() as (codex, model, _):
        model.respond(Failed(failure))
        thread = await codex.thread_start()
        async with thread.goal("reach it") as goal:
            result = await goal.wait()
        assert (result.status, result.turns[-1].status) == (status, TurnStatus.failed)
        model.default = Response(Text("working"))
        async with thread.goal("reach it after all", token_budget=20) as goal:
            result = await goal.wait()
        assert (result.status, len(result.turns)) == ("budgetLimited", 2)


async def test_an_ephemeral_thread_refuses_goals_and_stays_usable():
    async with offline() as (codex, model, _):
        thread = await codex.thread_start(ephemeral=True)
        with pytest.raises(errors.InvalidRequestError):
            async with thread.goal("reach it"):
                pytest.fail("the body must not run")
        model.say("usable")
        assert (await thread.run("next")).final_response == "usable"


# -- reviews, compaction -------------------------------------------------------------------------------------------


async def test_a_review_returns_its_text_and_refuses_to_be_steered():
    async with offline() as (codex, model, _):
        gate = model.gate()
        model.say("It is fine.")
        thread = await codex.thread_start()
        async with thread.review("the tests") as turn:
            async for event in turn:
                if event.method == "turn/started":
                    with pytest.raises(errors.InvalidRequestError) as caught:
                        await turn.steer("look closer")
                    assert "activeTurnNotSteerable" in caught.value.data["codexErrorInfo"]
                    gate.open()
        assert turn.result.final_response == "It is fine."
        assert model.requests[0].last_user_text == "the tests"


async def test_leaving_a_review_early_ends_it():
    async with offline() as (codex, model, _):
        model.hang("partial")
        thread = await codex.thread_start()
        async with thread.review("the tests") as turn:
            await model.wait_for_requests(1)
        assert turn.result.status is TurnStatus.interrupted
        model.say("usable")
        assert (await thread.run("next")).final_response == "usable"


async def test_a_review_started_by_a_plain_request_frees_its_thread_when_it_ends():
    async with offline() as (codex, model, _):
        model.say("It is fine.")
        thread = await codex.thread_start()
        async with codex.events("turn/completed") as ended:
            target = wire.CustomReviewTarget(instructions="the tests")
            await codex.api.review.start(thread_id=thread.id, target=target)
            await ended.__anext__()
        model.say("usable")
        assert (await thread.run("next")).final_response == "usable"


async def test_a_compaction_is_awaited_and_cancelling_ends_it():
    async with offline() as (codex, model, _):
        thread = await codex.thread_start()
        model.say("much")
        await thread.run("talk")
        model.say("in short")
        result = await thread.compact()
        assert result.status is TurnStatus.completed
        assert [type(item) for item in result.items] == [wire.ContextCompactionThreadItem]
        model.hang("never")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.compact)
            await model.wait_for_requests(3)
            nursery.cancel_scope.cancel()
        model.say("usable")
        assert (await thread.run("next")).final_response == "usable"


# -- shell commands, background terminals --------------------------------------------------------------------------


async def test_a_shell_command_runs_unsandboxed_and_cancelling_ends_it():
    async with offline() as (codex, _, home):
        thread = await codex.thread_start(sandbox=Sandbox.read_only)
        item = await thread.shell_command("echo out > made && cat made | tr o O; exit 3")
        assert (item.exit_code, item.aggregated_output) == (3, "Out\n")
        assert (home.workspace / "made").read_text() == "out\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.shell_command, f"exec sleep {seconds(976)}")
            await until(lambda: sleeping(976))
            nursery.cancel_scope.cancel()
        await until(lambda: not sleeping(976))


async def test_a_shell_command_during_a_turn_becomes_one_of_its_items():
    async with offline() as (codex, model, _):
        model.hang("thinking")
        thread = await codex.thread_start()
        async with thread.turn("think") as turn:
            async for _ in turn.text():
                item = await thread.shell_command("echo inside")
                assert item.aggregated_output == "inside\n"
                break
        ids = [each.id for each in turn.result.items if isinstance(each, wire.CommandExecutionThreadItem)]
        assert ids == [item.id]
        assert turn.result.status is TurnStatus.interrupted


async def test_concurrent_shell_commands_each_return_their_own_output():
    async with offline() as (codex, _, _home):
        thread = await codex.thread_start()
        outputs = {}

        async def run(word):
            outputs[word] = (await thread.shell_command(f"sleep 0.1; echo {word}")).aggregated_output

        async with trio.open_nursery() as nursery:
            for word in ("one", "two", "three"):
                nursery.start_soon(run, word)
        assert outputs == {"one": "one\n", "two": "two\n", "three": "three\n"}


async def test_background_terminals_can_be_listed_and_ended():
    async with offline() as (codex, model, _):
        thread = await codex.thread_start(sandbox=FULL)
        for number in (977, 978, 979):
            model.respond(Command(f"exec sleep {seconds(number)}", yield_time_ms=250))
        model.respond(Text("they run"), Hang())
        model.default = Response(Text("they run"))
        async with thread.turn("start them") as turn:
            async for _ in turn.text():
                terminals = await thread.terminals.list()
                ids = {
                    terminal.command.strip("'\"").split()[-1]: terminal.process_id for terminal in terminals
                }
                assert set(ids) == {seconds(number) for number in (977, 978, 979)}
                assert await thread.terminals.terminate(ids[seconds(977)])
                await until(lambda: not sleeping(977))
                assert sleeping(978)
                await thread.terminals.clean()
                break
        await until(lambda: not sleeping(978) and not sleeping(979))
        assert await thread.terminals.list() == ()
