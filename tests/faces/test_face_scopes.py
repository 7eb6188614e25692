"""Leaving a scope of a face always waits until its cleanup in Trio is done, and ends everything inside it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from face_drivers import FACES, press_ctrl_c_when

import trio_codex
from trio_codex import CodexConfig, aio, blocking, errors, policies

BLOCKING, AIO = FACES

every_face = pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)


class Log:
    """A scope that takes a while to end, and records when it has ended."""

    def __init__(self):
        self.entered = self.exited = 0

    @asynccontextmanager
    async def scope(self):
        self.entered += 1
        try:
            await trio.lowlevel.checkpoint()
            yield self
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.001)
            self.exited += 1


def open_bare(face, make):
    return face.module._face.FACE.scope(make, None)


async def sleep(face, host, seconds):
    """Sleep in Trio, through the face."""
    value = face.module._face.FACE.call(host, trio.sleep, (seconds,), {})
    return value if value is None else await value


# -- failing bodies ---------------------------------------------------------------------------------------------


@every_face
def test_an_exception_in_the_body_propagates_unchanged_after_the_scope_has_ended(face):
    log = Log()
    error = ValueError("of the body")

    def enter():
        with open_bare(face, log.scope):
            raise error

    async def enter_async():
        async with open_bare(face, log.scope):
            raise error

    with pytest.raises(ValueError, match="of the body") as caught:
        enter() if face is BLOCKING else asyncio.run(enter_async())
    assert caught.value is error
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    assert not [name for name in files if Path(trio_codex.__file__).parent in Path(name).parents]
    assert (log.entered, log.exited) == (1, 1)


@every_face
def test_a_failure_to_enter_propagates_unchanged_and_ends_the_thread(face):
    @asynccontextmanager
    async def failing():
        await trio.lowlevel.checkpoint()
        raise LookupError("no")
        yield

    async def test():
        async with open_bare(face, failing):
            raise AssertionError

    with pytest.raises(LookupError, match="no"):
        asyncio.run(test()) if face is AIO else open_bare(face, failing).__enter__()


@every_face
@pytest.mark.real
def test_a_failing_policy_cancels_the_call_in_the_body(face):
    def fail(_):
        raise ValueError("of the policy")

    async def test():
        async with face.offline(policy=face.module.Policy(command=fail), approval_policy="on-request") as (
            codex,
            model,
            _,
        ):
            model.run_command("df -h", escalate="to see")
            thread = await codex.thread_start()
            with pytest.raises(errors.PolicyError, match="of the policy"):
                async with thread.turn("go") as turn:
                    await codex.wait_closed()
            assert turn.result.status == "interrupted"

    face.run(test)


@pytest.mark.real
def test_a_failing_policy_cancels_the_task_of_the_body_wherever_it_waits():
    async def fail(_):
        raise ValueError("of the policy")

    async def test():
        policy = aio.Policy(command=fail)
        async with AIO.offline(policy=policy, approval_policy="on-request") as (codex, model, _):
            model.run_command("df -h", escalate="to see")
            thread = await codex.thread_start()
            with pytest.raises(errors.PolicyError, match="of the policy"):
                async with thread.turn("go"):
                    await asyncio.sleep(20)
            assert asyncio.current_task().cancelling() == 0

    AIO.run(test)


# -- cancellation and interrupts -----------------------------------------------------------------------------------


def test_a_cancelled_task_continues_only_after_its_scope_has_ended():
    log = Log()

    async def body(host):
        async with AIO.module._face.AsyncioScope(log.scope, host):
            await asyncio.sleep(20)

    async def test():
        async with (kept := open_bare(AIO, Log().scope)):
            task = asyncio.create_task(body(kept.host))
            while not log.entered:  # noqa: ASYNC110  # it is set in another thread
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            task.cancel("the first")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel("the second")
            with pytest.raises(asyncio.CancelledError, match="the first"):
                await task
            assert log.exited == 1

    AIO.run(test)


def test_an_asyncio_timeout_ends_the_operation_in_trio():
    log = Log()

    async def test():
        scope = open_bare(AIO, log.scope)
        async with scope:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await sleep(AIO, scope.host, 20)
            assert log.exited == 0
        assert log.exited == 1

    AIO.run(test)


def test_shutting_down_an_event_loop_exits_the_scopes_of_its_tasks():
    log = Log()

    async def body():
        async with open_bare(AIO, log.scope):
            await asyncio.sleep(20)

    async def test():
        task = asyncio.create_task(body())
        while not log.entered:  # noqa: ASYNC110  # it is set in another thread
            await asyncio.sleep(0.001)
        return task

    assert asyncio.run(test()).cancelled()
    assert log.exited == 1


def interrupt_scopes(attack, times):
    """Interrupt nested scopes. The caller must not continue before the scopes it has entered have ended."""
    outer, inner = Log(), Log()
    seen = 0

    def use(scope):
        with BLOCKING.module._face.BlockingScope(inner.scope, scope.host):
            BLOCKING.module._face.FACE.call(scope.host, trio.sleep, (0.001,), {})

    def use_new():
        with (scope := open_bare(BLOCKING, outer.scope)):
            use(scope)

    with (kept := open_bare(BLOCKING, outer.scope)):
        for number in range(times):
            seen += attack(use_new if number % 5 == 0 else lambda: use(kept))
            assert inner.entered == inner.exited, (
                f"continued before the scope ended, after {number} interrupts"
            )
            assert outer.entered == outer.exited + 1
    assert seen > times / 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_ctrl_c_the_caller_never_continues_before_the_scope_has_ended(attack):
    interrupt_scopes(attack, 150)


@pytest.mark.long
def test_the_caller_waits_for_the_scope_in_each_of_five_thousand_interrupts(attack):
    interrupt_scopes(attack, 5000)


@pytest.mark.real
def test_ctrl_c_while_waiting_for_a_turn_interrupts_it_on_the_server():
    with BLOCKING.open() as (codex, model, _):
        model.hang("working")
        entered = threading.Event()
        pressing = press_ctrl_c_when(lambda: entered.is_set() and model.requests)
        with pytest.raises(KeyboardInterrupt), codex.thread_start().turn("go on") as turn:
            entered.set()
            turn.wait()
        pressing.join()
        assert turn.result.status == "interrupted"
        model.say("usable")
        assert codex.thread_start().run("next").final_response == "usable"


def test_a_handle_returned_by_an_interrupted_call_is_closed():
    """The caller never receives the handle, so nobody else would close it."""

    class Handle:
        closed = 0

        async def __aenter__(self):
            raise AssertionError

        async def __aexit__(self, *_):
            await trio.lowlevel.checkpoint()
            self.closed += 1

    handle, giving = Handle(), threading.Event()

    async def give():
        giving.set()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.3)
        return handle

    with open_bare(BLOCKING, Log().scope) as _, suppress(KeyboardInterrupt):
        pressing = press_ctrl_c_when(giving.is_set)
        BLOCKING.module._face.FACE.call(next(iter(hosts())), give, (), {})
    pressing.join()
    assert handle.closed == 1


def hosts():
    from trio_codex._face.host import HOSTS

    return HOSTS


# -- callbacks -----------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_an_async_policy_runs_in_the_event_loop_with_the_callers_context_even_inside_combinators():
    import contextvars

    name = contextvars.ContextVar("name", default="nobody")
    seen = []

    async def decide(request):
        await asyncio.sleep(0)
        seen.append((request.command, name.get()))
        return policies.decline("no")

    async def test():
        policy = policies.first_of(policies.with_timeout(aio.Policy(command=decide), 5), policies.decline_all)
        async with AIO.offline(approval_policy="on-request") as (codex, model, _):
            model.run_command("df -h", escalate="to see")
            model.say("done")
            thread = await codex.thread_start(policy=policy)
            name.set("Ada")
            assert (await thread.run("go")).final_response == "done"
        assert [caller for _, caller in seen] == ["Ada"]

    AIO.run(test)


@pytest.mark.real
def test_the_task_of_a_withdrawn_callback_ends_before_its_turn():
    asked, ended = [], []

    async def park(_):
        asked.append(asyncio.current_task())
        try:
            await asyncio.sleep(20)
        finally:
            ended.append(True)

    async def test():
        policy = aio.Policy(command=park)
        async with AIO.offline(policy=policy, approval_policy="on-request") as (codex, model, _):
            model.run_command("df -h", escalate="to see")
            async with (await codex.thread_start()).turn("go"):
                while not asked:  # noqa: ASYNC110  # it is set by another task
                    await asyncio.sleep(0.005)
            assert ended == [True]

    AIO.run(test)


@every_face
@pytest.mark.real
def test_a_plain_function_can_be_a_tool_and_use_the_client(face):
    def look(name: str) -> str:
        """Look at a thread."""
        return f"{name}: {len(names)}"

    async def test():
        tool = face.module.tool(look)
        assert tool("direct") == "direct: 0"
        async with face.offline(tools=[tool]) as (codex, model, _):
            model.call_tool("look", {"name": "it"})
            model.say("done")
            result = await (await codex.thread_start()).run("go")
            assert result.final_response == "done"
            assert any(
                "dynamicToolCall" in str(item) and item.success
                for item in result.items
                if hasattr(item, "success")
            )

    names = []
    face.run(test)


@every_face
@pytest.mark.real
def test_closing_a_client_in_its_own_callback_raises_instead_of_deadlocking(face):
    from trio_codex.testing import MockModel, offline_home

    @asynccontextmanager
    async def offline():
        async with MockModel() as model:
            with offline_home(model, approval_policy="on-request") as home:
                model.run_command("df -h", escalate="to see")
                yield home.config()

    def run_blocking(config):
        with blocking.open_codex(config) as codex:
            thread = codex.thread_start(policy=blocking.Policy(command=lambda _: codex.close()))
            with pytest.raises(errors.PolicyError, match="a callback cannot close its own client"):
                thread.run("go")

    async def run_aio(config):
        async def close(_):
            await codex.aclose()

        async with aio.open_codex(config) as codex:
            thread = await codex.thread_start(policy=aio.Policy(command=close))
            with pytest.raises(errors.PolicyError, match="a callback cannot close its own client"):
                await thread.run("go")

    with open_bare(BLOCKING, offline) as config:
        run_blocking(config) if face is BLOCKING else asyncio.run(run_aio(config))


# -- the life of a client ------------------------------------------------------------------------------------------


@pytest.mark.real
def test_a_client_can_be_used_without_a_block_and_by_several_threads():
    scope = BLOCKING.open()
    codex, model, _ = scope.start()
    for _ in range(4):
        model.say("hello")
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(codex.thread_start().run("hi").final_response))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scope.close()
    assert answers == ["hello"] * 4
    with pytest.raises(errors.ConnectionClosed):
        codex.thread_list()
    scope.close()


def test_a_client_of_another_loop_is_refused():
    kept = []

    async def start():
        scope = open_bare(AIO, Log().scope)
        await scope.start()
        kept.append(scope)

    async def use():
        with pytest.raises(errors.FaceError, match="another event loop"):
            await sleep(AIO, kept[0].host, 0)
        with pytest.raises(errors.FaceError, match="another event loop"):
            await kept[0].aclose()

    asyncio.run(start())
    asyncio.run(use())
    for host in tuple(hosts()):
        host.close_at_exit()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_using_a_client_after_a_fork_raises():
    read, write = os.pipe()
    with open_bare(BLOCKING, Log().scope):
        host = next(iter(hosts()))
        if (pid := os.fork()) == 0:
            try:
                BLOCKING.module._face.FACE.call(host, trio.sleep, (0,), {})
            except errors.FaceError as exc:
                os.write(write, str(exc).encode())
            os._exit(0)
        os.waitpid(pid, 0)
    os.close(write)
    assert b"after a fork" in os.read(read, 1000)
    os.close(read)


AT_EXIT = """
from contextlib import asynccontextmanager
import trio
from trio_codex import {face}

