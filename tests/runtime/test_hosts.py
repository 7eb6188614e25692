"""Unusual hosts: signal settings, closed descriptors, forked copies, missing functions, another interpreter."""

import contextlib
import fcntl
import functools
import gc
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from process.running_server import ENV, HERE, fake, gone, nothing_left, running, runs, until
from trio_codex._process import guard as _guard
from trio_codex._process import server as _process
from trio_codex._process.spawn import find_guard_python, spawn_server
from trio_codex.errors import SpawnError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(params=[True, False], ids=["guarded", "group"])
def guarded(request, monkeypatch):
    """Both kinds of process. The unguarded one runs without Trio's worker thread, which would outlive the test."""
    if not request.param:
        monkeypatch.setattr(trio.to_thread, "run_sync", _run_here)
    return request.param


async def _run_here(function, **options):
    await trio.lowlevel.checkpoint()
    return function()


@pytest.fixture
def python_without(tmp_path):
    """Return an interpreter that first runs some code, which removes a feature of the host."""

    def make(code):
        path = tmp_path / "python"
        path.write_text(
            f"#!{sys.executable}\nimport os, sys\nargs = sys.argv[1:]\nat = args.index('-c') + 1\n"
            f"args[at] = {code!r} + args[at]\nos.execv({sys.executable!r}, [{sys.executable!r}, *args])\n"
        )
        path.chmod(0o755)
        return str(path)

    return make


@contextlib.contextmanager
def _signals(*, blocked=(), ignored=()):
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)


async def _output(*argv, **options):
    process = spawn_server(argv, env=ENV, **options)
    output = bytearray()
    with trio.fail_after(10):
        await process.started()
        while chunk := await process.stdout.receive_some():
            output += chunk
        await process.stop(5)
    return output.decode()


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["blocked", "ignored"])
async def test_the_end_of_the_server_is_noticed_however_sigchld_is_handled(how):
    with _signals(**{how: {signal.SIGCHLD}}):
        async with running(*fake("stubborn_daemon")) as server:
            os.kill(server.process.pid, signal.SIGKILL)
            assert await server.process.wait() == -signal.SIGKILL
            await gone(server.guard, *server.pids)


async def test_the_server_does_not_inherit_blocked_or_ignored_signals(guarded):
    with _signals(
        blocked={signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1}, ignored={signal.SIGHUP, signal.SIGINT}
    ):
        status = await _output("/bin/cat", "/proc/self/status", guarded=guarded)
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for field in ("SigBlk", "SigIgn"):
        # 32 and 33 belong to the C library, and cannot be changed.
        assert int(fields[field], 16) & ~(0b11 << 31) == 0, field


# -- descriptors ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _closed(numbers):
    saved = {number: fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 30) for number in numbers}
    for number in numbers:
        os.close(number)
    try:
        yield
    finally:
        for number, fd in saved.items():
            os.dup2(fd, number)
            os.close(fd)


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("numbers", [(0,), (1,), (2,), (1, 2), (0, 1, 2)], ids=str)
async def test_no_descriptor_of_a_server_takes_the_place_of_a_closed_standard_stream(guarded, numbers):
    with _closed(numbers):
        process = spawn_server(fake("echo"), env=ENV, guarded=guarded)
        await process.started()
        taken = [number for number in numbers if _is_open(number)]
    with trio.fail_after(10):
        assert taken == []
        assert await process.stdout.receive_some() == b"ready \n"
        await process.stdin.send_all(b"hello\n")
        assert await process.stdout.receive_some() == b"hello\n"
        assert await process.stop(5) == 0


