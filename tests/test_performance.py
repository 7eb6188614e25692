"""The cost of the client in numbers that do not depend on the machine: calls, wake-ups, memory and loaded modules.

Times are compared only within a run, and generously; the benchmarks (``tests/benchmarks``) measure them. Each number
is the slope between a short turn and a long one, which excludes the fixed cost of a turn. Numbers vary slightly
between runs, because a consumer yields after a millisecond. Each bound is about a quarter above the measured value,
so that code can be refactored.
"""

import math
import subprocess
import sys
import time
import tracemalloc
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

import trio_codex
from benchmarks import report
from benchmarks.app_server import Server
from benchmarks.lines import prepare_lines
from benchmarks.measuring import growth_exponent
from benchmarks.run import NAMES, run_benchmark
from benchmarks.traffic import prepare_results, prepare_turn
from trio_codex import CodexConfig, EventBuffer, TurnStatus, connect_codex
from trio_codex._link.channel import DirectSendStream

OURS = str(Path(trio_codex.__file__).parent)

SHORT, LONG = 500, 1500
PIPE_BYTES = 64 * 1024
"""The capacity of a pipe: no read returns more."""


class InMemory(Server, DirectSendStream, trio.abc.Stream):
    """The server of the benchmarks, run in this process so that every run reads the same chunks."""

    def __init__(self, directory):
        super().__init__(directory)
        self.written = []
        self.something = trio.Event()

    def write(self, data):
        self.written.append(memoryview(data))
        self.something.set()

    def send_nowait(self, data):
        for line in bytes(data).splitlines():
            self.take(line)
        return len(data)

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()
        self.send_nowait(data)

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes=None):
        await trio.lowlevel.checkpoint()
        while not self.written:
            self.something = trio.Event()
            await self.something.wait()
        max_bytes = min(max_bytes, PIPE_BYTES)
        first = self.written.pop(0)
        if len(first) > max_bytes:
            self.written.insert(0, first[max_bytes:])
        return bytes(first[:max_bytes])

    async def aclose(self):
        await trio.lowlevel.checkpoint()


@pytest.fixture(scope="module")
def traffic(tmp_path_factory):
    directory = tmp_path_factory.mktemp("traffic")
    prepare_results(directory)
    for name, count in (("warm", 300), ("short", SHORT), ("long", LONG)):
        for number in range(12):
            prepare_turn(directory, f"{name}-{number}", count)
    return directory


@asynccontextmanager
async def client(directory):
    config = CodexConfig(event_buffer=EventBuffer(size=256 * 1024 * 1024))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = InMemory(directory)
            for path in directory.iterdir():
                server.stream(path.name)  # read before anything is measured
            codex = await connect_codex(nursery, server, config=config)
            thread = await codex.thread_start()
            await iterate(thread, "warm-0")
            await codex.models()
            yield codex, thread
            await codex.aclose()


async def iterate(thread, text, read=True):
    count = 0
    async with thread.turn(text) as turn:
        async for event in turn:
            count += event.merged
            if read:
                event.params  # noqa: B018  # parsed when read
    assert turn.result.status is TurnStatus.completed
    return count


# -- calls -------------------------------------------------------------------------------------------------------------


class Calls:
    """A scope that counts calls to functions of this package, and the calls they make to C functions."""

    def __enter__(self):
        self.count = 0
        self._before = sys.getprofile()
        sys.setprofile(self.note)
        return self

    def __exit__(self, *_):
        sys.setprofile(self._before)

    def note(self, frame, kind, _):
        if kind in ("call", "c_call") and frame.f_code.co_filename.startswith(OURS):
            self.count += 1


class Instructions:
    """A scope that counts the bytecode instructions of this package, to detect loops without calls."""

    def __enter__(self):
        self.count = 0
        self._before = sys.gettrace()
        sys.settrace(self.note)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def note(self, frame, kind, _):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += kind == "opcode"
        return self.note


async def cost_of_an_event(counter, thread, read=True, number=0):
    with counter() as short:
        assert await iterate(thread, f"short-{number}", read) == SHORT
    with counter() as long:
        assert await iterate(thread, f"long-{number}", read) == LONG
    return (long.count - short.count) / (LONG - SHORT)


@pytest.mark.parametrize(("read", "most"), [(True, 28), (False, 23)], ids=["params read", "params not read"])
async def test_calls_per_event_stay_within_their_bound(traffic, read, most):
    async with client(traffic) as (_, thread):
        calls = await cost_of_an_event(Calls, thread, read)
    assert calls <= most


async def test_instructions_per_event_do_not_grow_with_three_hundred_open_turns(traffic):
    async def lowest_cost(*numbers):
        # Each read also has a cost, and returns a random number of events.
        return min([await cost_of_an_event(Instructions, thread, number=number) for number in numbers])

    async with client(traffic) as (codex, thread):
        alone = await lowest_cost(*range(6))
        async with AsyncExitStack() as stack:
            for _ in range(300):
                other = await codex.thread_start()
                await stack.enter_async_context(other.turn("idle"))
            among_many = await lowest_cost(*range(6, 12))
    assert among_many <= 1.05 * alone


