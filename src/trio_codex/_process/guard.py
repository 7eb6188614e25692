"""The guard: a small process between the client and the server that kills everything the server leaves behind.

It runs under ``python -I -S`` and imports little of the standard library: its startup is part of every server start.
It is independent of Trio, JSON and Codex.

It is a *child subreaper*: every descendant whose parent dies becomes its own child, even if it moved to another session
or process group. So once it has no children, no process remains, and a loop that kills children until then cannot
miss a daemon. It ends the tree when the server has died, when the client requests it (:data:`KILL`), and when the
client is gone. The client is gone when its socket is closed or its process is dead; a forked copy may keep the
socket open.

It consists of two processes: the client starts the *keeper*, which forks the guard proper, which forks the server. Both
are subreapers: if the guard is killed (for example, by the OOM killer), its children become children of the keeper, which
kills them. If the keeper is killed, the guard ends the server as if the client were gone.

The server inherits the guard's stdin, stdout and stderr unchanged. It gets its own session, default signal handlers
with no signals blocked, and a descriptor limit raised to the hard limit. Its arguments, environment and working directory
come from the *plan*: a marshalled ``(argv, environ, cwd)`` in a file descriptor, which no process list shows.

The guard reports lines on the socket:

* ``pid N C``: the server is running; ``C`` is ``1`` if the guard is a subreaper.
* ``fail STEP ERRNO``: the server could not be started; ``STEP`` is ``cwd`` or ``exec``.
* ``exit N``: the server has exited; ``N`` is negative for a signal. Reported *before* the process is reaped.
* End of file: the server and all its descendants are gone.
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
    # The public module builds its enums, which is a third of the guard's startup time.
    import _signal as signal

TERMINATE = b"T"
"""Command: SIGTERM for the server."""
KILL = b"K"
"""Command: SIGKILL for the server and all its descendants, immediately."""

EOF_GRACE = 0.5
"""Seconds for the server to exit on its own once the client is gone. The real one takes 10 to 65 ms after EOF."""
TERM_GRACE = 0.5
"""Seconds for the server to exit on SIGTERM, if it does not exit on EOF. The real one takes 33 ms."""
STRAGGLER_GRACE = 0.25
"""Seconds between SIGTERM and SIGKILL for what the server left behind, in which ``docker run`` can stop its container."""
CHASE = 0.01
"""Seconds per round spent in :meth:`Guard.chase`, if the first rounds were not enough."""
PARENT_POLL = 0.25
"""Interval of checks that the client still exists, where no descriptor reports it."""
GIVE_UP = 30.0
"""Seconds after which to stop sending SIGKILL. Only processes of another user, which cannot be killed, survive that long."""

PID_LIMIT = 1 << 22
USUAL_PIDS = 1 << 15
"""The limits on process ids: of every kernel, and of most."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

IGNORED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE
)  # fmt: skip
"""Signals that the guard ignores, because it must not exit before the server and the client."""


class Process:
    """One entry of the process table; ``start`` distinguishes it from a later process with the same id."""

    __slots__ = ("group", "parent", "pid", "start", "zombie")

    def __init__(self, pid: int, stat: bytes) -> None:
        # The second field is the program's name in parentheses, which may itself contain parentheses and spaces.
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.pid = pid
        self.zombie = fields[0] in b"ZX"
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.start = int(fields[19])


def table_is_ours() -> bool:
    """Return whether ``/proc`` exists and belongs to our PID namespace, so that its ids are those of our processes."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def look_up(pid: int) -> Process | None:
    """Read one process from ``/proc``; ``None`` if it is gone or ``/proc`` is not usable."""
    return _read_process(pid) if table_is_ours() else None


def _read_process(pid: int) -> Process | None:
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        return Process(pid, os.read(fd, 4096))
    except (OSError, ValueError, IndexError):  # it exited while it was read
        return None
    finally:
        os.close(fd)


def descendants(root: int) -> list[Process]:
    """Return all descendants of ``root``, parents first, including zombies; none without a process table."""
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
    for process in found:  # grows during iteration
        found += below.get(process.pid, ())
    return found


def own_children() -> list[int]:
    """Return our children without a process table, by probing the ids that they can have; those with high ids later.

    All of them are younger than this process and older than a child forked now, which bounds their ids.
    """
    me = os.getpid()
    youngest = os.fork()
    if youngest == 0:
        os._exit(0)
    parts = [[range(me + 1, youngest)]]
    if youngest < me:  # the ids have started over, and probing all of them takes seconds
        parts = [[range(2, youngest), range(me + 1, USUAL_PIDS)], [range(max(me + 1, USUAL_PIDS), PID_LIMIT)]]
    found = ([pid for ids in part for pid in ids if _is_child(pid)] for part in parts)
    return next((pids for pids in found if pids), list[int]())


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return False
    return True


def open_pidfd(pid: int) -> int:
    """Return a descriptor that becomes readable when the process exits; -1 if unsupported.

    Old kernels lack the system call, a sandbox may forbid it, and a Python built with old headers lacks the function.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def send_signal(process: Process, number: int) -> None:
    """Signal exactly this process, not a later one with the same id."""
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
    """Signal a child of ours; its id cannot be reused until we reap it."""
    try:
        os.kill(pid, number)
    except OSError:
        pass  # not ours to signal: it has switched to another user