async def test_a_server_may_have_as_many_descriptors_as_the_system_allows(guarded):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
    # The second line is sent once the first has been read, because without a guard the limit is raised after the
    # start.
    script = "read line; ulimit -Sn; ulimit -Hn"
    process = spawn_server(["/bin/sh", "-c", script], env=ENV, guarded=guarded)
    try:
        with trio.fail_after(10):
            await process.started()
            await process.stdin.send_all(b"\n")
            output = bytearray()
            while chunk := await process.stdout.receive_some():
                output += chunk
            await process.stop(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert output.split() == [str(hard).encode()] * 2


async def test_a_failure_after_the_start_of_the_guard_leaves_nothing_behind(monkeypatch):
    def fail(pid):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(_guard, "open_pidfd", fail)
    gc.collect()
    with nothing_left():
        with pytest.raises(RuntimeError, match="out of luck"):
            spawn_server(fake("stubborn_daemon"), env=ENV)
        with trio.fail_after(5):
            await until(lambda: not _process.reap())


# -- forked copies -------------------------------------------------------------------------------------------------


async def test_a_forked_copy_that_holds_all_descriptors_does_not_delay_the_end(guarded, forked_copy):
    async with running(*fake("gentle"), guarded=guarded) as server:
        with forked_copy():
            assert await server.process.stop(60) == 0  # EOF alone: SIGTERM would come after 36 s


async def test_an_abandoned_server_ends_although_a_forked_copy_holds_the_socket(forked_copy):
    async with running(*fake("stubborn_daemon")) as server:
        with forked_copy():
            server.process.returncode = 0  # no command reaches the guard, only the end of the socket
            server.process.abandon()
            await gone(server.guard, server.process.pid, *server.pids)
        with trio.fail_after(5):
            await until(lambda: not _process.reap())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_garbage_collection_in_a_forked_copy_does_not_end_the_server(forked_copy):
    async with running(*fake("gentle")) as server:
        with forked_copy(server.process.__del__) as has_forgotten_it:
            has_forgotten_it()
        with trio.move_on_after(0.1) as scope:
            await server.process.wait()
        assert scope.cancelled_caught


# -- the guard is killed -------------------------------------------------------------------------------------------


async def test_nothing_survives_a_killed_guard_not_even_orphans():
    async with running(*fake("stubborn_daemon")) as server:
        os.kill(server.guard, signal.SIGKILL)
        assert await server.process.wait() == -signal.SIGKILL
        assert not any(map(runs, [server.process.pid, *server.pids]))


async def test_nothing_survives_a_killed_keeper():
    async with running(*fake("stubborn_daemon")) as server:
        keeper = _guard.look_up(server.guard).parent
        assert keeper != os.getpid()
        os.kill(keeper, signal.SIGKILL)
        assert await server.process.wait() == -signal.SIGKILL
        assert await server.process.stop(0) == -signal.SIGKILL
        await gone(server.guard, *server.pids)


# -- missing features of the system or of Python
# -----------------------------------------------------------------------------

NO_PIDFD = (
    "import os, _signal\n"
    "for module, name in ((os, 'pidfd_open'), (os, 'memfd_create'), (_signal, 'pidfd_send_signal')):\n"
    "    delattr(module, name)\n"
)
NO_PROC = """
import os
def lost(function):
    def call(path, *args):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args)
    return call
for name in ("open", "listdir", "readlink"):
    setattr(os, name, lost(getattr(os, name)))
"""
PROC_OF_ANOTHER_NAMESPACE = "import os; os.readlink = lambda path: '1'\n"


@pytest.mark.parametrize(
    "lack", [NO_PIDFD, NO_PROC, PROC_OF_ANOTHER_NAMESPACE], ids=["pidfd", "proc", "ours"]
)
@pytest.mark.parametrize("behavior", ["stubborn_daemon", "stubborn_parent", "stubborn_child"])
async def test_the_guard_ends_everything_without_pidfd_or_proc(python_without, monkeypatch, lack, behavior):
    if lack is NO_PIDFD:
        monkeypatch.delattr(os, "pidfd_open")
        monkeypatch.delattr(os, "memfd_create")
        monkeypatch.delattr(signal, "pidfd_send_signal")
    async with running(*fake(behavior), guard_python=python_without(lack)) as server:
        await server.process.stop(0.2)
        assert not any(map(runs, [server.process.pid, server.guard, *server.pids]))


@pytest.mark.parametrize("lack", [NO_PIDFD, NO_PROC], ids=["pidfd", "proc"])
async def test_nothing_survives_a_killed_guard_without_pidfd_or_proc(python_without, lack):
    async with running(*fake("stubborn_daemon"), guard_python=python_without(lack)) as server:
        os.kill(server.guard, signal.SIGKILL)
        assert await server.process.wait() == -signal.SIGKILL
        assert not any(map(runs, [server.process.pid, *server.pids]))


async def test_a_guard_without_pidfds_notices_the_death_of_a_client_whose_copy_survives(python_without):
    argv = [sys.executable, str(HERE / "parent.py"), "1", "stubborn_daemon"]
    env = {**os.environ, "GUARD_PYTHON": python_without(NO_PIDFD)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env) as client:  # noqa: ASYNC220
        copy, *pids = map(int, client.stdout.readline().split())
        try:
            client.kill()
            await gone(*pids)
        finally:
            os.kill(copy, signal.SIGKILL)


def test_the_process_table_of_another_namespace_is_ignored(monkeypatch):
    me = os.getpid()
    assert _guard.look_up(me).pid == me
    for link in (lambda path: str(me + 1), _missing):
        monkeypatch.setattr(os, "readlink", link)
        assert _guard.look_up(me) is None
        assert _guard.descendants(os.getppid()) == []


def _missing(path):
    raise FileNotFoundError(2, "No such file or directory", path)


@pytest.mark.parametrize("have_started_over", [False, True])
def test_child_processes_are_found_without_a_process_table(monkeypatch, have_started_over):
    probed = 0

    def is_child(pid, probe=_guard._is_child):
        nonlocal probed
        probed += 1
        return probe(pid)

    forked = []
    monkeypatch.setattr(_guard, "_is_child", is_child)
    monkeypatch.setattr(os, "fork", lambda fork=os.fork: forked.append(fork()) or forked[-1])
    children = [subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) for _ in range(3)]
    try:
        if have_started_over:
            monkeypatch.setattr(os, "getpid", lambda: int(Path("/proc/sys/kernel/pid_max").read_text()) - 1)
        assert {child.pid for child in children} <= set(_guard.own_children())
        # Probing all ids that a kernel can have takes seconds.
        assert probed <= int(Path("/proc/sys/kernel/pid_max").read_text())
    finally:
        for child in children:
            child.communicate()
        for pid in forked:
            os.waitpid(pid, 0)


