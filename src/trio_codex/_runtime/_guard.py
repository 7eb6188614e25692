"""The guard: a small process between the client and the server that ends whatever the server leaves behind.

It is run by ``python -I -S`` and holds nothing but the standard library, of that as little as it can: its start is part
of every start of a server. It knows nothing of Trio, JSON or Codex.

It is a *child subreaper*: every process below it whose parent dies becomes its own child, whatever session or process
group it moved to. So "I have no child left" is the same as "nothing is left", and a loop that kills until then cannot
miss a daemon. It ends the tree when the server has died, when the client wants it (:data:`KILL`), and when the client is
gone: its socket closed, or its process dead though a forked copy of it still holds the socket.

It is two processes: the *keeper*, which the client starts, and the guard proper, which the keeper forks and which forks
the server. Both are subreapers: when the guard is killed (by a system that is out of memory, say), its children become
those of the keeper, which ends them. A guard whose keeper is killed ends the server as if the client were gone.

The server gets the guard's stdin, stdout and stderr untouched, a session of its own, default signals with none blocked,
as many descriptors as the hard limit allows, and exactly the arguments, environment and directory of the *plan*, a
marshalled ``(argv, environ, cwd)`` in a file descriptor: neither the process list nor the guard's own environment shows
it.

The guard reports lines on the socket:

* ``pid N C``: the server runs; ``C`` is ``1`` if the guard is a subreaper.
* ``fail STEP ERRNO``: it could not be started; ``STEP`` is ``cwd`` or ``exec``.
* ``exit N``: it has ended, ``N`` is negative for a signal. Said *before* the process id is given back to the system.
* End of file: nothing of it is left.
"""

from __future__ import annotations

# ruff: noqa: SIM105
# contextlib would be the largest import here.
import errno
import marshal
import os
import resource
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    # The public module builds its enums: a third of the guard's start.
    import _signal as signal

TERMINATE = b"T"
"""Command: SIGTERM for the server."""
KILL = b"K"
"""Command: SIGKILL for the server and everything below it, at once."""

EOF_GRACE = 0.5
"""Seconds for the server to end by itself once the client is gone: the real one takes 10 to 65 ms after EOF."""
TERM_GRACE = 0.5
"""Seconds for it to end on SIGTERM after that: the real one takes 33 ms."""
STRAGGLER_GRACE = 0.25
"""Seconds that what the server left behind gets between SIGTERM and SIGKILL: ``docker run`` stops its container then."""
CHASE = 0.01
"""Seconds of each round that go into a chase, once some rounds have not been enough."""
PARENT_POLL = 0.25
"""Seconds between two looks whether the client is still there, where no descriptor can tell."""
GIVE_UP = 30.0
"""Seconds of SIGKILL after which only what may not be killed (another user's) is left."""

PID_LIMIT = 1 << 22
"""No process id is as high, on any Linux."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

IGNORED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE
)  # fmt: skip
"""The guard ends with the server or the client, and not before."""


class Process:
    """One line of the process table; ``start`` tells it from a later process with the same id."""

    __slots__ = ("group", "parent", "pid", "start", "zombie")

    def __init__(self, pid: int, stat: bytes) -> None:
        # The second field is the program's name in parentheses and may itself hold parentheses and blanks.
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.pid = pid
        self.zombie = fields[0] in b"ZX"
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.start = int(fields[19])


def table_is_ours() -> bool:
    """Return whether ``/proc`` is there and numbers processes as we do: that of another namespace names strangers."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def look_up(pid: int) -> Process | None:
    """Read one process from ``/proc``; ``None`` if it is gone, or if there is no table to read."""
    return _read_process(pid) if table_is_ours() else None


def _read_process(pid: int) -> Process | None:
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        return Process(pid, os.read(fd, 4096))
    except (OSError, ValueError, IndexError):  # it went away while it was read
        return None
    finally:
        os.close(fd)


