"""Only the caller sets time limits: without one, no operation gives up, however long it takes."""

import ast
import math
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import trio_codex
from trio_codex import CodexConfig, Policy, connect_codex, errors
from trio_codex.testing import FakeServer, fake_codex

A_YEAR = 365 * 24 * 3600

NO_BUDGET = CodexConfig(
    start_timeout=math.inf, request_timeout=math.inf, interrupt_grace=math.inf, stop_grace=math.inf
)


async def run(codex, thread):
    await thread.run("hi")


async def iterate(codex, thread):
    async with thread.turn("hi") as turn:
        async for event in turn:
            assert event.method == "turn/started"


async def read_text(codex, thread):
    async with thread.turn("hi") as turn:
        async for _ in turn.text():
            pytest.fail("the turn has no text")


async def steer(codex, thread):
    async with thread.turn("hi") as turn:
        await turn.steer("rather this")


async def interrupt(codex, thread):
    async with thread.turn("hi") as turn:
        await turn.interrupt()


async def leave_early(codex, thread):
    async with thread.turn("hi"):
        pass


async def leave_the_thread(codex, thread):
    async with thread:
        pass


async def open_cancelled(codex, thread):
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(codex.thread_start)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()


async def listen(codex, thread):
    async with codex.events("no/such") as events:
        await events.__anext__()


async def listen_to_the_thread(codex, thread):
    async with thread.events() as events:
        async for event in events:
            assert event.method == "turn/started"


WAITS = {
    "a request": lambda codex, thread: codex.request("thread/list"),
    "a typed request": lambda codex, thread: codex.models(),
    "opening a thread": lambda codex, thread: codex.thread_start(),
    "reading a thread": lambda codex, thread: thread.read(),
    "the end of the connection": lambda codex, thread: codex.wait_closed(),
    "running a turn": run,
    "iterating over a turn": iterate,
    "reading its text": read_text,
    "steering it": steer,
    "interrupting it": interrupt,
    "leaving it early": leave_early,
    "leaving a thread": leave_the_thread,
    "undoing an opening": open_cancelled,
    "listening": listen,
    "listening to a thread": listen_to_the_thread,
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
async def test_waiting_has_no_time_limit(wait, autojump_clock):
    async with fake_codex(NO_BUDGET, strict=False) as (codex, server):
        thread = await codex.thread_start()
        server.take_over(
            "thread/start", "thread/delete", "thread/unsubscribe", "thread/backgroundTerminals/clean"
        )
        over = trio.Event()

        async def body():
            with suppress(errors.ConnectionBroken, errors.TurnLost):
                await wait(codex, thread)
            over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(body)
            with trio.move_on_after(0):
                await server.accept_turn()
            await trio.sleep(A_YEAR)
            assert not over.is_set()
            await server.hang_up()


async def test_a_start_has_no_built_in_timeout(autojump_clock):
    client_end, server_end = trio.testing.memory_stream_pair()
    server = FakeServer(server_end)
    server.take_over("initialize")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        with trio.move_on_after(A_YEAR) as scope:
            nursery.start_soon(partial(connect_codex, nursery, client_end, config=NO_BUDGET))
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert len(nursery.child_tasks) > 1, "it gave up"
        nursery.cancel_scope.cancel()


async def test_a_policy_has_no_time_limit(autojump_clock):
    async def think(request):
        await trio.sleep(A_YEAR)
        return trio_codex.policies.accept()

    params = {"threadId": "thread-1", "turnId": "turn-1", "itemId": "item-1", "startedAtMs": 0}
    async with fake_codex(NO_BUDGET, policy=Policy(command=think)) as (codex, server):
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, "hi")
            await server.accept_turn()
            await server.ask(7, "item/commandExecution/requestApproval", params)
            assert await server.answer_to(7) == {"decision": "accept"}
            await server.end_turn()


# -- deadlines in the source -----------------------------------------------------------------------------------

BUDGETS = {"start_timeout", "request_timeout", "interrupt_grace", "stop_grace"}

