"""Drivers that run one test through each face, with an offline client of that face.

A test is a coroutine written for Trio. With the asyncio face, asyncio runs it. With the blocking face, each call has
returned before its result is awaited, so the coroutine never suspends and one step runs it to its end.
"""

import asyncio
import inspect
import os
import signal
import threading
import time
from contextlib import asynccontextmanager
from functools import wraps

import trio

from trio_codex import aio, blocking, testing
from trio_codex._face.proxies import Proxy, present

SECONDS = 30


@asynccontextmanager
async def _offline(*args, **options):
    async with testing.offline_codex(*args, **options) as value:
        yield value


def press_ctrl_c_when(happened):
    """Send SIGINT to this program once ``happened()`` is true, within ``SECONDS``. Return the thread that does it."""

    def press():
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if happened():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    return thread


class Returned:
    """The result of a call to the blocking face, which can be awaited, entered or iterated over."""

    def __init__(self, value):
        self.value = value

    def __await__(self):
        return adapted(self.value)
        yield

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            return next(self.value)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self):
        return adapted(self.value.__enter__())

    async def __aexit__(self, *exc):
        return self.value.__exit__(*exc)

    def __getattr__(self, name):
        found = getattr(self.value, name)
        if not callable(found) or isinstance(found, type):
            return adapted(found)

        @wraps(found)
        def call(*args, **kwargs):
            args = [each.value if isinstance(each, Returned) else each for each in args]
            value = found(*args, **kwargs)
            return Returned(value) if inspect.iscoroutinefunction(inspect.unwrap(found)) else adapted(value)

        return call

    def __eq__(self, other):
        return self.value == getattr(other, "value", other)

    def __hash__(self):
        return hash(self.value)


WAITED = (Proxy, blocking._face.BlockingScope)


def adapted(value):
    """Wrap a proxy of the blocking face so that it can be awaited; return other values unchanged."""
    if isinstance(value, WAITED):
        return Returned(value)
    if isinstance(value, tuple) and any(isinstance(each, WAITED) for each in value):
        return tuple(map(adapted, value))
    return value


class BlockingFace:
    """The blocking face, for a test written for Trio."""

    name = "blocking"
    module = blocking
    open = staticmethod(present(blocking._face.FACE, _offline))

    @asynccontextmanager
    async def offline(self, *args, **options):
        with self.open(*args, **options) as value:
            yield adapted(value)

    def run(self, test):
        coroutine = test()
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("the test waits for something outside the face")


class AsyncioFace:
    """The asyncio face."""

    name = "aio"
    module = aio
    runner = staticmethod(asyncio.run)
    open = staticmethod(present(aio._face.FACE, _offline))

    @asynccontextmanager
    async def offline(self, *args, **options):
        async with self.open(*args, **options) as value:
            yield value

    def run(self, test):
        async def bounded():
            async with asyncio.timeout(SECONDS):
                await test()

        self.runner(bounded())


FACES = (BLOCKING, AIO) = (BlockingFace(), AsyncioFace())


@asynccontextmanager
async def bare():
    await trio.lowlevel.checkpoint()
    yield


def open_bare(face, make=bare):
    """Return a scope of a client that needs no server."""
    return face.module._face.FACE.scope(make, None)