def descendants(root: int) -> list[Process]:
    """Return every process below ``root``, parents first, zombies included; none without a process table."""
    if not table_is_ours():
        return []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    below: dict[int, list[Process]] = {}
    for name in names:
        if name.isdigit() and (process := _read_process(int(name))) is not None:
            below.setdefault(process.parent, []).append(process)
    found = below.get(root, [])[:]
    for process in found:  # grows while it is walked
        found += below.get(process.pid, ())
    return found


def own_children() -> list[int]:
    """Return our children without a process table: ask the system about every id that one of them can have.

    All of them are younger than we are, and older than a child that is made now.
    """
    me = os.getpid()
    youngest = os.fork()
    if youngest == 0:
        os._exit(0)
    ids = [range(me + 1, youngest)] if youngest > me else [range(me + 1, PID_LIMIT), range(2, youngest)]
    return [pid for each in ids for pid in each if _is_child(pid)]


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return False
    return True


def open_pidfd(pid: int) -> int:
    """Return a descriptor that is readable once the process has ended; -1 where there is no such thing.

    An old kernel has none, a sandbox may forbid it, and a Python that was built on old headers does not know it.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def send_signal(process: Process, number: int) -> None:
    """Signal exactly this process, and not one that has got its id since."""
    fd = open_pidfd(process.pid)
    try:
        now = look_up(process.pid)
        if now is None or now.start != process.start or now.zombie:
            return
        if fd >= 0 and hasattr(signal, "pidfd_send_signal"):
            signal.pidfd_send_signal(fd, number)
        else:
            os.kill(process.pid, number)
    except OSError:
        pass  # gone, or not ours to signal
    finally:
        if fd >= 0:
            os.close(fd)


def kill_own(pid: int, number: int) -> None:
    """Signal a child of ours, whose id is its own until we reap it."""
    try:
        os.kill(pid, number)
    except OSError:
        pass  # not ours to signal: it has become another user


class Guard:
    """The state of one guard: its client, its keeper, its server."""

    def __init__(self, control: int, client_fd: int) -> None:
        self.control = control
        self.keeper = os.getppid()
        self.server = 0
        self.ended = False
        """The server has died."""
        self.hurry = False
        """The client wants no more grace."""
        self.wake_up, wake_up = os.pipe()
        os.set_blocking(self.wake_up, False)
        os.set_blocking(wake_up, False)
        signal.set_wakeup_fd(wake_up, warn_on_full_buffer=False)
        # A handler, although it does nothing: under SIG_DFL no wake-up is written, and under an inherited SIG_IGN
        # there would be no status to wait for.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.poller = select.poll()
        self.poller.register(self.wake_up, select.POLLIN)
        self.poller.register(control, select.POLLIN)
        self.client_fd = client_fd
        if client_fd >= 0:
            self.poller.register(client_fd, select.POLLIN)

    def report(self, line: str) -> None:
        """Tell the client, if there still is one."""
        try:
            os.write(self.control, line.encode() + b"\n")
        except OSError:
            pass

    def lose_client(self) -> None:
        """Watch the client and the keeper no longer: what is gone is readable for ever."""
        self.keeper = os.getppid()
        for fd in (self.control, self.client_fd):
            try:
                self.poller.unregister(fd)
            except (KeyError, ValueError):
                pass

    def wait(self, seconds: float | None) -> bool:
        """Sleep until something happens; ``False`` if the client, or our keeper, turns out to be gone."""
        alive = True
        for fd, _ in self.poller.poll(None if seconds is None else max(0, seconds) * 1000):
            if fd == self.wake_up:
                os.read(fd, 4096)
            elif fd == self.client_fd:
                alive = False
            else:
                try:
                    commands = os.read(fd, 4096)
                except OSError:
                    commands = b""
                alive = alive and commands != b""
                if KILL in commands:
                    self.hurry = True
                elif TERMINATE in commands:
                    self.signal_server(signal.SIGTERM)
        return alive and os.getppid() == self.keeper

    def signal_server(self, number: int) -> None:
        """Signal the server. Its id is its own until :meth:`reap` gives it back."""
        if not self.ended:
            kill_own(self.server, number)
            kill_own(self.server, signal.SIGCONT)  # a stopped process does not act on it

    def reap(self) -> bool:
        """Take in every child that has died; tell whether any child is left."""
        while True:
            try:
                # A look first: the client must hear of the server's end before its id can be somebody else's.
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if child is None:
                    return True
                if child.si_pid == self.server:
                    self.ended = True
                    exited = child.si_code == os.CLD_EXITED
                    self.report(f"exit {child.si_status if exited else -child.si_status}")
                os.waitpid(child.si_pid, 0)
            except ChildProcessError:
                return False

    def watch(self) -> None:
        """Return once the server has died or may not live any longer; see to that once the client is gone."""
        deadline = None
        asked = False
        while self.reap() and not (self.ended or self.hurry):
            if deadline is not None and time.monotonic() >= deadline:
                if asked:
                    self.hurry = True
                    return
                self.signal_server(signal.SIGTERM)
                asked = True
                deadline = time.monotonic() + TERM_GRACE
            if not self.wait(None if deadline is None else deadline - time.monotonic()):
                self.lose_client()
                deadline = time.monotonic() + EOF_GRACE

    def end_tree(self) -> None:
        """End everything that is left, and return when nothing is."""
        if self.reap() and not self.hurry:
            self.signal_all(signal.SIGTERM)
            self.linger(STRAGGLER_GRACE, until=lambda: self.hurry)
        pause = 0.001
        deadline = time.monotonic() + GIVE_UP
        while self.reap() and time.monotonic() < deadline:
            self.signal_all(signal.SIGKILL)
            if pause > CHASE:
                self.chase()
            self.linger(pause, until=lambda: False)
            pause = min(pause * 2, 0.25)

    def linger(self, seconds: float, until: Callable[[], bool]) -> None:
        """Wait that long, or until no child is left."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.reap() and not until():
            if not self.wait(deadline - time.monotonic()):
                self.lose_client()

    def signal_all(self, number: int) -> None:
        """Signal everything below.

        SIGKILL goes to groups first. A chain of processes that fork and exit at once is faster than any scan, but a group
        dies as one, and the id of a group stays its own as long as we have not reaped a member of it, which is our child.
        """
        me = os.getpid()
        found = descendants(me)
        # Without a table only our own children are known. What is below them becomes ours as they end.
        children = (
            [process.pid for process in found if process.parent == me] if table_is_ours() else own_children()
        )
        for pid in children:
            try:
                if number == signal.SIGKILL and (group := os.getpgid(pid)) != os.getpgrp():
                    os.killpg(group, number)
            except OSError:
                pass
        for pid in children:
            kill_own(pid, number)
        for process in found:
            if process.parent != me:
                send_signal(process, number)

    def chase(self) -> None:
        """Kill children as fast as they can be seen.

        What the groups do not help against: a chain in which each also makes a session of its own. Each link becomes
        our child when the one before it exits, so that its id is safe to use until we reap it.
        """
        me = os.getpid()
        deadline = time.monotonic() + CHASE
        while table_is_ours() and time.monotonic() < deadline:
            try:
                fd = os.open(f"/proc/{me}/task/{me}/children", os.O_RDONLY)
            except OSError:
                return
            for pid in os.read(fd, 65536).split():
                kill_own(int(pid), signal.SIGKILL)
            os.close(fd)