BOUNDS = {
    "_launch/_binary": {
        "VERSION_SECONDS",
        "END_BOUND",
    },  # for reading the version of a binary, without a server
    "_link/connection": {"DIAGNOSIS_SECONDS", "seconds"},  # why the connection ended; sleep(seconds)
    "_session/ending": {
        "CALLBACK_SHARE",
        "delay",
    },  # a share of interrupt_grace, and the delay between retries
    "_face/callbacks": {"grace"},  # for a withdrawn callback, in an event loop that may be stopped
    "_api/goal": {"NEXT_TURN_SECONDS"},
    "_api/liveness": {"within"},  # the caller's timeout for wait_unresponsive()
    "supervision/_turnstile": {"patience"},  # the caller's timeout for restart()
    "_session/goal": {
        "NEXT_TURN_SECONDS"
    },  # for a turn that may never start; after that there is nothing to interrupt
    "_session/rejoining": {"NEXT_TURN_SECONDS"},
    "_api/lifecycle": {"FLUSH_SECONDS", "DIAGNOSIS_SECONDS"},
    "_link/websocket": {"CLOSE_SECONDS"},  # for a close frame that a server does not read
    "_process/channel": {"DIAGNOSIS_SECONDS"},  # for the exit status, to find out why the connection ended
    "_link/call": {"seconds"},  # set by the callers of answer_within()
    "_link/timeouts": {"seconds"},  # the sleep of the task that expires all others
    "_process/server": {"END_BOUND", "ask_at", "kill_at"},  # of stop(), whose grace the caller sets
    "_process/group": {"END_BOUND"},
    "_tools/calling": {"math", "inf", "tool", "timeout"},  # the timeout of a tool, set by its author
}
"""Names that may appear in a deadline besides the caller's timeouts, mostly bounds of cleanup."""

DEADLINES = {"move_on_after", "move_on_at", "fail_after", "fail_at", "CancelScope"}


def names_in(*expressions):
    """Return every name and attribute in these expressions, without leading underscores."""
    nodes = [node for expression in expressions for node in ast.walk(expression)]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return {
        name.lstrip("_") for name in names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    }


def assignments_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from zip(target.elts, value.elts, strict=True)
            else:
                yield target, value


def deadlines_of(path):
    """Yield the line and the names of every expression in a file that sets a deadline. Resolve local aliases."""
    tree = ast.parse(path.read_text())
    aliases = {
        target.id
        for target, value in assignments_of(tree)
        if isinstance(target, ast.Name) and names_in(value) & BUDGETS
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in DEADLINES
        ):
            given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg != "shield")]
            if given:
                names = names_in(*given)
                yield node.lineno, names - aliases | (BUDGETS if names & aliases else set())


def test_no_plain_cancel_scope_is_used_as_a_server_timeout():
    # Trio expires deadlines before it runs any task. After a stall, the scope would expire although the server had
    # responded.
    root = Path(trio_codex.__file__).parent
    for path in sorted(root.glob("_*/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("trio."):
                judging = names_in(*node.args, *(keyword.value for keyword in node.keywords)) & BUDGETS
                assert not judging - {"stop_grace"}, f"{path}:{node.lineno}: use Timeouts.move_on_after"


def test_every_deadline_in_the_source_is_set_by_the_caller_or_bounds_cleanup():
    root = Path(trio_codex.__file__).parent
    seen = 0
    for path in sorted(root.glob("_*/*.py")):
        where = "/".join(path.relative_to(root).with_suffix("").parts)
        for line, names in deadlines_of(path):
            seen += 1
            bounds = names - {
                "config",
                "self",
                "session",
                "server",
                "min",
                "math",
                "inf",
                "trio",
                "current_time",
            }
            assert bounds, f"{where}:{line}: the deadline is a bare number"
            unknown = bounds - BUDGETS - BOUNDS.get(where, set())
            assert not unknown, f"{where}:{line}: what does {', '.join(unknown)} bound, and whose wait is it?"
    assert seen > 10
