"""Close sequences that record that they ran, and checks that errors leave a nursery unchanged."""

import pickle

import trio


class Closing:
    """A close sequence that records that it ran."""

    def __init__(self, work=None):
        self.runs = 0
        self.work = work

    async def __call__(self, services):
        self.runs += 1
        try:
            if self.work is not None:
                await self.work()
        finally:
            services.stop()


def contexts(error):
    while error is not None:
        yield error
        error = error.__context__


def assert_transparent(error):
    """Check that the chain of contexts contains no group, and that the error can be pickled."""
    assert not any(isinstance(link, BaseExceptionGroup) for link in contexts(error.__context__))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert repr(again) == repr(error)


async def crash(error):
    await trio.lowlevel.checkpoint()
    raise error


class FineError(Exception):
    """An error raised by the body."""


BODY_ERRORS = {
    "ValueError": lambda: ValueError("x"),
    "a custom one": lambda: FineError(1, 2),
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "StopIteration": lambda: StopIteration(5),
    "StopAsyncIteration": StopAsyncIteration,
    "RuntimeError": lambda: RuntimeError("y"),
    "GeneratorExit": GeneratorExit,
    "ExceptionGroup": lambda: ExceptionGroup("mine", [ValueError("a"), ExceptionGroup("in", [TypeError()])]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("mine", [KeyboardInterrupt(), ValueError("a")]),
}