def load_prctl() -> Callable[[int, int], int]:
    """Return ``prctl``; a stand-in that fails where Python has no ``ctypes``."""
    try:
        import ctypes

        function = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return lambda option, value: -1
    return lambda option, value: int(function(option, ctypes.c_ulong(value), 0, 0, 0))


def become_server(
    argv: list[bytes],
    environ: dict[bytes, bytes],
    cwd: bytes | None,
    prctl: Callable[[int, int], int],
    guard: int,
) -> tuple[str, int]:
    """Turn the forked child into the server; return only if that fails: the step and the error number."""
    step = "exec"
    try:
        os.setsid()
        # For the day the guard itself is killed. On SIGTERM the real server ends its own commands, on SIGKILL it
        # cannot. (The guard has one thread, so "the parent thread has died" is the same as "the guard has".)
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guard:
            os._exit(1)
        if cwd is not None:
            step = "cwd"
            os.chdir(cwd)
            step = "exec"
        signal.set_wakeup_fd(-1)
        for number in range(1, signal.NSIG):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                pass  # SIGKILL, SIGSTOP, and two that the C library keeps to itself
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        raise_descriptor_limit()
        if b"/" in argv[0]:
            os.execve(argv[0], argv, environ)
        os.execvpe(argv[0], argv, environ)
    except Exception as error:
        return step, getattr(error, "errno", None) or errno.EIO


