"""Who is inside a scope, and what the program's signal handlers may do while a call waits."""

import asyncio
import errno
import gc
import math
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

import pytest
import trio
from face_drivers import FACES, bare, open_bare, press_ctrl_c_when

from trio_codex import errors
from trio_codex._face.host import HOSTS
from trio_codex.blocking._interrupts import interrupts

BLOCKING, AIO = FACES


def call(face, host, function, *args):
    return face.module._face.FACE.call(host, function, args, {})


async def answer():
    await trio.lowlevel.checkpoint()
    return 42


place = ContextVar("place", default="outside")


@asynccontextmanager
async def inside(name):
    """A scope that sets a context variable for its body, as a supervised turn does."""
    await trio.lowlevel.checkpoint()
    token = place.set(name)
    yield
    place.reset(token)


async def where():
    await trio.lowlevel.checkpoint()
    return place.get()


@contextmanager
def handling(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


# -- starting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
@pytest.mark.parametrize(
    ("where", "name", "error"),
    [
        (os, "eventfd", OSError(errno.EMFILE, "Too many open files")),
        (threading.Thread, "start", RuntimeError("can't start new thread")),
    ],
)
def test_running_out_of_descriptors_or_threads_is_a_start_error(face, where, name, error, monkeypatch):
    def refuse(*_):
        raise error

    async def enter():
        async with open_bare(AIO):
            pytest.fail("the body must not run")

    monkeypatch.setattr(where, name, refuse)
    with pytest.raises(errors.StartError, match=r"Too many|new thread") as caught:
        open_bare(BLOCKING).__enter__() if face is BLOCKING else asyncio.run(enter())
    assert caught.value.hint
    assert not HOSTS


# -- context variables ---------------------------------------------------------------------------------------------


def test_the_body_of_a_scope_sees_the_context_variables_that_the_scope_has_set():
    with (scope := open_bare(BLOCKING)):
        with BLOCKING.module._face.BlockingScope(lambda: inside("a"), scope.host):
            with BLOCKING.module._face.BlockingScope(lambda: inside("b"), scope.host):
                assert call(BLOCKING, scope.host, where) == "b"
            with BLOCKING.module._face.BlockingScope(bare, scope.host):
                assert call(BLOCKING, scope.host, where) == "a"
        assert call(BLOCKING, scope.host, where) == place.get() == "outside"


def test_a_task_of_the_body_sees_the_context_variables_that_the_scope_has_set():
    async def test():
        async with (scope := open_bare(AIO)):
            async with AIO.module._face.AsyncioScope(lambda: inside("a"), scope.host):
                assert await asyncio.gather(*(call(AIO, scope.host, where) for _ in "12")) == ["a", "a"]
            assert await asyncio.gather(call(AIO, scope.host, where)) == ["outside"]

    asyncio.run(test())


# -- generators that their callers pass on -------------------------------------------------------------------------


def test_a_thread_can_use_the_client_after_another_has_left_its_scope():
    """A pool may advance a generator in a different thread each time."""

    def generate(host):
        with BLOCKING.module._face.BlockingScope(bare, host):
            yield

    with (
        (scope := open_bare(BLOCKING)),
        ThreadPoolExecutor(1) as first,
        ThreadPoolExecutor(1) as second,
    ):
        generator = generate(scope.host)
        first.submit(next, generator).result()
        assert second.submit(list, generator).result() == []
        assert first.submit(call, BLOCKING, scope.host, answer).result() == 42
        assert len(scope.host.scopes) == 1


def test_a_task_can_use_the_client_after_another_has_left_its_scope():
    async def generate(host):  # noqa: ASYNC900  # the case under test
        async with AIO.module._face.AsyncioScope(bare, host):
            yield  # noqa: ASYNC119  # likewise

    async def consume(generator):
        return [each async for each in generator]

    async def test():
        async with (scope := open_bare(AIO)):
            generator = generate(scope.host)
            await anext(generator)
            consumer = asyncio.create_task(consume(generator))
            assert await consumer == []
            assert await call(AIO, scope.host, answer) == 42
            assert len(scope.host.scopes) == 1

    asyncio.run(test())


def test_a_thread_is_not_inside_the_scope_of_an_ended_thread_with_the_same_number():
    numbers, wheres = [], []

    def run(function, *args):
        thread = threading.Thread(target=function, args=args)
        thread.start()
        thread.join()
        numbers.append(thread.ident)

    def look(host):
        wheres.append(host.innermost(BLOCKING.module._face.FACE.caller()))

    with (scope := open_bare(BLOCKING)):
        run(BLOCKING.module._face.BlockingScope(bare, scope.host).__enter__)
        while numbers[0] not in numbers[1:]:
            run(look, scope.host)
        assert set(wheres) == {scope.host.root}


def test_a_scope_can_exit_while_a_suspended_generator_is_inside_it():
    def generate(host):
        with BLOCKING.module._face.BlockingScope(bare, host):
            yield

    with (scope := open_bare(BLOCKING)):
        with BLOCKING.module._face.BlockingScope(bare, scope.host):
            generator = generate(scope.host)
            next(generator)
        assert call(BLOCKING, scope.host, answer) == 42
        generator.close()
        assert call(BLOCKING, scope.host, answer) == 42


def test_a_generator_that_is_collected_in_the_clients_thread_leaves_its_scope():
    """A generator that is part of a cycle is collected in whichever thread allocates something."""
    ended = threading.Event()

    @asynccontextmanager
    async def watched():
        try:
            yield
        finally:
            await trio.lowlevel.cancel_shielded_checkpoint()
            ended.set()

    def generate(host, cycle):
        with BLOCKING.module._face.BlockingScope(watched, host):
            yield cycle

    gc.disable()
    try:
        with (scope := open_bare(BLOCKING)):
            cycle = []
            cycle.append(generate(scope.host, cycle))
            next(cycle[0])
            del cycle
            scope.host.post(gc.collect)
            assert ended.wait(10)
            assert call(BLOCKING, scope.host, answer) == 42
    finally:
        gc.enable()


def test_a_task_that_leaves_a_scope_is_not_cancelled_by_a_suspended_generator_inside_it():
    async def generate(host):  # noqa: ASYNC900  # the case under test
        async with AIO.module._face.AsyncioScope(bare, host):
            yield  # noqa: ASYNC119  # likewise

    async def test():
        async with (scope := open_bare(AIO)):
            async with AIO.module._face.AsyncioScope(bare, scope.host):
                generator = generate(scope.host)
                await anext(generator)
            assert await call(AIO, scope.host, answer) == 42
            other = generate(scope.host)
            await anext(other)
        await generator.aclose()
        await other.aclose()
        return asyncio.current_task().cancelling()

    assert asyncio.run(test()) == 0


# -- deadlines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [math.inf, 1e12, threading.TIMEOUT_MAX + 1])
def test_a_deadline_may_exceed_the_maximum_timeout_of_a_lock(seconds):
    with (scope := open_bare(BLOCKING)), BLOCKING.module.fail_after(seconds) as deadline:
        assert call(BLOCKING, scope.host, answer) == 42
    assert not deadline.cancelled_caught


def test_a_deadline_is_not_nan():
    with pytest.raises(ValueError, match="NaN"):
        BLOCKING.module.move_on_after(math.nan)


# -- signal handlers -----------------------------------------------------------------------------------------------


class Slow:
    """An operation that takes a while to end once it is cancelled."""

    def __init__(self):
        self.started = threading.Event()
        self.leaving = threading.Event()
        self.signaled = threading.Event()
        self.ended = 0

    async def run(self):
        try:
            self.started.set()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            self.ended += 1

    @asynccontextmanager
    async def scope(self):
        try:
            await trio.lowlevel.checkpoint()
            yield
        finally:
            with trio.CancelScope(shield=True):
                self.leaving.set()
                while not self.signaled.is_set():  # noqa: ASYNC110  # another thread sets it
                    await trio.sleep(0.001)
                await trio.sleep(0.05)
            self.ended += 1

    def send_when_started(self, *numbers):
        return self.send(self.started, *numbers)

    def send(self, event, *numbers):
        """Send signals to this process after an event, once a call waits."""

        def send():
            event.wait()
            while interrupts.waiting is None:
                time.sleep(0.001)
            for number in numbers:
                os.kill(os.getpid(), number)
            self.signaled.set()

        thread = threading.Thread(target=send)
        thread.start()
        return thread


def exit_program(*_):
    raise SystemExit(7)


def test_an_exception_from_a_signal_handler_is_raised_once_the_call_has_ended():
    slow = Slow()
    with (scope := open_bare(BLOCKING)), handling(signal.SIGTERM, exit_program):
        sender = slow.send_when_started(signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            call(BLOCKING, scope.host, slow.run)
        assert (caught.value.code, slow.ended) == (7, 1)
        sender.join()
        assert call(BLOCKING, scope.host, answer) == 42


def test_an_exception_from_a_signal_handler_is_raised_once_the_scope_has_ended():
    slow = Slow()
    with (scope := open_bare(BLOCKING)), handling(signal.SIGTERM, exit_program):
        held = BLOCKING.module._face.BlockingScope(slow.scope, scope.host)
        held.__enter__()
        sender = slow.send(slow.leaving, signal.SIGTERM)
        with pytest.raises(SystemExit):
            held.__exit__(None, None, None)
        sender.join()
        assert slow.ended == 1


def test_ctrl_c_ends_a_call_during_which_a_signal_handler_has_used_the_client():
    slow, answers = Slow(), []
    with (
        (scope := open_bare(BLOCKING)),
        handling(signal.SIGUSR1, lambda *_: answers.append(call(BLOCKING, scope.host, answer))),
    ):
        sender = slow.send_when_started(signal.SIGUSR1)
        pressing = press_ctrl_c_when(lambda: answers)
        with pytest.raises(KeyboardInterrupt):
            call(BLOCKING, scope.host, slow.run)
        assert (answers, slow.ended) == ([42], 1)
        sender.join()
        pressing.join()
