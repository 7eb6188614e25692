"""The gate before a first start, on its own and before the real binary."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import trio
import trio.testing

from process.running_server import descriptors, drain, read_line
from trio_codex._launch._binary import find_binary
from trio_codex._process.spawn import spawn_server
from trio_codex._process.start_gate import start_gate

fcntl = pytest.importorskip("fcntl")

HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def is_held(home):
    fd = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


async def test_starts_pass_one_at_a_time_on_a_new_home(tmp_path):
    inside = 0
    most = 0
    through = 0

    async def start():
        nonlocal inside, most, through
        async with start_gate(tmp_path):
            inside += 1
            most = max(most, inside)
            assert is_held(tmp_path)
            await trio.lowlevel.checkpoint()
            inside -= 1
            through += 1

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(start)
    assert (most, through) == (1, 8)
    assert not is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_starts_pass_concurrently_once_the_databases_exist(tmp_path):
    (tmp_path / "state_9.sqlite").touch()
    with trio.fail_after(10):
        async with start_gate(tmp_path), start_gate(tmp_path), start_gate(tmp_path):
            assert not is_held(tmp_path)


async def test_starts_wait_for_a_database_that_is_being_created(tmp_path):
    entered = trio.Event()

    async def second():
        async with start_gate(tmp_path):
            entered.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            async with start_gate(tmp_path):
                (tmp_path / "state_9.sqlite").touch()
                nursery.start_soon(second)
                await trio.sleep(0.05)
                assert not entered.is_set()
            await entered.wait()


async def test_the_gate_is_held_across_processes_and_released_by_their_death(tmp_path):
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-I", "-S", "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with trio.move_on_after(0.05) as scope:
            async with start_gate(tmp_path):
                pytest.fail("it is held")
        assert scope.cancelled_caught
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with trio.fail_after(10):
        async with start_gate(tmp_path):
            assert is_held(tmp_path)


@pytest.mark.parametrize("how", ["error", "cancelled", "cancelled while it waits"])
async def test_the_gate_is_released_whatever_happens(tmp_path, how):
    before = descriptors()
    with trio.fail_after(10):
        if how == "error":
            with pytest.raises(ZeroDivisionError):
                async with start_gate(tmp_path):
                    raise ZeroDivisionError
        elif how == "cancelled":
            with trio.CancelScope() as scope:
                async with start_gate(tmp_path):
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught
        else:
            async with start_gate(tmp_path):
                with trio.move_on_after(0.03) as scope:
                    async with start_gate(tmp_path):
                        pytest.fail("it is held")
                assert scope.cancelled_caught
                assert is_held(tmp_path)
    assert not is_held(tmp_path)
    assert descriptors() == before


async def test_a_copy_of_the_descriptor_in_another_process_does_not_hold_the_gate(tmp_path, monkeypatch):
    copies = []

    def open_twice(*args, open_once=os.open):
        fd = open_once(*args)
        copies.append(os.dup(fd))  # as a fork does
        return fd

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_twice)
        async with start_gate(tmp_path):
            pass
    assert not is_held(tmp_path)
    for fd in copies:
        os.close(fd)


async def test_passing_the_gate_is_a_checkpoint(tmp_path):
    for home in (tmp_path, tmp_path / "missing"):
        with trio.testing.assert_checkpoints():
            async with start_gate(home):
                pass


@pytest.mark.parametrize("why", ["no such directory", "a file", "no locks", "no fcntl"])
async def test_without_support_for_locks_there_is_no_gate(tmp_path, monkeypatch, why):
    def refuse(fd, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    home = tmp_path
    if why == "no such directory":
        home = tmp_path / "missing"
    elif why == "a file":
        home = tmp_path / "file"
        home.touch()
    elif why == "no locks":
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        monkeypatch.setitem(sys.modules, "fcntl", None)
    before = descriptors()
    with trio.fail_after(10):
        async with start_gate(home), start_gate(home):
            assert descriptors() == before


async def test_a_home_that_cannot_be_listed_counts_as_new_and_the_server_reports_the_problem(
    tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    before = descriptors()
    with trio.fail_after(10):
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refuse)
            patch.setattr(os, "listdir", refuse)
            gate = start_gate(tmp_path)
            await gate.__aenter__()
        assert is_held(tmp_path)
        await gate.__aexit__(None, None, None)
    assert not is_held(tmp_path)
    assert descriptors() == before


# -- the real binary -----------------------------------------------------------------------------------------------

INITIALIZE = {
    "id": 1,
    "method": "initialize",
    "params": {"clientInfo": {"name": "t", "title": "t", "version": "0"}},
}


@pytest.mark.real
async def test_sixteen_concurrent_first_starts_on_one_new_home_all_succeed(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        "[features]\nplugins = false\napps = false\n[analytics]\nenabled = false\n"
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CODEX_HOME": str(home)}
    binary = find_binary().path
    answers = []

    async def start():
        async with start_gate(home):
            process = spawn_server([binary, "app-server"], env=env, cwd=tmp_path)
            try:
                await process.started()
                await process.stdin.send_all(json.dumps(INITIALIZE).encode() + b"\n")
                answers.append(json.loads(await read_line(process)))
            except BaseException:
                process.abandon()
                raise
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.drain_stderr)
            nursery.start_soon(drain, process)
            assert await process.stop(10) == 0

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(start)
    assert [answer["id"] for answer in answers] == [1] * 16
