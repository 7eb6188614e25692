"""Observe the official SDK under the same faults. Each function is one probe, run as ``python probes.py NAME``.

A probe prints one JSON line: what the SDK did, with the measured numbers, and whether that is what the guarantee promises.
It uses the fake servers of ``tests/faults`` and the SDK; of this library, only the scripted model.
"""

import asyncio
import json
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import openai_codex as sdk
from openai_codex.client import CodexClient

TESTS = Path(__file__).parents[1]
COOKIE = os.environ.get("COOKIE", "")
SECRET = "s3cret-s3cret-s3cret"
PATIENCE = 4
"""Seconds after which a call counts as hanging. Its response arrives immediately or never."""


def configured(*fault, **env):
    argv = (sys.executable, "-I", "-S", str(TESTS / "faults" / "server.py"), *fault)
    return sdk.CodexConfig(launch_args_override=argv, env={"COOKIE": COOKIE, **env})


def flooding():
    return sdk.CodexConfig(launch_args_override=(sys.executable, "-S", str(TESTS / "faults" / "flood.py")))


def outcome(call, *args):
    """Call something that may hang; return ``(word, value, seconds)``. The word is ``gives``, ``raises`` or ``hangs``."""
    told = ["hangs", None]

    def run():
        try:
            told[:] = "gives", call(*args)
        except BaseException as exc:
            told[:] = "raises", exc

    start = time.monotonic()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return told[0], told[1], time.monotonic() - start


def words(told):
    word, value, _ = told
    return f"raises {type(value).__name__}" if word == "raises" else "hangs" if word == "hangs" else "works"


