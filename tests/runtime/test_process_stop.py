"""Stopping the server process: EOF, SIGTERM, SIGKILL, and its descendants."""

import gc
import os
import signal
import sys

import pytest
import trio
import trio.testing

from process.running_server import ENV, fake, gone, nothing_left, read_line, run_here, running, runs, until
from trio_codex._process import server as _process
from trio_codex._process.spawn import spawn_server
from trio_codex.errors import SpawnError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


# -- stop ----------------------------------------------------------------------------------------------------------


async def test_a_cooperative_server_ends_on_eof(run, no_leaks):
    async with run(*fake("gentle")) as server:
        assert await server.process.stop(5) == 0
        assert await server.process.stop(5) == 0
    await gone(server.process.pid, *[server.guard] if server.process.contained else [])


@pytest.mark.parametrize(
    ("behavior", "returncode"),
    [("deaf", -signal.SIGTERM), ("stubborn", -signal.SIGKILL), ("mute", 0), ("chatter", 0)],
)
async def test_stopping_escalates_until_the_server_ends(run, behavior, returncode, no_leaks):
    async with run(*fake(behavior)) as server:
        assert await server.process.stop(0.3) == returncode
        assert not runs(server.process.pid)
    await gone(server.process.pid)


@pytest.mark.parametrize(
    ("behavior", "returncode"), [("gentle", -signal.SIGTERM), ("stubborn", -signal.SIGKILL)]
)
async def test_a_stopped_server_is_killed(run, behavior, returncode, no_leaks):
    async with run(*fake(behavior)) as server:
        os.kill(server.process.pid, signal.SIGSTOP)
        # SIGTERM wakes it; it then exits because of that, or of EOF, whichever it sees first.
        assert await server.process.stop(0.3) in (returncode, 0)
    await gone(server.process.pid)


async def test_a_server_whose_stdout_is_not_drained_is_terminated(spawn, no_leaks):
    process = spawn(fake("chatter"))
    with trio.fail_after(10):
        await process.started()
        assert await process.stop(0.5) == -signal.SIGTERM


async def test_with_a_grace_of_zero_the_server_is_killed_immediately(run, no_leaks):
    async with run(*fake("deaf")) as server:  # this server would end on SIGTERM
        assert await server.process.stop(0) == -signal.SIGKILL


@pytest.mark.parametrize("behavior", ["stubborn_child", "daemon"])
async def test_processes_left_behind_by_the_server_are_killed_and_stdout_ends(behavior, no_leaks):
    async with running(*fake(behavior)) as server:
        assert runs(server.pids[0])
        assert await server.process.stop(5) == 0
        assert not any(map(runs, [server.process.pid, server.guard, *server.pids]))


async def test_without_a_guard_processes_in_the_servers_group_are_killed_too(monkeypatch):
    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    async with running(*fake("stubborn_child"), guarded=False) as server:
        await server.process.stop(5)
        await gone(*server.pids)


async def test_without_a_guard_children_in_other_sessions_are_found_by_psutil(monkeypatch):
    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    pytest.importorskip("psutil")
    argv = ["/bin/sh", "-c", "setsid sleep 1000 & echo ready $!; cat"]
    async with running(*argv, guarded=False) as server:
        await until(lambda: os.getsid(server.pids[0]) == server.pids[0])
        await server.process.stop(5)
        await gone(*server.pids)


async def test_when_the_server_dies_its_tree_is_killed_automatically(no_leaks):
    async with running(*fake("stubborn_daemon")) as server:
        os.kill(server.process.pid, signal.SIGKILL)
        await gone(server.process.pid, *server.pids)
        assert await server.process.wait() == -signal.SIGKILL


async def test_kill_tree_ends_everything_immediately(no_leaks):
    async with running(*fake("stubborn_daemon")) as server:
        await server.process.kill_tree()
        assert not any(map(runs, [server.process.pid, server.guard, *server.pids]))
        assert server.process.returncode == -signal.SIGKILL


async def test_kill_tree_cuts_a_stop_short(run):
    async with run(*fake("stubborn")) as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.process.stop, 1000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await server.process.kill_tree()
        assert server.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("behavior", ["gentle", "stubborn_daemon"])
async def test_a_stop_under_cancellation_still_ends_everything(run, behavior, no_leaks):
    async with run(*fake(behavior)) as server:
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.process.stop(1000)
        assert scope.cancelled_caught
        assert not runs(server.process.pid)
        # The cooperative server may end before the signal, because its stdin is closed first.
        assert server.process.returncode in (
            (0, -signal.SIGKILL) if behavior == "gentle" else (-signal.SIGKILL,)
        )
    if server.process.contained:
        assert not any(map(runs, server.pids))
    else:
        for pid in server.pids:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("after", [0.0, 0.01, 0.25])