@asynccontextmanager
async def noisy():
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        print("ended")

scope = {face}._face.FACE.scope(noisy, None)
{start}
print("started")
"""


@pytest.mark.parametrize(
    ("face", "start"), [("blocking", "scope.start()"), ("aio", "import asyncio; asyncio.run(scope.start())")]
)
def test_a_client_that_was_never_closed_is_closed_at_exit(face, start):
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT.format(face=face, start=start)],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["started", "ended"]


IN_USE_AT_EXIT = """
import threading
from trio_codex import blocking, testing

codex, model, _ = blocking.from_trio(testing.offline_codex)(
    policy=blocking.Policy(command=lambda _: threading.Event().wait()), approval_policy="on-request"
).start()
model.hang("working")
turn = codex.thread_start().turn("go on").start()
threading.Thread(target=codex.wait_closed, daemon=True).start()
print(next(iter(turn.text())), codex.pid, flush=True)
model.run_command("df -h", escalate="to see")
thread = codex.thread_start()
asked = thread.turn("ask").start()
while asked.waiting_on != "approval":
    pass
"""


@pytest.mark.real
def test_exiting_the_interpreter_with_open_turns_and_callbacks_ends_the_server():
    done = subprocess.run(
        [sys.executable, "-c", IN_USE_AT_EXIT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    working, pid = done.stdout.split()
    assert working == "working"
    assert not os.path.exists(f"/proc/{pid}")


def test_unread_events_of_a_batch_are_returned_to_the_buffer_for_other_readers():
    with BLOCKING.open() as (codex, model, _):
        model.say("a", "b", "c")
        with codex.thread_start().turn("go") as turn:
            for event in turn:
                if event.method == "item/agentMessage/delta":
                    break
            assert "".join(turn.text()) in ("bc", "c", "bc")
            assert list(turn) == []


def test_a_scope_can_be_entered_only_once():
    scope = open_bare(BLOCKING, Log().scope)
    with scope, pytest.raises(RuntimeError, match="entered before"):
        scope.start()


def test_without_trio_the_error_names_both_faces():
    with pytest.raises(RuntimeError, match=r"trio_codex\.blocking .* trio_codex\.aio"):
        import trio_codex

        trio_codex.open_codex(CodexConfig()).__aenter__().send(None)
