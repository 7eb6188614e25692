"""Remote commands as scopes on a scripted server: start, streams, and every way they end."""

from base64 import b64decode, b64encode
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from trio_codex import CodexConfig, EventBuffer, Sandbox, errors
from trio_codex.testing import fake_codex

GONE = "no active command/exec for process id"


@asynccontextmanager
async def scripted(config=None, **options):
    with trio.fail_after(5):
        async with fake_codex(config, **options) as both:
            yield both


async def accept(server):
    """Let a command start, and return its request."""
    command = await server.expect("command/exec")
    probe = await server.expect("command/exec/write")
    assert probe.params["processId"] == command.params["processId"]
    await probe.answer({})
    return command


async def exit_with(command, status=0):
    await command.answer({"exitCode": status, "stdout": "", "stderr": ""})


async def output(server, command, data, stream="stdout"):
    await server.notify(
        "command/exec/outputDelta",
        {
            "processId": command.params["processId"],
            "stream": stream,
            "deltaBase64": b64encode(data).decode(),
            "capReached": False,
        },
    )


@asynccontextmanager
async def running(codex, server, *args, **options):
    """Yield a started command, and its request."""
    commands = []

    async def start():
        commands.append(await accept(server))

    async with AsyncExitStack() as stack:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            process = await stack.enter_async_context(codex.exec(*args, **options))
        yield process, commands[0]


# -- start ---------------------------------------------------------------------------------------------------------


async def test_the_request_sets_no_limits_by_default():
    async with scripted() as (codex, server):
        options = {"cwd": "/somewhere", "env": {"A": "b", "HOME": None}, "sandbox": Sandbox.read_only}
        async with running(codex, server, ["git", "log"], **options) as (process, command):
            params = command.params
            assert params.pop("processId") in repr(process)
            assert params == {
                "command": ["git", "log"],
                "cwd": "/somewhere",
                "env": {"A": "b", "HOME": None},
                "sandboxPolicy": {"type": "readOnly", "networkAccess": False},
                "disableOutputCap": True,
                "disableTimeout": True,
                "streamStdin": True,
                "streamStdoutStderr": True,
                "tty": False,
            }
            await exit_with(command)
            await process.wait()


async def test_a_command_line_in_place_of_a_list_is_rejected():
    async with scripted() as (codex, _):
        with pytest.raises(TypeError, match="expected a list of strings"):
            codex.exec("ls -l")


async def test_a_refused_start_raises_without_running_the_body():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.InternalRpcError, match="failed to spawn"):
                async with codex.exec(["nope"]):
                    pytest.fail("the body must not run")

        command = await server.expect("command/exec")
        await (await server.expect("command/exec/write")).refuse(GONE)
        await trio.testing.wait_all_tasks_blocked()
        await command.refuse("failed to spawn command", -32603)
    assert server.unexpected() == []


async def test_a_command_may_end_before_its_start_is_confirmed():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with codex.exec(["true"]) as process:
                assert await process.wait() == 0
                assert await process.stdout.receive_some() == b"done"

        command = await server.expect("command/exec")
        probe = await server.expect("command/exec/write")
        await output(server, command, b"done")
        await exit_with(command)
        await probe.refuse(GONE)
    assert server.unexpected() == []


async def test_an_unanswered_goal_start_times_out():
    config = CodexConfig(request_timeout=0.05)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.RequestTimeout) as caught:
                async with codex.exec(["true"]):
                    pytest.fail("the body must not run")
            assert caught.value.method == "command/exec"

        command = await server.expect("command/exec")
        await server.expect("command/exec/write")
        await (await server.expect("command/exec/terminate")).answer({})
        await exit_with(command, 137)


async def test_a_cancelled_start_ends_the_command():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        @nursery.start_soon
        async def _():
            with scope:
                async with codex.exec(["sleep"]):
                    pytest.fail("the body must not run")

        command = await server.expect("command/exec")
        await server.expect("command/exec/write")
        scope.cancel()
        terminate = await server.expect("command/exec/terminate")
        assert terminate.params == {"processId": command.params["processId"]}
        await terminate.answer({})
        await trio.testing.wait_all_tasks_blocked()
        assert not scope.cancelled_caught
        await exit_with(command, 137)
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught


OVERLOADED = ("Server overloaded; retry later.", -32001)