async def test_a_stop_cancelled_part_way_still_ends_everything(run, after, no_leaks):
    async with run(*fake("stubborn")) as server:
        with trio.move_on_after(after) as scope:
            await server.process.stop(0.4)
        assert scope.cancelled_caught
        assert not runs(server.process.pid)
        assert server.process.returncode == -signal.SIGKILL
        assert await server.process.stop(0) == -signal.SIGKILL


async def test_waiting_tasks_are_woken_when_the_process_is_stopped(run):
    told = []

    async def wait(process):
        told.append(await process.wait())

    async with run(*fake("stubborn")) as server, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait, server.process)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await server.process.kill_tree()
    assert told == [-signal.SIGKILL] * 3


async def test_tasks_using_the_streams_are_woken_when_the_process_is_stopped(run):
    async def send(process):
        with pytest.raises(trio.ClosedResourceError):
            await process.stdin.send_all(bytes(10_000_000))

    async with run(*fake("deaf")) as server, trio.open_nursery() as nursery:
        nursery.start_soon(send, server.process)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await server.process.stop(0)
        with pytest.raises(trio.ClosedResourceError):
            await server.process.stdout.receive_some()


async def test_stopping_before_the_start_is_complete_ends_the_process(spawn, no_leaks):
    process = spawn(fake("stubborn"))
    with trio.fail_after(10):
        await process.kill_tree()
        # How far the start got is a race, but the process must have ended.
        if process.pid is not None:
            assert process.returncode == -signal.SIGKILL
            assert not runs(process.pid)
        else:
            with pytest.raises((trio.ClosedResourceError, SpawnError)):
                await process.started()


async def test_waiting_tasks_are_woken_when_the_process_is_abandoned():
    async def wait(process):
        with pytest.raises(trio.ClosedResourceError):
            await process.wait()

    async with running(*fake("stubborn")) as server, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait, server.process)
        await trio.testing.wait_all_tasks_blocked(0.01)
        server.process.abandon()
    with trio.fail_after(10):
        await until(lambda: not _process.reap())


@pytest.mark.parametrize("started", [False, True])
async def test_an_abandoned_process_ends_in_the_background(spawn, started):
    with nothing_left():
        process = spawn(fake("stubborn"))
        if started:
            with trio.fail_after(10):
                await process.started()
        process.abandon()
        process.abandon()
        pid = process.pid
        with trio.fail_after(10):
            if started:
                await until(lambda: not runs(pid))
            with pytest.raises(trio.ClosedResourceError):
                await process.wait()
            await process.stop(1)
            await until(lambda: not _process.reap())


async def test_a_garbage_collected_process_ends_in_the_background():
    process = spawn_server(fake("stubborn_daemon"), env=ENV)
    with trio.fail_after(10):
        await process.started()
        pids = [int(pid) for pid in (await read_line(process)).split()[1:]]
        pid = process.pid
        with pytest.warns(ResourceWarning) as caught:  # noqa: PT031
            del process
            gc.collect()
        assert len(caught) == 1
        await gone(*pids, pid)
        await until(lambda: not _process.reap())


async def test_the_server_ends_with_its_guard(no_leaks):
    async with running(*fake("stubborn_parent")) as server:
        os.kill(server.guard, signal.SIGKILL)
        assert await server.process.wait() == -signal.SIGKILL
        await gone(server.process.pid)
        await gone(*server.pids)


async def test_a_stopped_guard_does_not_delay_the_end(no_leaks):
    async with running(*fake("stubborn_daemon")) as server:
        os.kill(server.guard, signal.SIGSTOP)
        await server.process.stop(0.2)
        assert not any(map(runs, [server.process.pid, server.guard, *server.pids]))


async def test_two_servers_do_not_affect_each_others_trees(no_leaks):
    async with running(*fake("daemon")) as one, running(*fake("daemon")) as other:
        await one.process.kill_tree()
        assert not any(map(runs, [one.process.pid, *one.pids]))
        assert all(map(runs, [other.process.pid, other.guard, *other.pids]))
        await other.process.stop(5)
        assert other.process.returncode == 0


async def test_fifty_consecutive_servers_leave_nothing_behind():
    async def cycle():
        process = spawn_server(["/bin/cat"], env=ENV)
        with trio.fail_after(10):
            await process.started()
            assert await process.stop(5) == 0

    await cycle()
    gc.collect()
    with nothing_left():
        for _ in range(50):
            await cycle()