# -- wake-ups ----------------------------------------------------------------------------------------------------------


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks. Each step is a wake-up, which costs as much as a few events."""

    def __init__(self):
        self.count = 0

    def before_task_step(self, task):
        self.count += 1


async def steps_of(run):
    counted = Steps()
    trio.lowlevel.add_instrument(counted)
    await run()
    trio.lowlevel.remove_instrument(counted)
    return counted.count


async def test_the_reader_and_consumers_wake_up_per_chunk_not_per_event(traffic):
    async with client(traffic) as (_, thread):
        short = await steps_of(lambda: iterate(thread, "short-0"))
        long = await steps_of(lambda: iterate(thread, "long-0"))
    assert long - short <= (LONG - SHORT) / 20


async def test_steps_and_calls_per_request_stay_within_their_bounds(traffic):
    async def ask(codex, times):
        for _ in range(times):
            await codex.models()

    async with client(traffic) as (codex, _):
        steps = await steps_of(lambda: ask(codex, 30)) - await steps_of(lambda: ask(codex, 10))
        with Calls() as few:
            await ask(codex, 10)
        with Calls() as many:
            await ask(codex, 30)
    assert steps / 20 <= 3.5
    assert (many.count - few.count) / 20 <= 120


# -- memory ------------------------------------------------------------------------------------------------------------


async def kept(codex, thread, text, read):
    """Return the bytes and blocks held by the events of an open turn."""
    tracemalloc.start()
    try:
        async with thread.turn(text) as turn:
            if read:
                async for event in turn:
                    event.params  # noqa: B018  # parsed when read
                del event
            await codex.models()
            traces = tracemalloc.take_snapshot().traces
            return sum(trace.size for trace in traces), len(traces)
    finally:
        tracemalloc.stop()


async def kept_by_an_event(traffic, read):
    async with client(traffic) as (codex, thread):
        short = await kept(codex, thread, "warm-1", read)
        long = await kept(codex, thread, "short-1", read)
    return [(after - before) / (SHORT - 300) for before, after in zip(short, long, strict=True)]


async def test_a_queued_event_holds_little_more_than_its_line(traffic):
    size, blocks = await kept_by_an_event(traffic, read=False)
    assert size <= 680
    assert blocks <= 6.5


async def test_an_event_that_was_read_holds_no_memory(traffic):
    """One event in a hundred is an item, which the result keeps."""
    size, blocks = await kept_by_an_event(traffic, read=True)
    assert size <= 32
    assert blocks <= 0.5


# -- relative times ------------------------------------------------------------------------------------------------


async def least_seconds(run, rounds=5):
    """Return the minimum CPU time over some rounds, because other load only adds to it."""
    best = math.inf
    for number in range(rounds):
        start = time.process_time()
        await run(number)
        best = min(best, time.process_time() - start)
    return best


async def test_events_cost_a_bounded_multiple_of_splitting_and_parsing_their_lines(traffic):
    lines = (traffic / "long-0").read_bytes()

    async def floor(_):
        await trio.lowlevel.checkpoint()
        for line in lines.splitlines():
            msgspec.json.decode(line)

    async with client(traffic) as (_, thread):
        floor_seconds = await least_seconds(floor)
        seconds = await least_seconds(lambda number: iterate(thread, f"long-{number}"), rounds=4)
    assert seconds <= 20 * floor_seconds


async def test_time_grows_linearly_with_events_and_bytes(tmp_path):
    """Check the growth exponents. They are 1; with these sizes, a quadratic step would bring them close to 2."""
    prepare_results(tmp_path)
    counts, lengths = (1000, 4000, 16_000), (2**20, 2**22, 2**24)
    for number in range(3):
        for count in counts:
            prepare_turn(tmp_path, f"events-{count}-{number}", count)
        for length in lengths:
            prepare_lines(tmp_path, f"line-{length}-{number}", length, 1)
    prepare_turn(tmp_path, "warm-0", 300)

    async def exponent(kind, sizes):
        seconds = [
            await least_seconds(
                lambda number, size=size: iterate(thread, f"{kind}-{size}-{number}", read=False), 3
            )
            for size in sizes
        ]
        return growth_exponent(sizes, seconds)

    async with client(tmp_path) as (_, thread):
        assert await exponent("events", counts) <= 1.4
        assert await exponent("line", lengths) <= 1.5


# -- importing ---------------------------------------------------------------------------------------------------------

CLASSES_BUILT = """
import attrs, attr._make, cattrs, msgspec, trio
built = []
build = attr._make._ClassBuilder.build_class
attr._make._ClassBuilder.build_class = lambda self: built.append(self) or build(self)
import trio_codex
print(len(built))
"""


def number_printed_by(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return int(done.stdout)


def test_modules_and_classes_loaded_by_an_import_stay_within_their_bounds():
    """Each module takes about 0.3 ms, and so does each attrs class."""
    loaded = "import sys, trio_codex; print(sum(name.startswith('trio_codex') for name in sys.modules))"
    assert number_printed_by(loaded) <= 95
    assert number_printed_by(CLASSES_BUILT) <= 58


# -- the benchmarks themselves -----------------------------------------------------------------------------------------


def test_the_page_shows_the_recorded_results():
    text = report.PAGE.read_text()
    assert report.with_tables(text, report.load()) == text, "run: python tests/benchmarks/run.py page"


@pytest.mark.long
@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_runs(name):
    for case, numbers in run_benchmark(name, quick=True).items():
        assert numbers, case