async def test_a_command_refused_for_overload_starts_although_the_write_behind_it_was_taken(autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        started = trio.Event()

        @nursery.start_soon
        async def _():
            async with codex.exec(["cat"], stdin=True) as process:
                started.set()
                assert await process.wait() == 0

        for _ in range(3):
            command = await server.expect("command/exec")
            probe = await server.expect("command/exec/write")
            await command.refuse(*OVERLOADED)
            await probe.refuse(GONE)
        command = await accept(server)
        await started.wait()
        await exit_with(command)
    assert server.unexpected() == []


async def test_a_command_refused_for_overload_until_its_timeout_raises_the_refusal(autojump_clock):
    async with scripted(CodexConfig(request_timeout=2)) as (codex, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.ServerBusyError):
                async with codex.exec(["cat"]):
                    pytest.fail("the body must not run")
            nursery.cancel_scope.cancel()

        while True:
            asked = await server.expect_any()
            await (asked.refuse(*OVERLOADED) if asked.method == "command/exec" else asked.refuse(GONE))


async def test_a_command_that_was_left_is_not_sent_again_after_a_refusal(autojump_clock):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        scope, left = trio.CancelScope(), trio.Event()

        @nursery.start_soon
        async def _():
            with scope:
                async with codex.exec(["sleep"]):
                    pytest.fail("the body must not run")
            left.set()

        command = await server.expect("command/exec")
        await server.expect("command/exec/write")
        scope.cancel()
        await (await server.expect("command/exec/terminate")).refuse(GONE)
        await command.refuse(*OVERLOADED)
        await left.wait()
        await trio.sleep(1)
        assert server.unexpected() == []
        assert codex.is_open


async def test_a_body_that_is_already_cancelled_sends_nothing():
    async with scripted() as (codex, server):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with codex.exec(["sleep"]):
                pytest.fail("the body must not run")
        assert scope.cancelled_caught
        assert server.unexpected() == []


async def test_only_a_terminal_has_a_size():
    async with scripted() as (codex, _):
        with pytest.raises(ValueError, match="size requires tty=True"):
            codex.exec(["sh"], size=(80, 24))


# -- streams -------------------------------------------------------------------------------------------------------


async def test_both_outputs_are_distinguished_and_end_with_the_process():
    async with scripted() as (codex, server), running(codex, server, ["x"]) as (process, command):
        await output(server, command, b"out")
        await output(server, command, b"err", "stderr")
        await exit_with(command, 3)
        assert await process.wait() == 3
        assert process.returncode == 3
        assert [piece async for piece in process.stdout] == [b"out"]
        assert [piece async for piece in process.stderr] == [b"err"]


async def test_two_commands_are_distinguished():
    async with (
        scripted() as (codex, server),
        running(codex, server, ["a"]) as (one, first),
        running(codex, server, ["b"]) as (two, second),
    ):
        await output(server, second, b"second")
        await output(server, first, b"first")
        assert (await one.stdout.receive_some(), await two.stdout.receive_some()) == (b"first", b"second")
        await exit_with(second, 2)
        assert await two.wait() == 2
        assert one.returncode is None
        await exit_with(first, 1)
        assert await one.wait() == 1


async def test_output_of_an_ended_command_is_dropped():
    async with scripted() as (codex, server):
        async with running(codex, server, ["a"]) as (process, command):
            await exit_with(command)
            await process.wait()
        server.give("model/list", {"data": []})
        await output(server, command, b"late")
        await codex.models()
        async with codex.events() as events:
            await server.notify("warning", {"message": "first heard"})
            assert (await events.__anext__()).method == "warning"


async def test_input_and_its_end_are_written():
    async with scripted() as (codex, server), running(codex, server, ["cat"]) as (process, command):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.stdin.send_all, b"hello")
            write = await server.expect("command/exec/write")
            assert b64decode(write.params["deltaBase64"]) == b"hello"
            await trio.testing.wait_all_tasks_blocked()
            await write.answer({})
        await process.stdin.aclose()
        assert (await server.expect("command/exec/write")).params["closeStdin"] is True
        await exit_with(command)
        await process.wait()


async def test_without_input_stdin_is_closed_at_the_start():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with codex.exec(["cat"], stdin=False) as process:
                await process.wait()

        command = await server.expect("command/exec")
        close = await server.expect("command/exec/write")
        assert close.params == {"processId": command.params["processId"], "closeStdin": True}
        await close.answer({})
        await exit_with(command)


async def test_a_terminal_has_one_output_and_a_size():
    options = {"tty": True, "size": (100, 30)}
    async with scripted() as (codex, server), running(codex, server, ["sh"], **options) as (process, command):
        assert command.params["tty"] is True
        assert command.params["size"] == {"cols": 100, "rows": 30}
        assert process.stderr is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.resize, 80, 20)
            resize = await server.expect("command/exec/resize")
            assert resize.params["size"] == {"cols": 80, "rows": 20}
            await resize.answer({})
        await exit_with(command)
        await process.wait()