def left():
    """Return how many processes have the cookie in their environment, including zombies of this one."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                zombie = stat[0] == "Z" and int(stat[1]) == os.getpid()
                count += zombie or f"COOKIE={COOKIE}".encode() in (entry / "environ").read_bytes()
    return count


def processes(count):
    return "no process" if count == 0 else f"{count} process{'es' if count > 1 else ''}"


def opened(config, **options):
    client = CodexClient(config, **options)
    client.start()
    client.initialize()
    return client


def heard(client):
    """Return the methods that the server has received."""
    return client._request_raw("test/heard")


# -- scopes ------------------------------------------------------------------------------------------------------------


def closing_with_a_grandchild():
    client = opened(configured("grandchild:session", "", "boot"))
    client.close()
    time.sleep(0.5)
    return f"leaves {processes(left())}", left() == 0


def closing_a_server_that_ignores_eof_and_signals():
    client = opened(configured("stubborn", "", "boot"))
    told = outcome(client.close)
    time.sleep(0.5)
    return f"leaves {processes(left())} after {told[2]:.1f} s", left() == 0


def closing_during_a_large_write():
    client = opened(configured("mute", "", "idle"))
    for text in ("x" * 8_000_000, ""):
        threading.Thread(target=lambda text=text: client._request_raw("m", {"x": text}), daemon=True).start()
        time.sleep(0.3)
    told = outcome(client.close)
    return words(told), told[0] == "gives"


def a_cancelled_start_of_a_silent_server():
    async def main():
        with suppress(TimeoutError):
            await asyncio.wait_for(sdk.AsyncCodex(configured("mute", "", "boot")).__aenter__(), 1)
        await asyncio.sleep(0.5)
        return f"leaves {processes(left())}; blocked worker threads: {workers()}", left() == 0

    # ``asyncio.run()`` would wait for the blocked workers forever.
    return asyncio.new_event_loop().run_until_complete(main())


def workers():
    return sum(thread.name.startswith("asyncio") for thread in threading.enumerate())


def a_cancelled_turn():
    async def main():
        codex = await sdk.AsyncCodex(flooding()).__aenter__()
        thread = await codex.thread_start()
        with suppress(TimeoutError):
            await asyncio.wait_for(thread.run("hang"), 1)
        sent = await asyncio.to_thread(heard, codex._client._sync)
        interrupts = sent.count("turn/interrupt")
        return f"sends {interrupts or 'no'} interrupt; the turn continues", interrupts > 0

    return asyncio.new_event_loop().run_until_complete(main())


def an_interrupt_right_after_the_start():
    def run(config):
        with sdk.Codex(config) as codex:
            return words(outcome(codex.thread_start().turn("go").interrupt))

    told = with_the_real_server(run)
    return told, told == "works"


def a_cancelled_start_of_a_thread():
    async def main():
        codex = await sdk.AsyncCodex(configured("pause", "before", "thread/start")).__aenter__()
        with suppress(TimeoutError):
            await asyncio.wait_for(codex.thread_start(), 0.02)
        await asyncio.sleep(0.5)
        sent = await asyncio.to_thread(heard, codex._client._sync)
        undone = sent.count("thread/delete")
        return f"the thread {'is deleted' if undone else 'remains'}", "thread/start" not in sent or undone > 0

    return asyncio.new_event_loop().run_until_complete(main())


def a_parent_that_is_killed():
    opened(configured("grandchild:daemon", "", "boot"))
    # The runner now kills this process, and counts those that are left.
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    time.sleep(60)


# -- the connection ----------------------------------------------------------------------------------------------------


def a_handler_that_takes_two_seconds():
    asked = threading.Event()

    def handler(method, params):
        asked.set()
        time.sleep(2)
        return {"decision": "decline"}

    client = opened(configured("ask:an approval", "before", "turn/completed"), approval_handler=handler)
    client.thread_start({})
    client.turn_start("thread-1", "go")
    asked.wait(PATIENCE)
    _, _, seconds = outcome(client.model_list)
    return f"an unrelated request takes {seconds:.1f} s", seconds < 1


def a_server_that_dies():
    client = opened(configured("die:KILL", "before", "thread/start"))
    told = [
        words(outcome(call)) for call in (lambda: client.thread_start({}), client.model_list, client.close)
    ]
    kept = "Broken" not in "".join(told) and "hangs" not in told
    return f"the call {told[0]}, the next one {told[1]}, close() {told[2]}", kept


def an_overloaded_server():
    client = opened(configured("reply:as an error with code -32001", "instead", "thread/start"))
    _, error, _ = outcome(lambda: client.thread_start({}))
    retried = sdk.is_retryable_error(error)
    return f"raises {type(error).__name__}, {'' if retried else 'not '}retryable", retried


def a_caller_that_is_cancelled_during_a_write():
    async def main():
        codex = await sdk.AsyncCodex(configured("lenient", "", "boot")).__aenter__()
        with stopped(codex._client._sync), suppress(TimeoutError):
            await asyncio.wait_for(codex.thread_start(base_instructions="x" * 1_000_000), 1)
        return next_line_of(codex._client._sync)

    return asyncio.new_event_loop().run_until_complete(main())


def a_caller_that_is_interrupted_by_ctrl_c_during_a_write():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore SIGINT
    codex = sdk.Codex(configured("lenient", "", "boot"))
    with stopped(codex._client), suppress(KeyboardInterrupt):
        threading.Timer(1, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
        codex.thread_start(base_instructions="x" * 1_000_000)
    return next_line_of(codex._client)


def next_line_of(client):
    """Send a request after a line that may have been cut short."""
    told = outcome(heard, client)
    arrived = "thread/start" in told[1] if told[0] == "gives" else False
    return (
        f"the line {'arrives whole' if arrived else 'never arrives'}; the next request {words(told)}",
        told[0] == "gives",
    )


@contextmanager
def stopped(client):
    """Suspend the server, so that a long line is only partly written to the pipe."""
    os.kill(client._proc.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(client._proc.pid, signal.SIGCONT)


def a_handler_that_raises():
    def handler(method, params):
        raise ValueError

    client = opened(configured("ask:an approval", "before", "turn/completed"), approval_handler=handler)
    client.thread_start({})
    client.turn_start("thread-1", "go")
    time.sleep(0.5)
    told = words(outcome(client.model_list))
    return f"no answer is sent; the next request {told}", told == "works"


def approvals_without_a_handler():
    answers = {}
    for kind in ("an approval", "a file change", "an unknown request"):
        client = opened(configured(f"ask:{kind}", "before", "turn/completed"))
        client.thread_start({})
        client.turn_start("thread-1", "go")
        while (note := client.next_notification()).method != "test/answered":
            pass
        answers[kind] = note.payload.params.get("result", note.payload.params.get("error"))
    told = "; ".join(f"{kind}: `{json.dumps(answer)}`" for kind, answer in answers.items())
    return told, "accept" not in told


def a_line_that_is_not_json():
    client = opened(configured("junk:text", "before", "thread/start"))
    told = [words(outcome(call)) for call in (lambda: client.thread_start({}), client.model_list)]
    return f"the call {told[0]}, the next one {told[1]}", told == ["works", "works"]


def a_unicode_line_separator_in_a_string():
    client = opened(configured("junk:U+2028", "before", "thread/start"))
    told = words(outcome(lambda: client.thread_start({})))
    return f"the call {told}", told == "works"


def invalid_utf8_on_stderr():
    client = opened(configured("stderr:bytes", "before", "thread/start"))
    told = words(outcome(lambda: client.thread_start({})))
    return f"the call {told}", told == "works"


def a_consumer_that_never_reads():
    count = 200_000
    client = opened(flooding())
    thread_id = client.thread_start({}).thread.id
    before, now = memory(), 0
    client.turn_start(thread_id, f"say {count}")
    while now != (now := memory()):
        time.sleep(1)
    return f"{count} unread events take {now - before} MB", now - before < 20


def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def a_turn_with_an_unknown_status():
    codex = sdk.Codex(configured("reply:unknown status", "instead", "turn/completed"))
    told = outcome(codex.thread_start().run, "go")
    detail = f": {told[1]}" if told[0] == "raises" else ""
    return f"run() {words(told)}{detail}"[:160], told[0] == "gives"


def an_error_that_is_pickled():
    kept = []
    for error in (sdk.InvalidRequestError(-32600, "no", {"a": 1}), sdk.TransportClosedError("gone")):
        told = outcome(lambda error=error: pickle.loads(pickle.dumps(error)))
        kept.append(told[0] == "gives" and vars(told[1]) == vars(error))
        if not kept[-1]:
            return f"{type(error).__name__} {words(told)}", False
    return "works", all(kept)


def worker_threads_of_a_turn():
    async def main():
        async with sdk.AsyncCodex(flooding()) as codex:
            thread = await codex.thread_start()
            await thread.run("hello")
            return threading.active_count() - 1

    threads = asyncio.new_event_loop().run_until_complete(main())
    return f"{threads} more threads after one turn", threads == 0


def coroutines_as_cancellation_points():
    async def main():
        async with sdk.AsyncCodex(flooding()) as codex:
            thread = await codex.thread_start()
            turn = await thread.turn("hang")
            calls = {
                "thread_start": codex.thread_start, "turn": lambda: thread.turn("hello"), "steer": lambda: turn.steer("x"),
                "interrupt": turn.interrupt, "run": turn.run, "models": codex.models, "close": codex.close,
            }  # fmt: skip
            not_one = [name for name, call in calls.items() if not await cancels(call)]
            return f"{len(calls) - len(not_one)} of {len(calls)}", not not_one

    return asyncio.new_event_loop().run_until_complete(main())


async def cancels(call):
    """Return whether a call raises the pending cancellation of its task."""

    async def run():
        asyncio.current_task().cancel()
        await call()
        return False

    try:
        return await asyncio.create_task(run())
    except asyncio.CancelledError:
        return True


def another_task_while_a_full_buffer_is_read():
    async def main():
        async with sdk.AsyncCodex(flooding()) as codex:
            turn = await (await codex.thread_start()).turn("say 20000")
            await asyncio.sleep(2)
            ticks, longest, last = [0], 0, 0

            async def tick():
                while True:
                    ticks[0] += 1
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            alone = 0
            async for _ in turn.stream():
                alone, last = (alone + 1, last) if ticks[0] == last else (1, ticks[0])
                longest = max(longest, alone)
            ticking.cancel()
            return f"runs after {longest} event{'s' if longest > 1 else ''} at most", longest <= 64

    return asyncio.new_event_loop().run_until_complete(main())


def a_request_that_is_never_answered():
    client = opened(configured("mute", "", "idle"))
    told = outcome(client.model_list)
    waits = told[0] == "hangs"
    return f"still waiting after {PATIENCE} s" if waits else words(told), waits


def closing_a_server_that_needs_three_seconds_to_end():
    client = opened(configured("late:3", "", "boot"))
    server = client._proc
    _, _, seconds = outcome(client.close)
    killed = server.wait() == -signal.SIGKILL
    settable = [name for name in dir(client.config) if "timeout" in name or "grace" in name]
    told = f"{'kills it' if killed else 'lets it end'} after {seconds:.1f} s; {len(settable) or 'no'} setting for it"
    return told, not killed or bool(settable)


def a_secret_on_stderr():
    code = "import os, sys; sys.stderr.write(os.environ['API_KEY'] + '\\n'); sys.stderr.flush()"
    argv = (sys.executable, "-c", code)
    client = CodexClient(sdk.CodexConfig(launch_args_override=argv, env={"API_KEY": SECRET}))
    client.start()
    time.sleep(0.5)
    _, error, _ = outcome(client.initialize)
    shown = SECRET in f"{error!r} {client.config!r}"
    return f"the value is {'' if shown else 'not '}shown", not shown


# -- the real server ---------------------------------------------------------------------------------------------------


def with_the_real_server(run):
    import trio

    from trio_codex.testing import MockModel, offline_home

    async def main():
        async with MockModel() as model:
            model.hang("working")
            with offline_home(model) as home:
                return await trio.to_thread.run_sync(run, sdk.CodexConfig(env=dict(home.env)))

    return trio.run(main)


def concurrent_first_starts():
    count = 8

    def run(config):
        threads, works = [], []

        def start():
            with suppress(Exception), sdk.Codex(config):
                works.append(1)

        for _ in range(count):
            threads.append(threading.Thread(target=start))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return len(works)

    works = with_the_real_server(run)
    return f"{works} of {count} succeed", works == count


PROBES = {
    "G1": [
        closing_with_a_grandchild,
        closing_a_server_that_ignores_eof_and_signals,
        closing_during_a_large_write,
    ],
    "G2": [a_cancelled_turn, an_interrupt_right_after_the_start],
    "G3": [a_cancelled_start_of_a_silent_server, a_cancelled_start_of_a_thread],
    "G4": [a_handler_that_takes_two_seconds],
    "G5": [a_server_that_dies],
    "G6": [an_overloaded_server],
    "G7": [
        a_caller_that_is_cancelled_during_a_write,
        a_caller_that_is_interrupted_by_ctrl_c_during_a_write,
    ],
    "G8": [a_handler_that_raises],
    "G9": [approvals_without_a_handler],
    "G10": [a_consumer_that_never_reads],
    "G11": [a_turn_with_an_unknown_status],
    "G12": [a_line_that_is_not_json, a_unicode_line_separator_in_a_string],
    "G13": [invalid_utf8_on_stderr],
    "G14": [an_error_that_is_pickled],
    "G15": [worker_threads_of_a_turn],
    "G16": [concurrent_first_starts],
    "G17": [coroutines_as_cancellation_points, another_task_while_a_full_buffer_is_read],
    "G18": [a_secret_on_stderr],
    "G19": [a_request_that_is_never_answered, closing_a_server_that_needs_three_seconds_to_end],
    "G20": [a_parent_that_is_killed],
}
"""The probes by guarantee."""


if __name__ == "__main__":
    (probe,) = (probe for probes in PROBES.values() for probe in probes if probe.__name__ == sys.argv[1])
    did, kept = probe()
    sys.stdout.write(json.dumps({"did": did, "kept": kept}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # do not wait for threads that hang
