"""The overhead of batches, measured with tasks that take no time, on the real server and on a scripted one.

On the real server, turns are the bottleneck. The other clients do what a program without batches would: for each task
they start a thread and run its prompt, with the same concurrency.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measuring import Stopwatch, resident_kib
from benchmarks.traffic import prepare_results

TITLE = "Batches"
ROUNDS = 3
SECONDS = 600
"""Timeout of a case, generous enough for a busy machine."""

AT_ONCE = 16
HELLO_SERVER = Path(__file__).with_name("hello_server.py")
MODEL = Path(__file__).with_name("model.py")
WARM = 1000
"""Tasks after which the caches of a batch are full."""


def prepare(setting):
    prepare_results(setting.directory)


def count_of(setting):
    return setting.pick(300, 48)


@contextlib.contextmanager
def offline():
    """Yield the home of a real server whose model is another process."""
    from trio_codex.testing import offline_home

    model = subprocess.Popen(
        [sys.executable, str(MODEL)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        with offline_home(model.stdout.readline().strip()) as home:
            yield home
    finally:
        model.stdin.close()
        model.wait()
        model.stdout.close()


def first_of(setting):
    """Return how many tasks run before the clock starts, so that imports are not measured."""
    return setting.pick(32, 16)


def summarize(watch, count):
    return {"tasks/s": count / watch.wall, "cpu ms/task": 1e3 * watch.cpu / count}


def tasks_of(count):
    from trio_codex.batch import Task

    return [Task(str(number), "hello") for number in range(count)]


# -- on the real server ------------------------------------------------------------------------------------------------


def batch(setting):
    import trio

    from trio_codex.batch import open_batch

    count, first = count_of(setting), first_of(setting)

    async def main(home):
        async with open_batch(
            tasks_of(first + count), out=home.tmp / "run", config=home.config(), turns=AT_ONCE
        ) as running:
            for _ in range(first):
                await anext(running)
            with Stopwatch() as watch:
                values = [outcome.value async for outcome in running]
        assert values == ["hello"] * count
        return summarize(watch, count)

    with offline() as home:
        return trio.run(main, home)


def bare_loop(setting):
    import trio

    from trio_codex import open_codex

    count = count_of(setting)

    async def main(home):
        values, limit = [], trio.CapacityLimiter(AT_ONCE)

        async def run():
            async with limit, await codex.thread_start(cwd=home.workspace) as thread:
                values.append((await thread.run("hello")).final_response)

        async def run_all(number):
            async with trio.open_nursery() as nursery:
                for _ in range(number):
                    nursery.start_soon(run)

        async with open_codex(home.config()) as codex:
            await run_all(first_of(setting))
            with Stopwatch() as watch:
                await run_all(count)
        assert values == ["hello"] * (first_of(setting) + count)
        return summarize(watch, count)

    with offline() as home:
        return trio.run(main, home)


def sdk_config(home):
    import openai_codex

    from trio_codex.binary import find_binary

    return openai_codex.CodexConfig(
        launch_args_override=(str(find_binary().path), "app-server"),
        env=dict(home.env),
        cwd=str(home.workspace),
    )


def threads_of_codex(setting):
    from concurrent.futures import ThreadPoolExecutor

    import openai_codex

    count = count_of(setting)
    with offline() as home, openai_codex.Codex(sdk_config(home)) as codex:

        def run(_):
            return codex.thread_start(cwd=str(home.workspace)).run("hello").final_response

        with ThreadPoolExecutor(AT_ONCE) as pool:
            [*pool.map(run, range(first_of(setting)))]
            with Stopwatch() as watch:
                values = [*pool.map(run, range(count))]
    assert values == ["hello"] * count
    return summarize(watch, count)


def tasks_of_async_codex(setting):
    import asyncio

    import openai_codex

    count = count_of(setting)

    async def main(home):
        limit = asyncio.Semaphore(AT_ONCE)

        async def run():
            async with limit:
                thread = await codex.thread_start(cwd=str(home.workspace))
                return (await thread.run("hello")).final_response

        async with openai_codex.AsyncCodex(sdk_config(home)) as codex:
            await asyncio.gather(*(run() for _ in range(first_of(setting))))
            with Stopwatch() as watch:
                values = await asyncio.gather(*(run() for _ in range(count)))
        assert values == ["hello"] * count
        return summarize(watch, count)

    with offline() as home:
        return asyncio.run(main(home))


def growth_of_the_server(setting):
    """Memory and descriptors that a server keeps for tasks that have ended."""
    import trio

    from trio_codex.batch import open_batch

    count, warm = setting.pick((1200, 200), (80, 30))
    # Each measurement is made while the next tasks wait, and all before them have ended.
    measured = {warm: trio.Event(), count: trio.Event()}
    waiting, pids = trio.Semaphore(0), set()

    async def solve(ctx):
        number = int(ctx.task.id)
        for ended, event in measured.items():
            if ended <= number < ended + AT_ONCE:
                pids.add(ctx.codex.pid)
                waiting.release()
                await event.wait()
        return (await ctx.thread.run(ctx.task.prompt)).final_response

    async def main(home):
        found = []

        async def measure():
            for event in measured.values():
                for _ in range(AT_ONCE):
                    await waiting.acquire()
                (pid,) = pids
                files = len(os.listdir(f"/proc/{pid}/fd"))
                found.append((resident_kib(pid) / 1024, files, cpu_of(pid)))
                event.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(measure)
            async with open_batch(
                tasks_of(count + AT_ONCE), solve, out=home.tmp / "run", config=home.config(), turns=AT_ONCE
            ) as running:
                async for outcome in running:
                    assert outcome.status == "ok"
        (memory, files, cpu), (memory_then, files_then, cpu_then) = found
        return {
            "server MiB": memory_then - memory,
            "server descriptors": files_then - files,
            "server cpu ms/task": 1e3 * (cpu_then - cpu) / (count - warm),
        }

    with offline() as home:
        return trio.run(main, home)


def cpu_of(pid):
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- on the scripted server --------------------------------------------------------------------------------------------


def scripted(setting):
    """The client's own cost: CPU time and memory per task."""
    import tempfile

    import trio

    from trio_codex import CodexConfig
    from trio_codex.batch import open_batch

    count, warm = setting.pick((10_000, WARM), (600, 200))
    config = CodexConfig(
        launch_args_override=[sys.executable, "-I", "-S", str(HELLO_SERVER), setting.directory]
    )

    async def main(out):
        before = 0
        async with open_batch(tasks_of(count), out=out, config=config, turns=AT_ONCE) as running:
            done = 0
            with Stopwatch() as watch:
                async for outcome in running:
                    assert outcome.value == "hello", outcome
                    done += 1
                    if done == warm:
                        before = resident_kib()
        return summarize(watch, count) | {"client MiB": (resident_kib() - before) / 1024}

    with tempfile.TemporaryDirectory() as directory:
        return trio.run(main, Path(directory) / "run")