async def test_output_over_the_limit_breaks_only_its_stream():
    config = CodexConfig(event_buffer=EventBuffer(size=10))
    async with scripted(config) as (codex, server), running(codex, server, ["x"]) as (process, command):
        await output(server, command, b"x" * 8)
        await output(server, command, b"y" * 8)
        await output(server, command, b"z")
        await output(server, command, b"err", "stderr")
        await exit_with(command)
        assert await process.wait() == 0
        assert await process.stdout.receive_some() == b"x" * 8
        with pytest.raises(trio.BrokenResourceError) as caught:
            await process.stdout.receive_some()
        assert isinstance(caught.value.__cause__, errors.SubscriptionOverflow)
        assert [piece async for piece in process.stderr] == [b"err"]


async def test_invalid_output_breaks_its_stream():
    async with scripted() as (codex, server), running(codex, server, ["x"]) as (process, command):
        await output(server, command, b"whole")
        await server.notify(
            "command/exec/outputDelta", {**command.params, "deltaBase64": "?", "stream": "stdout"}
        )
        assert await process.stdout.receive_some() == b"whole"
        with pytest.raises(trio.BrokenResourceError) as caught:
            await process.stdout.receive_some()
        assert isinstance(caught.value.__cause__, errors.DecodeError)
        await exit_with(command)
        assert await process.wait() == 0


# -- end -----------------------------------------------------------------------------------------------------------


async def test_leaving_early_terminates_the_command_and_waits_for_its_end():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        left = trio.Event()

        @nursery.start_soon
        async def _():
            async with codex.exec(["sleep"]) as process:
                pass
            assert process.returncode == 137
            left.set()

        command = await accept(server)
        await (await server.expect("command/exec/terminate")).answer({})
        await trio.testing.wait_all_tasks_blocked()
        assert not left.is_set(), "an accepted request does not prove the end"
        await exit_with(command, 137)
        await left.wait()
    assert server.unexpected() == []


@pytest.mark.parametrize("verb", ["terminate", "kill"])
async def test_terminating_a_command_that_has_just_ended_is_not_an_error(verb):
    async with scripted() as (codex, server), running(codex, server, ["x"]) as (process, command):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(getattr(process, verb))
            await (await server.expect("command/exec/terminate")).refuse(GONE)
            await exit_with(command, 5)
        assert await process.wait() == 5
        await getattr(process, verb)()
    assert server.unexpected() == []


async def test_the_end_of_the_connection_fails_everything_with_its_cause():
    async with scripted() as (codex, server):
        with pytest.raises(errors.ConnectionBroken):
            async with running(codex, server, ["x"]) as (process, command):
                await output(server, command, b"last")
                await server.hang_up()
                with pytest.raises(errors.ConnectionBroken):
                    await process.wait()
                assert await process.stdout.receive_some() == b"last"
                for stream in (process.stdout, process.stderr):
                    with pytest.raises(trio.BrokenResourceError) as caught:
                        await stream.receive_some()
                    assert isinstance(caught.value.__cause__, errors.ConnectionBroken)
                with pytest.raises(trio.BrokenResourceError):
                    await process.stdin.send_all(b"x")
                assert process.returncode is None


async def test_exceptions_from_the_body_propagate_unchanged():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(ZeroDivisionError):
                async with codex.exec(["x"]):
                    raise ZeroDivisionError

        command = await accept(server)
        await (await server.expect("command/exec/terminate")).answer({})
        await exit_with(command, 137)


async def test_a_command_that_does_not_end_is_abandoned_with_its_server():
    config = CodexConfig(interrupt_grace=0.05)
    async with scripted(config, strict=False) as (codex, server):
        with pytest.raises(errors.ConnectionBroken, match="process-1"):
            async with running(codex, server, ["x"]):
                pass
        with pytest.raises(errors.ConnectionBroken, match="process-1"):
            await codex.models()


async def test_an_abandoned_command_is_reported_and_its_server_survives():
    config = CodexConfig(interrupt_grace=0.05, on_stuck_turn="abandon")
    async with scripted(config, strict=False) as (codex, server):
        with pytest.raises(errors.RequestTimeout) as caught:
            async with running(codex, server, ["x"]) as (process, command):
                pass
        assert caught.value.method == "command/exec/terminate"
        with pytest.raises(errors.RequestTimeout):
            await process.wait()
        await exit_with(command)
        server.give("model/list", {"data": []})
        await codex.models()