def raise_descriptor_limit() -> None:
    """Raise our soft limit of descriptors to the hard one: each command of the server costs it some."""
    try:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # a sandbox forbids it: then the soft limit stays


def let_go_of_streams() -> None:
    """Hold neither the server's streams nor any directory."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")


def start_server(plan: int, guard: Guard, prctl: Callable[[int, int], int], contained: bool) -> bool:
    """Start the server as ``plan`` says and report; tell whether it runs."""
    with open(plan, "rb") as file:
        argv, environ, cwd = marshal.load(file)
    me = os.getpid()
    failure, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            step, number = become_server(argv, environ, cwd, prctl, me)
            os.write(tell, f"fail {step} {number}".encode())
        finally:
            os._exit(127)
    os.close(tell)
    problem = os.read(failure, 100)  # ends when the exec closes the other end
    os.close(failure)
    let_go_of_streams()
    if problem:
        os.waitpid(pid, 0)
        guard.report(problem.decode())
        return False
    guard.server = pid
    guard.report(f"pid {pid} {contained:d}")
    return True


def keep(child: int, control: int, client: int, client_fd: int) -> None:
    """Be the keeper: wait for the guard proper, and end what it leaves behind when it is killed.

    Without a descriptor for the client the guard cannot see its death; we can, as its child. Our own end tells the guard.
    """
    # Whoever has stopped the guard has not stopped the end: the client wakes us, and we wake the guard.
    signal.signal(signal.SIGCONT, lambda number, frame: kill_own(child, signal.SIGCONT))
    if client_fd < 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if os.getppid() != client:
                return
            signal.sigtimedwait((signal.SIGCHLD,), PARENT_POLL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.waitpid(child, 0)[1] != 0:
        guard = Guard(control, client_fd)
        guard.hurry = True
        guard.end_tree()


def main(control: int, plan: int, client: int) -> None:
    """Be the guard.

    Args:
        control: The socket to the client.
        plan: The file that holds what to start.
        client: The client's process id.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    # The client may have had it ignored, and then there would be no status to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Blocked signals are inherited: without SIGCHLD the end of the server would never be seen.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.set_inheritable(control, False)
    prctl = load_prctl()
    contained = prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
    client_fd = open_pidfd(client)
    if os.getppid() != client:
        os._exit(0)  # it has died, and its id may be another's; from here on its death is seen
    me = os.getpid()
    child = os.fork()
    if child:
        os.close(plan)
        let_go_of_streams()
        keep(child, control, client, client_fd)
        os._exit(0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Wakes us when the keeper is killed. (It has one thread, so "the parent thread has died" is the same as "it has".)
    prctl(PR_SET_PDEATHSIG, signal.SIGCHLD)
    guard = Guard(control, client_fd)
    if guard.keeper == me and start_server(plan, guard, prctl, contained):
        guard.watch()
        guard.end_tree()
    os._exit(0)