class Guard:
    """The state of one guard: its client, its keeper, its server."""

    def __init__(self, control: int, client_fd: int) -> None:
        self.control = control
        self.keeper = os.getppid()
        self.server = 0
        self.ended = False
        """Whether the server has exited."""
        self.hurry = False
        """Whether the client has withdrawn the grace period."""
        self.wake_up, wake_up = os.pipe()
        os.set_blocking(self.wake_up, False)
        os.set_blocking(wake_up, False)
        signal.set_wakeup_fd(wake_up, warn_on_full_buffer=False)
        # A handler is needed, even an empty one: under SIG_DFL no wakeup is written, and under an inherited SIG_IGN
        # there would be no exit status to wait for.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.poller = select.poll()
        self.poller.register(self.wake_up, select.POLLIN)
        self.poller.register(control, select.POLLIN)
        self.client_fd = client_fd
        if client_fd >= 0:
            self.poller.register(client_fd, select.POLLIN)

    def report(self, line: str) -> None:
        """Send a line to the client, if it still exists."""
        try:
            os.write(self.control, line.encode() + b"\n")
        except OSError:
            pass

    def lose_client(self) -> None:
        """Stop watching the client and the keeper: the descriptor of a dead process stays readable forever."""
        self.keeper = os.getppid()
        for fd in (self.control, self.client_fd):
            try:
                self.poller.unregister(fd)
            except (KeyError, ValueError):
                pass

    def wait(self, seconds: float | None) -> bool:
        """Sleep until something happens; return ``False`` if the client or the keeper is gone."""
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
        """Signal the server. Its id cannot be reused until :meth:`reap` reaps it."""
        if not self.ended:
            kill_own(self.server, number)
            kill_own(self.server, signal.SIGCONT)  # a stopped process does not handle signals

    def reap(self) -> bool:
        """Reap every child that has died; return whether any child is left."""
        while True:
            try:
                # Look before reaping: the client must learn of the server's exit before its id can be reused.
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
        """Wait until the server has exited or must be killed; ask it to exit once the client is gone."""
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
        """Kill all remaining processes, and return once there are none."""
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
        """Wait for this many seconds, or until no child is left."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.reap() and not until():
            if not self.wait(deadline - time.monotonic()):
                self.lose_client()

    def signal_all(self, number: int) -> None:
        """Signal all descendants.

        SIGKILL goes to groups first. A chain of processes that fork and exit immediately is faster than any scan, but
        all members of a group are killed at once. The id of a group is safe to use until we reap our child in it.
        """
        me = os.getpid()
        found = descendants(me)
        # Without a table only our own children are known. Their descendants become ours as they exit.
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
        """Kill children as fast as they appear.

        This handles what killing groups cannot: a chain in which each process also creates its own session. Each link
        becomes our child when the previous one exits, so its id is safe to use until we reap it.
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
    """Return ``prctl``, or a stub that always fails if Python has no ``ctypes``."""
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
    """Turn the forked child into the server; returns only on failure, with the step and the error number."""
    step = "exec"
    try:
        os.setsid()
        # Get SIGTERM if the guard is killed: the real server then ends its own commands. (The signal is sent when the
        # parent *thread* dies, and the guard has only one.)
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
                pass  # SIGKILL, SIGSTOP, and two that are reserved by the C library
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        raise_descriptor_limit()
        if b"/" in argv[0]:
            os.execve(argv[0], argv, environ)
        os.execvpe(argv[0], argv, environ)
    except Exception as error:
        return step, getattr(error, "errno", None) or errno.EIO


def raise_descriptor_limit() -> None:
    """Raise our soft descriptor limit to the hard limit, because each command that the server runs uses some."""
    try:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # a sandbox forbids it; the soft limit stays


def release_streams() -> None:
    """Release the server's streams and the working directory."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")


def start_server(plan: int, guard: Guard, prctl: Callable[[int, int], int], contained: bool) -> bool:
    """Start the server according to ``plan`` and report it; return whether it is running."""
    with open(plan, "rb") as file:
        argv, environ, cwd = marshal.load(file)
    me = os.getpid()
    failure, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            step, number = become_server(argv, environ, cwd, prctl, me)
            os.write(report, f"fail {step} {number}".encode())
        finally:
            os._exit(127)
    os.close(report)
    problem = os.read(failure, 100)  # returns when exec closes the other end
    os.close(failure)
    release_streams()
    if problem:
        os.waitpid(pid, 0)
        guard.report(problem.decode())
        return False
    guard.server = pid
    guard.report(f"pid {pid} {contained:d}")
    return True


def keep(child: int, control: int, client: int, client_fd: int) -> None:
    """Run the keeper: wait for the guard proper, and kill what it leaves behind if it is killed.

    Without a descriptor for the client, the guard cannot detect the client's death. The keeper can, because it is the
    client's child, and the guard detects that the keeper exits.
    """
    # A stopped guard must not prevent shutdown: the client resumes us, and we resume the guard.
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
    """Run the guard, given the descriptors of the socket and of the plan, and the client's process id."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    # The client may ignore SIGCHLD, and then there would be no exit status to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Blocked signals are inherited: with SIGCHLD blocked, the server's exit would never be noticed.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.set_inheritable(control, False)
    prctl = load_prctl()
    contained = prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
    client_fd = open_pidfd(client)
    if os.getppid() != client:
        os._exit(0)  # the client has died, and its id may be reused; after this check its death is noticed
    me = os.getpid()
    child = os.fork()
    if child:
        os.close(plan)
        release_streams()
        keep(child, control, client, client_fd)
        os._exit(0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Wake up when the keeper is killed. (The signal is sent when the parent *thread* dies, and the keeper has only one.)
    prctl(PR_SET_PDEATHSIG, signal.SIGCHLD)
    guard = Guard(control, client_fd)
    if guard.keeper == me and start_server(plan, guard, prctl, contained):
        guard.watch()
        guard.end_tree()
    os._exit(0)
