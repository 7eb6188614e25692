"""How one test runs through each face: an offline client of it, and who drives the coroutine of the test.

A test is written as for Trio. With the asyncio face, asyncio drives it. With the blocking face, calls have returned when
their results are awaited, so nothing suspends, and one step drives it to its end.
"""

import asyncio
import inspect
from contextlib import asynccontextmanager
from functools import wraps

from trio_codex import aio, blocking, testing
from trio_codex._face.proxies import Proxy, present

SECONDS = 30


@asynccontextmanager
async def _offline(*args, **options):
    async with testing.offline_codex(*args, **options) as value:
        yield value


class Returned:
    """What a call of the blocking face has returned, to be awaited, entered or iterated over."""

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
    """Return a proxy of the blocking face as something to await; any other value as it is."""
    if isinstance(value, WAITED):
        return Returned(value)
    if isinstance(value, tuple) and any(isinstance(each, WAITED) for each in value):
        return tuple(map(adapted, value))
    return value


class BlockingFace:
    """The blocking face, for a test that is written as for Trio."""

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
        raise AssertionError("the test waits for something that is not of the face")


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
