"""The guard process: the environment it gives the server, and the end of all descendants."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import trio

from process.running_server import ENV, HERE, descriptors, fake, gone, nothing_left, running, runs, until
from trio_codex._process import guard as _guard
from trio_codex._process.spawn import spawn_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is a guard on Linux only")


async def _output(*argv, **options):
    process = spawn_server(argv, env=ENV, **options)
    output = bytearray()
    with trio.fail_after(10):
        await process.started()
        while chunk := await process.stdout.receive_some():
            output += chunk
        assert await process.wait() == 0
        await process.stop(5)
    return bytes(output).decode()


# -- the server's environment
# ------------------------------------------------------------------------------------------


async def test_the_server_has_its_three_streams_open_and_nothing_else():
    with open(os.devnull, "rb") as extra:  # noqa: ASYNC230
        os.set_inheritable(extra.fileno(), True)
        listing = await _output("/bin/ls", "-l", "/proc/self/fd")
    links = dict(line.rsplit(" ", 3)[1::2] for line in listing.splitlines()[1:])
    assert sorted(links)[:3] == ["0", "1", "2"]
    assert links["0"].startswith("socket:")  # closing our end is noticed even if others hold copies of it
    assert all(links[fd].startswith("pipe:") for fd in "12")
    assert [link for fd, link in links.items() if fd not in "012"] == [
        next(link for link in links.values() if link.startswith("/proc/"))  # the listing itself
    ]


async def test_the_server_has_default_signals_and_none_blocked():
    ignored = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        status = await _output("/bin/cat", "/proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1, signal.SIGTERM})
        for number, handler in ignored.items():
            signal.signal(number, handler)
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for field in ("SigBlk", "SigIgn", "SigCgt", "SigPnd"):
        # 32 and 33 are reserved by the C library and cannot be changed.
        assert int(fields[field], 16) & ~(0b11 << 31) == 0, field


async def test_the_server_leads_its_own_session():
    async with running(*fake("gentle")) as server:
        pid = server.process.pid
        assert os.getsid(pid) == os.getpgid(pid) == pid
        assert os.getsid(server.guard) not in (pid, os.getsid(0))


async def test_the_server_is_looked_up_on_the_path_of_its_own_environment(tmp_path):
    program = tmp_path / "a-server"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    process = spawn_server(["a-server"], env={"PATH": f"/nowhere:{tmp_path}"})
    with trio.fail_after(10):
        await process.started()
        assert await process.stdout.receive_some() == b"found\n"
        await process.stop(5)


async def test_the_guard_hides_the_arguments_and_holds_no_stream_and_no_directory(tmp_path):
    async with running(*fake("polite_child", tmp_path / "secret"), cwd=tmp_path) as server:
        proc = f"/proc/{server.guard}"
        with open(f"{proc}/cmdline", "rb") as file:  # noqa: ASYNC230
            assert b"secret" not in file.read()
        assert os.readlink(f"{proc}/cwd") == "/"
        assert [os.readlink(f"{proc}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3


async def test_an_orphan_of_the_server_leaves_no_zombie():
    async with running(*fake("orphans", 20)) as server:
        with trio.fail_after(5):
            await until(lambda: len(_guard.descendants(server.guard)) == 1)


# -- ending processes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behavior", ["gentle", "stubborn", "stubborn_daemon"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
async def test_signals_to_the_guard_have_no_effect(behavior, number):
    async with running(*fake(behavior)) as server:
        os.kill(server.guard, number)
        assert await server.process.stop(0.1) is not None
        assert not any(map(runs, [server.guard, server.process.pid, *server.pids]))
        assert server.process.returncode != -number or number == signal.SIGTERM


async def test_remaining_processes_may_handle_sigterm(tmp_path):
    path = tmp_path / "said"
    async with running(*fake("polite_child", path)) as server:
        assert await server.process.stop(5) == 0
        assert not runs(server.pids[0])
    assert path.read_text() == "goodbye"


async def test_an_immediate_kill_sends_no_sigterm(tmp_path):
    path = tmp_path / "said"
    async with running(*fake("polite_child", path)) as server:
        await server.process.kill_tree()
        assert not runs(server.pids[0])
    assert not path.exists()


async def test_kill_ends_the_tree_of_a_server_that_is_already_dead():
    async with running(*fake("stubborn_daemon")) as server:
        os.kill(server.process.pid, signal.SIGKILL)
        await server.process.wait()
        await server.process.kill_tree()
        assert not any(map(runs, [server.guard, *server.pids]))


@pytest.mark.parametrize("stopped", [False, True])
async def test_stopped_descendants_are_killed(stopped):
    async with running(*fake("stubborn_daemon")) as server:
        os.kill(server.pids[0], signal.SIGSTOP)
        if stopped:
            os.kill(server.process.pid, signal.SIGSTOP)
        await server.process.stop(0.1)
        assert not any(map(runs, [server.process.pid, server.guard, *server.pids]))


@pytest.mark.parametrize(
    "behavior", [("bomb", 10), ("chain",), ("session_chain",)], ids=lambda value: value[0]
)
async def test_processes_that_fork_forever_are_killed(behavior):
    with nothing_left():
        async with running(*fake(*behavior)) as server:
            session = server.process.pid
            assert await server.process.stop(5) == 0
            assert not runs(server.guard)
        assert not [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session(pid) == session
        ]


def _session(pid):
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


# -- the death of the client ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _client(*behavior, hold=False):
    """Run a client in a separate process, and return the ids that it printed: guard, server, others.

    With ``hold``, a forked copy survives and keeps every descriptor open, so no end of file reveals the client's
    death.
    """
    with subprocess.Popen(
        [sys.executable, str(HERE / "parent.py"), str(int(hold)), *map(str, behavior)],
        stdout=subprocess.PIPE,
    ) as client:
        try:
            copy, *pids = map(int, client.stdout.readline().split())
            yield client, pids
        finally:
            client.kill()
            if hold:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(copy, signal.SIGKILL)


@pytest.mark.parametrize(
    ("behavior", "hold"),
    [
        ("gentle", False),
        ("daemon", False),
        ("stubborn_child", False),
        ("stubborn_daemon", False),
        ("stubborn_parent", False),
        ("gentle", True),
        ("stubborn_daemon", True),
    ],
)
async def test_when_the_client_is_killed_nothing_is_left(behavior, hold):
    with _client(behavior, hold=hold) as (client, pids):
        assert all(map(runs, pids))
        client.kill()
        await gone(*pids)


async def test_when_the_client_is_killed_a_stopped_server_ends_too():
    with _client("stubborn_daemon") as (client, pids):
        for pid in pids[1:]:
            os.kill(pid, signal.SIGSTOP)
        client.kill()
        await gone(*pids)


async def test_when_client_and_guard_are_killed_the_server_ends():
    with _client("deaf") as (client, pids):
        os.kill(pids[0], signal.SIGSTOP)  # so that the guard cannot end the server
        client.kill()
        os.kill(pids[0], signal.SIGKILL)
        await gone(*pids)


async def test_nothing_is_started_if_the_client_dies_while_the_guard_starts(tmp_path):
    code = (
        "import os, trio\n"
        "from trio_codex._process.spawn import spawn_server\n"
        "async def main():\n"
        f"    process = spawn_server(['/bin/sh', '-c', 'echo $$ >> {tmp_path}/pid; exec sleep 1000'], env={{}})\n"
        "    print(process._popen.pid, flush=True)\n"
        "    os._exit(0)\n"
        "trio.run(main)\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as client:  # noqa: ASYNC220
            guard = int(client.stdout.readline())
        await gone(guard)
    if (tmp_path / "pid").exists():  # the server was started in time
        await gone(*map(int, (tmp_path / "pid").read_text().split()))


# -- the process table ---------------------------------------------------------------------------------------------


def test_a_program_may_have_any_name():
    stat = b"12 (a) R 1 (b) 2) S 7 8 9 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n"
    process = _guard.Process(12, stat)
    assert (process.pid, process.parent, process.group, process.start) == (12, 7, 8, 4711)
    assert not process.zombie


def test_an_ended_process_is_not_in_the_table():
    child = subprocess.Popen(["/bin/true"])
    zombie = None
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (zombie is None or not zombie.zombie):
        zombie = _guard.look_up(child.pid)
    assert zombie.zombie
    assert child.pid in {process.pid for process in _guard.descendants(os.getpid())}
    child.wait()
    assert _guard.look_up(child.pid) is None
    _guard.send_signal(zombie, signal.SIGKILL)


@pytest.mark.parametrize("pidfd", [True, False])
def test_only_the_same_process_is_signalled(monkeypatch, pidfd):
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", _not_implemented)
    before = descriptors()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        process = _guard.look_up(child.pid)
        process.start += 1  # as if it were a later process with the same id
        _guard.send_signal(process, signal.SIGKILL)
        child.stdin.write(b"still there\n")
        assert child.stdout.readline() == b"still there\n"
        _guard.send_signal(_guard.look_up(child.pid), signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert descriptors() == before


def _not_implemented(pid):
    raise OSError(38, "Function not implemented")
