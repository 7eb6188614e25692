"""Operations on a host: how they start, end, and wake their waiters."""

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from face_drivers import FACES, bare, open_bare, press_ctrl_c_when
from trio.testing import wait_all_tasks_blocked

from trio_codex import errors
from trio_codex._face.host import HOSTS
from trio_codex._face.mailbox import Mailbox
from trio_codex._face.operations import MOST_IDLE
from trio_codex.blocking._interrupts import interrupts

BLOCKING, AIO = FACES

every_face = pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)

name = contextvars.ContextVar("name", default="nobody")


def call(host, function, *args):
    return BLOCKING.module._face.FACE.call(host, function, args, {})


def call_aio(host, function, *args):
    return AIO.module._face.FACE.call(host, function, args, {})


async def whose():
    await trio.lowlevel.checkpoint()
    return name.get()


# -- starting ------------------------------------------------------------------------------------------------------


def test_ctrl_c_while_the_first_client_starts_leaves_no_thread_behind(attack):
    opened = closed = seen = 0

    @asynccontextmanager
    async def scope():
        nonlocal opened, closed
        opened += 1
        try:
            await trio.sleep(0.001)
            yield
        finally:
            closed += 1

    def use():
        with open_bare(BLOCKING, scope):
            pass

    for number in range(80):
        seen += attack(use)
        assert not HOSTS, f"a thread remains after {number} interrupts"
        assert opened == closed
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert seen > 40


LONG_STEP = """
import os, signal, time

def be_interrupted(seconds):
    end = time.monotonic() + seconds
    os.kill(os.getpid(), signal.SIGINT)
    while time.monotonic() < end:
        time.sleep(0)
"""


def test_ctrl_c_during_a_long_step_of_the_face_is_deferred_without_nested_handlers(monkeypatch):
    module, depths = {"__name__": "trio_codex._face.long_step"}, []
    exec(LONG_STEP, module)

    def put_off(put_off=interrupts._put_off):
        frames = (frame for frame, _ in traceback.walk_stack(None))
        depths.append(sum(frame.f_code.co_name == "_handle" for frame in frames))
        put_off()

    with open_bare(BLOCKING):
        monkeypatch.setattr(interrupts, "_put_off", put_off)
        with pytest.raises(KeyboardInterrupt):
            module["be_interrupted"](0.2)
            time.sleep(1)
    # SIGINT is sent again every millisecond, so handlers nest only on a busy machine.
    assert 2 <= len(depths) <= 250
    assert max(depths) < 5


def test_a_call_has_the_context_of_its_caller_although_its_task_is_reused():
    with (scope := open_bare(BLOCKING)):
        names = []
        for each in ("Ada", "Bob", "Cid"):
            context = contextvars.copy_context()
            context.run(name.set, each)
            names.append(context.run(call, scope.host, whose))
        assert names == ["Ada", "Bob", "Cid"]
        [worker] = scope.host.root.idle
        assert not hasattr(worker, "_call")


def test_calls_run_concurrently_and_few_tasks_are_kept():
    async def test():
        async with (scope := open_bare(AIO)):
            wanted = [str(number) for number in range(3 * MOST_IDLE)]
            begun, all_begun = [], trio.Event()

            async def whose_of_all():
                begun.append(name.get())
                if len(begun) == len(wanted):
                    all_begun.set()
                await all_begun.wait()
                return name.get()

            async def idle_tasks():  # except the task that runs this function
                await wait_all_tasks_blocked()
                return len(scope.host.root.idle)

            async def ask(each):
                name.set(each)
                return await call_aio(scope.host, whose_of_all)

            assert await asyncio.gather(*map(ask, wanted)) == wanted
            assert await call_aio(scope.host, idle_tasks) == MOST_IDLE - 1
            assert await call_aio(scope.host, whose) == "nobody"

    AIO.run(test)


def test_a_call_after_a_cancelled_one_is_not_cancelled():
    async def test():
        async with (scope := open_bare(AIO)):
            for _ in range(3):
                assert await call_aio(scope.host, whose) == "nobody"
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await call_aio(scope.host, trio.sleep, 20)

    AIO.run(test)


