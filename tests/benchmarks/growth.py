"""How CPU time grows with the size of a load, as the slope on logarithmic scales. 1 is linear."""

from benchmarks import clients
from benchmarks.lines import iterate, prepare_lines
from benchmarks.measuring import Stopwatch, growth_exponent
from benchmarks.traffic import prepare_results, prepare_turn, prepare_turns
from benchmarks.turns import run_turns

TITLE = "Growth"
ROUNDS = 3

REPEATS = 3
"""How often to measure. The fastest counts, because other load only slows a measurement down."""

EVENTS = (1000, 4000, 16_000, 64_000)
TURNS = (10, 100, 1000)
EVENTS_OF_A_TURN = 30
THREADS = (50, 200, 800)
LENGTHS = tuple(1024 * 1024 * factor for factor in (1, 4, 16, 64))


def prepare(setting):
    prepare_results(setting.directory)
    for repeat in range(REPEATS + 1):
        for count in EVENTS:
            prepare_turn(setting.directory, f"events-{count}-{repeat}", count)
        for count in TURNS:
            prepare_turns(setting.directory, f"turns-{count}-{repeat}", count, EVENTS_OF_A_TURN * count)
        for length in LENGTHS:
            prepare_lines(setting.directory, f"line-{length}-{repeat}", length, 1)


async def summarize(sizes, measure):
    """Await ``measure(size, repeat)`` for all sizes. Return the growth exponent and CPU times per unit."""
    await measure(sizes[0], REPEATS)  # so that imports are not measured
    seconds = []
    for size in sizes:
        taken = []
        for repeat in range(REPEATS):
            with Stopwatch() as watch:
                await measure(size, repeat)
            taken.append(watch.cpu)
        seconds.append(min(taken))
    first, last = (1e9 * seconds[index] / sizes[index] for index in (0, -1))
    return {
        "exponent": growth_exponent(sizes, seconds),
        "cpu ns for one of few": first,
        "cpu ns for one of many": last,
    }


def run(setting, body):
    from trio_codex import CodexConfig, EventBuffer

    config = CodexConfig(event_buffer=EventBuffer(size=4 * LENGTHS[-1]))
    return clients.run_trio(body, setting.directory, config=config)


def events(setting):
    async def body(codex):
        thread = await codex.thread_start()
        return await summarize(EVENTS, lambda count, repeat: iterate(thread, f"events-{count}-{repeat}"))

    return run(setting, body)


def concurrent_turns(setting):
    async def body(codex):
        threads = [await codex.thread_start() for _ in range(TURNS[-1])]
        return await summarize(
            TURNS, lambda count, repeat: run_turns(threads[:count], f"turns-{count}-{repeat} {count}")
        )

    return run(setting, body)


def line_length(setting):
    async def body(codex):
        thread = await codex.thread_start()
        return await summarize(LENGTHS, lambda length, repeat: iterate(thread, f"line-{length}-{repeat}"))

    return run(setting, body)


def threads(setting):
    """Open threads, and keep them open."""

    async def body(codex):
        async def open_threads(count, repeat):
            for _ in range(count):
                await codex.thread_start()

        return await summarize(THREADS, open_threads)

    return run(setting, body)


CASES = {"events": events, "turns at once": concurrent_turns, "line length": line_length, "threads": threads}