def test_child_processes_with_the_highest_ids_are_found_last(monkeypatch):
    me, high = 40, _guard.USUAL_PIDS + 7
    monkeypatch.setattr(os, "getpid", lambda: me)
    monkeypatch.setattr(os, "fork", lambda: 30)
    left = {20, 50, high}
    monkeypatch.setattr(_guard, "_is_child", lambda pid: pid in left)
    monkeypatch.setattr(_guard, "PID_LIMIT", high + 1)
    assert sorted(_guard.own_children()) == [20, 50]
    left = {high}
    assert _guard.own_children() == [high]
    left = set()
    assert _guard.own_children() == []


# -- the interpreter -----------------------------------------------------------------------------------------------


def test_the_guard_is_run_by_the_interpreter_of_this_program():
    assert find_guard_python() == sys.executable


@pytest.mark.parametrize("executable", ["/usr/sbin/uwsgi", "/bin/true", "", None])
def test_a_program_that_embeds_python_uses_the_interpreter_of_its_installation(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    assert find_guard_python() == f"{sys.exec_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"


async def test_a_frozen_program_without_an_interpreter_has_no_guard(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_exec_prefix", str(tmp_path))
    monkeypatch.setattr(trio.to_thread, "run_sync", _run_here)
    assert find_guard_python() is None
    async with running(*fake("stubborn_child")) as server:
        assert server.guard == os.getpid()
        await server.process.stop(5)
        await gone(*server.pids)
    with pytest.raises(SpawnError, match="no Python interpreter found to run the guard"):
        spawn_server(["/bin/cat"], env=ENV, guarded=True)
    async with running(*fake("daemon"), guard_python=sys.executable) as server:
        assert server.process.contained


async def test_a_program_that_is_not_an_interpreter_is_killed_if_it_does_not_exit(tmp_path):
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o755)
    process = spawn_server(["/bin/cat"], env=ENV, guard_python=str(hanging))
    assert str(hanging) in process.starter
    with trio.fail_after(5):
        await process.kill_tree()
        await until(lambda: not _process.reap())


async def test_without_a_guard_children_in_other_sessions_are_found_in_the_process_table(monkeypatch):
    monkeypatch.setattr(trio.to_thread, "run_sync", _run_here)
    monkeypatch.setitem(sys.modules, "psutil", None)
    argv = ["/bin/sh", "-c", "setsid sleep 1000 & echo ready $!; cat"]
    async with running(*argv, guarded=False) as server:
        with trio.fail_after(5):
            await until(functools.partial(_leads_a_session, server.pids[0]))
        await server.process.stop(5)
        await gone(*server.pids)


def _leads_a_session(pid):
    return os.getsid(pid) == pid