async def test_closing_a_mailbox_runs_accepted_calls_and_refuses_new_ones():
    found = []
    mailbox = Mailbox()
    assert all(mailbox.put(partial(found.append, number)) for number in range(3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.serve)
        with trio.fail_after(5):
            while len(found) < 3:  # noqa: ASYNC110  # a list has no event
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert mailbox.put(partial(found.append, 3))
    mailbox.close()
    assert not mailbox.put(partial(found.append, 4))
    assert found == [0, 1, 2, 3]


def test_a_system_without_eventfd_uses_trios_own_queue(monkeypatch):
    monkeypatch.delattr(os, "eventfd", raising=False)
    with (scope := open_bare(BLOCKING)):
        assert [call(scope.host, whose) for _ in range(3)] == ["nobody"] * 3
    assert scope.host.has_ended


# -- waiting -------------------------------------------------------------------------------------------------------


class FailingScope:
    """A scope that fails from a background task."""

    def __init__(self):
        self.go = trio.Event()

    @asynccontextmanager
    async def open(self):
        async def fail():
            await self.go.wait()
            raise ValueError("from within")

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                yield
        except* ValueError as group:
            error = group.exceptions[0]
        else:
            error = None
        if error is not None:
            raise error

    def fail_soon(self, host):
        host.post(self.go.set)


def test_every_waiting_thread_learns_why_the_client_ended():
    failing, found = FailingScope(), []
    scope = open_bare(BLOCKING, failing.open)

    def wait(ready):
        ready.release()
        try:
            call(scope.host, trio.sleep_forever)
        except ValueError as exc:
            found.append(str(exc))

    with suppress(ValueError), scope:
        ready = threading.Semaphore(0)
        threads = [threading.Thread(target=wait, args=(ready,), daemon=True) for _ in range(5)]
        for each in threads:
            each.start()
            ready.acquire()
        time.sleep(0.05)
        failing.fail_soon(scope.host)
        for each in threads:
            each.join(5)
    assert found == ["from within"] * 5


def test_every_waiting_task_learns_why_the_client_ended():
    failing, found = FailingScope(), []

    async def test():
        scope = open_bare(AIO, failing.open)
        await scope.start()

        async def wait():
            try:
                await call_aio(scope.host, trio.sleep_forever)
            except ValueError as exc:
                found.append(str(exc))

        tasks = [asyncio.create_task(wait()) for _ in range(5)]
        await asyncio.sleep(0.05)
        failing.fail_soon(scope.host)
        await asyncio.gather(*tasks)
        with suppress(ValueError):
            await scope.aclose()

    AIO.run(test)
    assert found == ["from within"] * 5


@every_face
def test_a_bug_that_ends_trio_wakes_all_waiters(face):
    def crash():
        raise LookupError("a bug")

    def wait(host):
        with pytest.raises((errors.ConnectionClosed, trio.TrioInternalError)):
            call(host, trio.sleep_forever)

    def use_blocking():
        scope = open_bare(BLOCKING)
        scope.start()
        threads = [threading.Thread(target=wait, args=(scope.host,), daemon=True) for _ in range(3)]
        for each in threads:
            each.start()
        time.sleep(0.05)
        scope.host.post(crash)
        for each in threads:
            each.join(5)
            assert not each.is_alive()
        with suppress(errors.ConnectionClosed, trio.TrioInternalError):
            scope.close()

    async def use_aio():
        scope = open_bare(AIO)
        await scope.start()
        scope.host.post(crash)
        with pytest.raises((errors.ConnectionClosed, trio.TrioInternalError)):
            await call_aio(scope.host, trio.sleep_forever)
        with suppress(errors.ConnectionClosed, trio.TrioInternalError):
            await scope.aclose()

    use_blocking() if face is BLOCKING else AIO.run(use_aio)
    assert not HOSTS


def test_a_closed_event_loop_does_not_fail_scopes_that_end_later():
    failing, kept = FailingScope(), []

    async def start():
        scope = open_bare(AIO)
        await scope.start()
        kept.append(scope)
        inner = AIO.module._face.AsyncioScope(failing.open, scope.host)
        await inner.__aenter__()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    loop.close()
    [scope] = kept
    failing.fail_soon(scope.host)
    time.sleep(0.1)
    assert not scope.host.root.exited.done, "the client ended, too"
    scope.host.close_at_exit()


def test_a_thread_waiting_for_its_first_request_is_woken_when_the_last_client_closes():
    found = []
    inbox = BLOCKING.module.policies.Inbox()

    def show():
        try:
            list(inbox)
        except errors.ConnectionClosed as exc:
            found.append(exc)

    thread = threading.Thread(target=show, daemon=True)
    with open_bare(BLOCKING):
        with open_bare(BLOCKING):
            thread.start()
            time.sleep(0.05)
        time.sleep(0.05)
        assert thread.is_alive()
    thread.join(5)
    assert len(found) == 1


# -- interrupted iteration -----------------------------------------------------------------------------------------


class Item:
    """A minimal handle with a method for a face to call."""

    __module__ = "trio_codex.testing.items"

    async def use(self):
        await trio.lowlevel.checkpoint()


class Items:
    """An iterable handle whose elements are handles."""

    __module__ = "trio_codex.testing.items"

    def __init__(self):
        self.asked = threading.Event()

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.asked.set()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.2)
        return Item()


