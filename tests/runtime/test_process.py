"""The server process as seen by the client, with fake servers and the real binary."""

import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from process.running_server import (
    ENV,
    descriptors,
    drain,
    fake,
    nothing_left,
    read_line,
    running,
    runs,
    until,
)
from trio_codex._process import server as _process
from trio_codex._process.spawn import spawn_server
from trio_codex._process.stderr import StderrRing
from trio_codex.errors import SpawnError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


# -- starting ------------------------------------------------------------------------------------------------------


async def test_a_server_is_started_and_talks_on_its_streams(run):
    async with run(*fake("echo")) as server:
        assert runs(server.process.pid)
        assert await server.process.started() == server.process.pid
        assert server.process.returncode is None
        await server.process.stdin.send_all(b"hello\n")
    assert server.process.returncode == 0


async def test_the_server_gets_exactly_the_environment_and_directory_it_is_given(spawn, tmp_path):
    env = {"B": "2 x", "A": "ü\udcff", "EMPTY": "", "PYTHONHOME": "/nowhere", "LC_ALL": "C"}
    process = spawn(["/bin/sh", "-c", "/bin/cat /proc/$$/environ; /bin/pwd"], env=env, cwd=tmp_path)
    with trio.fail_after(10):
        await process.started()
        output = bytearray()
        while chunk := await process.stdout.receive_some():
            output += chunk
        assert await process.wait() == 0
        await process.stop(1)
    environ = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items())
    assert bytes(output) == environ + os.fsencode(tmp_path) + b"\n"


async def test_an_empty_environment_is_empty(spawn):
    process = spawn(["/bin/cat", "/proc/self/environ"], env={})
    with trio.fail_after(10):
        await process.started()
        assert await process.stdout.receive_some() == b""
        await process.stop(1)


def _bad_format(directory):
    path = directory / "program"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o755)
    return str(path), None


def _missing_interpreter(directory):
    path = directory / "program"
    path.write_text("#!/nowhere/interpreter\n")
    path.chmod(0o755)
    return str(path), None


def _not_executable(directory):
    path = directory / "program"
    path.write_text("#!/bin/sh\n")
    return str(path), None


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (lambda directory: (str(directory / "missing"), None), errno.ENOENT),
        (lambda directory: ("no-such-program", None), errno.ENOENT),
        (lambda directory: (str(directory), None), errno.EACCES),
        (_not_executable, errno.EACCES),
        (_bad_format, errno.ENOEXEC),
        (_missing_interpreter, errno.ENOENT),
        (lambda directory: ("/bin/cat", directory / "missing"), errno.ENOENT),
        (lambda directory: ("/bin/cat", "/etc/passwd"), errno.ENOTDIR),
    ],
    ids=[
        "missing",
        "not on PATH",
        "directory",
        "not executable",
        "format",
        "interpreter",
        "cwd",
        "cwd is a file",
    ],
)
async def test_a_program_that_cannot_be_run_raises_spawn_error_with_the_reason(spawn, make, number, tmp_path):
    program, cwd = make(tmp_path)
    process = spawn([program, "app-server"], cwd=cwd)
    with trio.fail_after(10):
        for _ in range(2):  # every waiter has its own exception
            with pytest.raises(SpawnError) as caught:
                await process.started()
            assert caught.value.phase == "spawn"
            assert caught.value.binary == program
            assert caught.value.hint
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == number
        with pytest.raises(SpawnError) as again:
            await process.wait()
        assert again.value is not caught.value
        assert await process.stop(5) is None
    assert process.pid is None


async def test_an_old_kernel_without_pidfds_and_memfds_is_supported(monkeypatch, no_leaks):
    def refuse(*args):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.setattr(os, "memfd_create", refuse)
    async with running(*fake("stubborn_daemon")) as server:
        assert await server.process.stop(0.1) == -signal.SIGKILL
        assert not any(map(runs, [server.process.pid, server.guard, *server.pids]))


async def test_without_a_guard_stopping_during_the_start_ends_the_process(monkeypatch, no_leaks):
    spawned = trio.Event()
    returned = trio.Event()
    pids = []

    async def run_slowly(function, **options):
        popen = function()
        pids.append(popen.pid)
        spawned.set()
        await returned.wait()
        return popen

    async def start(process):
        with pytest.raises(trio.ClosedResourceError):
            await process.started()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_slowly)
    process = spawn_server(fake("stubborn"), env=ENV, guarded=False)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start, process)
            await spawned.wait()
            assert await process.stop(0.1) is None
            returned.set()
        assert not runs(pids[0])
        await until(lambda: not _process.reap())


async def test_a_process_stopped_before_it_has_started_can_be_stopped_again(spawn):
    process = spawn(fake("echo"))
    with trio.fail_after(10):
        for _ in range(2):
            await process.stop(0.1)