# -- after Ctrl-C ------------------------------------------------------------------------------------------------------

INTERRUPTED_AFTER = 3.0
"""Seconds of work before Ctrl-C."""
ENOUGH = 20
"""Seconds after which a program counts as hanging."""


def interrupted(case):
    """Measure how long a program takes to end after Ctrl-C, and how many of its processes remain."""

    def measure(setting):
        cookie = f"{os.getpid()}-{time.monotonic_ns()}"
        code = "import sys; from benchmarks.run import main_of_case; main_of_case(*sys.argv[1:])"
        program = subprocess.Popen(
            [sys.executable, "-c", code, "batches", case, f'["{setting.directory}", false]'],
            env={**os.environ, "BENCHMARK_COOKIE": cookie},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(INTERRUPTED_AFTER)
        program.send_signal(signal.SIGINT)
        start = time.perf_counter()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(ENOUGH)
        seconds = time.perf_counter() - start
        program.kill()
        program.wait()
        time.sleep(0.5)
        left = [pid for pid in processes_with(cookie) if is_codex(pid)]
        for pid in processes_with(cookie):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return {"s to end after Ctrl-C": seconds, "servers left": len(left)}

    return measure


def processes_with(cookie):
    for each in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"BENCHMARK_COOKIE={cookie}".encode() in each.read_bytes():
                yield int(each.parent.name)


def is_codex(pid):
    with contextlib.suppress(OSError):
        return b"app-server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


CASES = {
    "batch": batch,
    "bare loop": bare_loop,
    "Codex, 16 threads": threads_of_codex,
    "AsyncCodex": tasks_of_async_codex,
    "scripted server": scripted,
    "1,000 tasks": growth_of_the_server,
    "batch, Ctrl-C": interrupted("batch"),
    "bare loop, Ctrl-C": interrupted("bare loop"),
    "Codex, Ctrl-C": interrupted("Codex, 16 threads"),
    "AsyncCodex, Ctrl-C": interrupted("AsyncCodex"),
}