def test_a_handle_fetched_by_an_interrupted_iteration_is_returned_next_as_a_proxy():
    items = Items()

    @asynccontextmanager
    async def scope():
        await trio.lowlevel.checkpoint()
        yield items

    with open_bare(BLOCKING, scope) as found:
        pressing = press_ctrl_c_when(items.asked.is_set)
        with pytest.raises(KeyboardInterrupt):
            next(found)
        pressing.join()
        start = time.monotonic()
        item = next(found)
        assert time.monotonic() - start < 0.1
        assert item.use() is None


# -- invalid use --------------------------------------------------------------------------------------


def test_the_trio_thread_cannot_close_a_client():
    async def close(scope):
        await trio.lowlevel.checkpoint()
        return scope.close()

    with (
        (scope := open_bare(BLOCKING)),
        pytest.raises(errors.FaceError, match="must not wait for itself"),
    ):
        call(scope.host, close, scope)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_an_exception_from_the_body_propagates_unchanged_in_a_forked_process():
    child = None
    try:
        with (scope := open_bare(BLOCKING)), BLOCKING.module._face.BlockingScope(bare, scope.host):
            child = os.fork()
            if child == 0:
                sys.exit(7)
    except BaseException as exc:
        os._exit(exc.code if isinstance(exc, SystemExit) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_leaving_the_block_in_a_forked_process_raises_without_waiting():
    read, write = os.pipe()
    child = None
    try:
        with open_bare(BLOCKING):
            child = os.fork()
    except errors.FaceError as exc:
        os.write(write, str(exc).encode())
    finally:
        if child == 0:
            os._exit(0)
    os.close(write)
    assert b"after a fork" in os.read(read, 1000)
    os.close(read)
    os.waitpid(child, 0)


# -- another loop --------------------------------------------------------------------------------------------------


UVLOOP = """
import asyncio, trio, uvloop
from trio_codex import aio, testing

async def decide(_):
    await asyncio.sleep(0)
    return aio.policies.decline("no")

async def main():
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
    options = {"policy": aio.Policy(command=decide), "approval_policy": "on-request"}
    async with aio.from_trio(testing.offline_codex)(**options) as (codex, model, _):
        model.run_command("df -h", escalate="to see")
        model.say("done")
        print((await (await codex.thread_start()).run("go")).final_response)
        model.hang("working")
        thread = await codex.thread_start()
        async with thread.turn("go on") as turn:
            try:
                async with asyncio.timeout(0.3):
                    await turn.wait()
            except TimeoutError:
                print("timeout")
        print(turn.result.status)
        model.hang("working")
        try:
            async with thread.turn("go on") as turn:
                async for _ in turn.text():
                    raise ValueError
        except ValueError:
            print(turn.result.status)

uvloop.run(main())
"""


@pytest.mark.real
def test_uvloop_cancels_and_waits_like_asyncio():
    """Run it in a separate process, because libuv keeps a pipe open."""
    pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", UVLOOP], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["done", "timeout", "interrupted", "interrupted"], done.stderr
    assert done.returncode == 0


# -- deadlines of threads ------------------------------------------------------------------------------------------


def test_a_deadline_ends_the_waiting_call_before_the_program_continues():
    ended = []

    async def slow():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            ended.append(True)

    with (scope := open_bare(BLOCKING)):
        with BLOCKING.module.move_on_after(0.02) as deadline:
            call(scope.host, slow)
        assert (deadline.cancelled_caught, ended) == (True, [True])
        with pytest.raises(TimeoutError, match=r"0\.02"), BLOCKING.module.fail_after(0.02):
            call(scope.host, slow)
        assert len(ended) == 2
        with BLOCKING.module.fail_after(20) as deadline:
            assert call(scope.host, whose) == "nobody"
        assert not deadline.cancelled_caught


def test_a_deadline_ends_a_scope_and_the_outermost_expired_deadline_counts():
    exited = []

    @asynccontextmanager
    async def scope():
        try:
            await trio.lowlevel.checkpoint()
            yield
        finally:
            exited.append(trio.current_effective_deadline())

    with (outer := open_bare(BLOCKING)):
        with (
            BLOCKING.module.move_on_after(0.02) as first,
            BLOCKING.module.move_on_after(0.01) as second,
            BLOCKING.module._face.BlockingScope(scope, outer.host),
        ):
            time.sleep(0.05)
            call(outer.host, trio.sleep_forever)
        assert (first.cancelled_caught, second.cancelled_caught, len(exited)) == (True, False, 1)
        with BLOCKING.module.move_on_after(20) as first, BLOCKING.module.move_on_after(0.01) as second:
            call(outer.host, trio.sleep_forever)
        assert (first.cancelled_caught, second.cancelled_caught) == (False, True)


def test_a_deadline_applies_only_to_calls_from_its_own_thread():
    answers = []
    with (scope := open_bare(BLOCKING)):
        other = threading.Thread(target=lambda: answers.append(call(scope.host, whose_later)))
        with BLOCKING.module.move_on_after(0.02):
            other.start()
            call(scope.host, trio.sleep_forever)
        other.join()
    assert answers == ["nobody"]


async def whose_later():
    await trio.sleep(0.1)
    return name.get()


@pytest.mark.real
def test_a_turn_that_times_out_is_interrupted_and_its_result_kept():
    with BLOCKING.open() as (codex, model, _):
        model.hang("working")
        with codex.thread_start().turn("go on") as turn, BLOCKING.module.move_on_after(0.5):
            turn.wait()
        assert turn.result.status == "interrupted"


# -- callbacks that fail -------------------------------------------------------------------------------------------


def ends_with(error):
    def fail(_):
        raise error

    async def fail_in_the_loop(_):
        await asyncio.sleep(0)
        raise error

    return fail, fail_in_the_loop


@pytest.mark.real
@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError, KeyboardInterrupt, ValueError])
@pytest.mark.parametrize(
    ("face", "is_async"),
    [(BLOCKING, False), (AIO, False), (AIO, True)],
    ids=["blocking", "aio-plain", "aio-coroutine"],
)
def test_a_failing_callback_fails_only_its_turn(face, is_async, error):
    fail = ends_with(error)[is_async]

    async def test():
        async with face.offline(approval_policy="on-request") as (codex, model, _):
            model.run_command("df -h", escalate="to see")
            thread = await codex.thread_start(policy=face.module.Policy(command=fail))
            with pytest.raises(errors.PolicyError):
                await thread.run("go")
            model.say("usable")
            other = await codex.thread_start()
            assert (await other.run("next")).final_response == "usable"

    face.run(test)