async def test_a_command_line_that_is_too_long_raises_spawn_error():
    process = spawn_server(["/bin/true", "x" * 3_000_000], env=ENV)
    with trio.fail_after(10):
        with pytest.raises(SpawnError) as caught:
            await process.started()
        assert caught.value.__cause__.errno == errno.E2BIG
        await process.stop(1)


@pytest.mark.parametrize(
    ("argv", "env", "cwd"),
    [
        ([], {}, None),
        ([""], {}, None),
        (["a\0b"], {}, None),
        (["cat"], {"A=B": ""}, None),
        (["cat"], {"": ""}, None),
        (["cat"], {"A": "\0"}, None),
        (["cat"], {}, "\0"),
        (["\ud800 secret"], {}, None),
        (["cat"], {"A": "\ud800 secret"}, None),
        (["cat"], {"\ud800 secret": ""}, None),
        (["cat"], {}, "\ud800 secret"),
    ],
)
def test_an_argument_that_no_program_can_receive_is_refused_immediately(argv, env, cwd):
    with nothing_left(), pytest.raises(ValueError, match=r"argv|NUL|environment|no program can") as caught:
        spawn_server(argv, env=env, cwd=cwd)
    assert "secret" not in repr(caught.value)


def test_an_unusable_guard_python_is_refused_immediately():
    for name, problem in (
        ("\0", "guard_python contains a NUL"),
        ("\ud800", "guard_python .* no program can"),
    ):
        with nothing_left(), pytest.raises(ValueError, match=problem):
            spawn_server(["cat"], env={}, guard_python=name)


async def test_a_guard_that_cannot_be_started_raises_spawn_error_and_leaves_nothing_behind(
    monkeypatch, no_leaks
):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(SpawnError) as caught:
        spawn_server(["/bin/cat"], env=ENV)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


async def test_a_guard_that_dies_before_the_server_raises_spawn_error_with_its_output(
    monkeypatch, no_leaks, tmp_path
):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such module >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    process = spawn_server(["/bin/cat"], env=ENV)
    with trio.fail_after(10):
        with pytest.raises(SpawnError) as caught:
            await process.started()
        assert "no such module" in caught.value.stderr_tail
        assert await process.stop(5) is None


async def test_running_out_of_descriptors_raises_spawn_error_and_leaves_nothing_behind(no_leaks):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, descriptors()))
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    while fillers[-1] < highest:  # no lower number may be free
        fillers.append(os.open(os.devnull, os.O_RDONLY))
    refused = 0
    process = None
    while process is None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + refused, hard))
        try:
            process = spawn_server(["/bin/cat"], env=ENV)
        except SpawnError as error:
            refused += 1
            assert error.__cause__.errno == errno.EMFILE  # noqa: PT017
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with trio.fail_after(10):
        await process.started()
        await process.stop(5)
    for fd in fillers:
        os.close(fd)
    assert refused == 11  # six pipe ends, two sockets, the plan, and two that Popen needs


# -- the end of the server -----------------------------------------------------------------------------------------


async def test_the_end_has_the_servers_exit_status_and_all_its_output(run, spawn):
    process = spawn(fake("last_words", 7))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await process.started()
            nursery.start_soon(process.drain_stderr)
            assert await process.wait() == 7
            assert process.returncode == 7
            assert process.stderr.tail() == "Error: “no” configuration\n"
            assert await process.stop(5) == 7


async def test_stderr_is_complete_at_the_end_even_if_it_was_not_drained(no_leaks):
    process = spawn_server(fake("last_words", 0), env=ENV)
    with trio.fail_after(10):
        assert await process.wait() == 0
        assert "configuration" in process.stderr.tail()
        await process.stop(0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGABRT])
async def test_death_by_a_signal_is_a_negative_status(spawn, number):
    process = spawn(fake("die", int(number)))
    with trio.fail_after(10):
        await process.started()
        assert await process.wait() == -number
        assert await process.stop(5) == -number


async def test_several_tasks_may_wait_and_be_cancelled(run):
    ended = []

    async def wait(process):
        ended.append(await process.wait())

    async with run(*fake("gentle")) as server, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as given_up:
                given_up.start_soon(wait, server.process)  # only the first task listens, for all of them
                await trio.testing.wait_all_tasks_blocked(0.01)
                for _ in range(5):
                    nursery.start_soon(wait, server.process)
                await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
        assert ended == []
        os.kill(server.process.pid, signal.SIGKILL)
        with trio.fail_after(5):
            assert await server.process.wait() == -signal.SIGKILL
    assert ended == [-signal.SIGKILL] * 5


async def test_the_start_is_reported_while_another_task_waits_for_the_end(no_leaks):
    process = spawn_server(fake("gentle"), env=ENV)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.wait)
            await trio.testing.wait_all_tasks_blocked()
            assert await process.started() == process.pid
            await process.stop(5)


async def test_terminate_and_kill_do_nothing_after_the_end(run):
    async with run(*fake("gentle")) as server:
        server.process.terminate()
        server.process.terminate()
        assert await server.process.wait() == -signal.SIGTERM
        server.process.terminate()
        server.process.kill()
    server.process.terminate()
    server.process.kill()
    assert server.process.returncode == -signal.SIGTERM


# -- stderr --------------------------------------------------------------------------------------------------------


async def test_a_flood_on_stderr_does_not_block_the_server(run, no_leaks):
    async with run(*fake("flood")) as server:
        await server.process.stop(5)
    assert server.process.stderr.total > 10_000_000
    assert len(server.process.stderr) == server.process.stderr.limit
    assert server.process.stderr.tail().endswith("the end")
    assert "\x1b" not in server.process.stderr.tail()


async def test_stderr_is_drained_until_its_end_and_no_longer(run):
    async with run(*fake("gentle")) as server:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.process.stop, 5)
    with trio.fail_after(5):
        await server.process.drain_stderr()


def test_the_ring_keeps_the_last_bytes_whatever_the_chunks():
    ring = StderrRing(limit=10)
    everything = b""
    for size in (1, 0, 3, 9, 25, 10, 11, 2, 40, 1):
        chunk = bytes(range(65, 65 + size))
        ring.feed(chunk)
        everything += chunk
        assert ring.getvalue() == everything[-10:]
        assert len(ring) == min(10, len(everything))
        assert ring.total == len(everything)
        assert len(ring._data) <= 2 * ring.limit
    assert repr(ring) == f"<StderrRing: 10 of {len(everything)} bytes>"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"plain\n\ttext", "plain\n\ttext"),
        (b"\x1b[2m2026\x1b[0m \x1b[31;1mERROR\x1b[m it", "2026 ERROR it"),
        (b"\x1b]0;title\x07x\x1b]8;;http://a\x1b\\y", "xy"),
        (b"\x1b(Bx\x1b7y\x1bc", "xy"),
        (b"cut \x1b[31", "cut "),
        (b"cut \x1b]0;tit", "cut "),
        (b"bell\x07 null\x00 cr\r\n", "bell null cr\n"),
        (b"\xc2\x9b31m", "31m"),
        (b"bad \xff\xfe utf", "bad \ufffd\ufffd utf"),
    ],
)
def test_the_tail_is_text_that_a_terminal_can_show(data, text):
    ring = StderrRing()
    ring.feed(data)
    assert ring.tail() == text


def test_the_tail_may_be_limited_to_recent_output(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    ring = StderrRing()
    ring.feed(b"a warning at the start\n")
    now = 200.0
    assert ring.tail(seconds=5) == ""
    ring.feed(b"panicked ")
    now = 200.01
    ring.feed(b"at last\n")
    assert ring.tail(seconds=5) == "panicked at last\n"
    assert ring.tail(3, seconds=5) == "st\n"
    assert ring.tail() == "a warning at the start\npanicked at last\n"
    now = 300.0
    assert ring.tail(seconds=5) == ""


def test_a_truncated_character_is_dropped():
    ring = StderrRing()
    ring.feed("é€𝄞".encode() * 10)
    for limit in range(1, 90):
        assert "\ufffd" not in ring.tail(limit)
    assert ring.tail(9) == "é€𝄞"


# -- the real binary -----------------------------------------------------------------------------------------------

INITIALIZE = {
    "id": 1,
    "method": "initialize",
    "params": {
        "clientInfo": {"name": "test", "title": "test", "version": "0"},
        "capabilities": {"experimentalApi": True},
    },
}


async def _receive(process, number):
    while True:
        message = json.loads(await read_line(process))
        if message.get("id") == number:
            return message["result"]


@pytest.mark.real
async def test_the_real_server_ends_on_eof_with_its_commands_and_their_children(tmp_path, no_leaks):
    from trio_codex._launch._binary import find_binary

    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        "[features]\nplugins = false\napps = false\n[analytics]\nenabled = false\n"
    )
    process = spawn_server(
        [find_binary().path, "app-server"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CODEX_HOME": str(home)},
        cwd=tmp_path,
    )
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await process.started()
            nursery.start_soon(process.drain_stderr)
            await process.stdin.send_all(json.dumps(INITIALIZE).encode() + b"\n")
            assert "userAgent" in await _receive(process, 1)
            command = {
                "command": ["/bin/sh", "-c", f"setsid sleep 1000 & echo $! > {tmp_path}/pid; sleep 1000"],
                "sandboxPolicy": {"type": "dangerFullAccess"},
                "disableTimeout": True,
                "processId": "p",
            }
            request = {"id": 2, "method": "command/exec", "params": command}
            await process.stdin.send_all(json.dumps(request).encode() + b"\n")
            nursery.start_soon(drain, process)
            pid_file = Path(tmp_path, "pid")
            await until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
            sleeper = int(pid_file.read_text())  # noqa: ASYNC240
            await until(lambda: os.getsid(sleeper) == sleeper)
            assert await process.stop(5) == 0
            assert not runs(sleeper)
