"""Fake servers: each function is one behavior. By default, it prints ``ready PID…`` and runs until EOF on stdin.

Run as ``python -I -S server.py BEHAVIOR [ARGUMENT]``.
"""

import os
import signal
import sys
import time


def ready(*pids):
    os.write(1, b"ready " + b" ".join(str(pid).encode() for pid in pids) + b"\n")


def until_eof():
    while os.read(0, 65536):
        pass


def sleep_for_ever():
    while True:
        time.sleep(1000)


def child(run):
    """Fork a child that calls ``run`` and exits."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(0)
    return pid


def gentle():
    ready()
    until_eof()


def echo():
    ready()
    while data := os.read(0, 65536):
        os.write(1, data)


def deaf():
    """Ignore EOF."""
    ready()
    sleep_for_ever()


def stubborn():
    """Ignore EOF and every signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ready()
    sleep_for_ever()


def stubborn_child():
    """Exit on EOF, but leave a child that ignores SIGTERM and holds stdout and stderr open."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pid = child(sleep_for_ever)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ready(pid)
    until_eof()


def stubborn_parent():
    """Ignore EOF and signals, and start a child in another session that does the same."""

    def run():
        os.setsid()
        os.write(writer, b"x")
        sleep_for_ever()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    reader, writer = os.pipe()
    pid = child(run)
    os.read(reader, 1)
    ready(pid)
    sleep_for_ever()


def polite_child(path):
    """Exit on EOF, but leave a child that handles SIGTERM: it writes ``path`` and exits."""

    def run():
        def say_goodbye(number, frame):
            with open(path, "w") as file:
                file.write("goodbye")
            os._exit(0)

        signal.signal(signal.SIGTERM, say_goodbye)
        os.write(writer, b"x")
        sleep_for_ever()

    reader, writer = os.pipe()
    pid = child(run)
    os.read(reader, 1)
    ready(pid)
    until_eof()


def daemon():
    """Leave a daemon: its parent has exited, and it is in another session."""
    reader, writer = os.pipe()

    def session():
        os.setsid()
        pid = child(sleep_for_ever)
        os.write(writer, str(pid).encode())

    os.waitpid(child(session), 0)
    ready(int(os.read(reader, 100)))
    until_eof()


def stubborn_daemon():
    """Ignore EOF and signals, and leave a daemon that does the same."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    daemon()
    sleep_for_ever()


def orphans(count):
    """Create orphans that exit immediately."""
    for _ in range(int(count)):
        os.waitpid(child(lambda: child(lambda: None)), 0)
    ready()
    until_eof()


def bomb(count):
    """Start ``count`` processes that fork short-lived children forever, all in the group of the server."""

    def run():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            child(lambda: time.sleep(0.05))
            time.sleep(0.002)

    pids = [child(run) for _ in range(int(count))]
    ready(*pids)
    until_eof()


def chain():
    """Start a process that forks and exits, forever: a scan of the process table hardly ever finds it alive."""

    def run():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while os.fork() == 0:
            pass

    child(run)
    ready()
    until_eof()


def session_chain():
    """Start such a chain in which each process is in its own session."""

    def run():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while os.fork() == 0:
            os.setsid()

    child(run)
    ready()
    until_eof()


def mute():
    """Close stdout and continue."""
    ready()
    os.close(1)
    until_eof()


def flood():
    """Write 10 MB that are neither lines nor text to stderr, then print ``ready``."""
    for _ in range(160):
        os.write(2, b"\xff\xfe\x1b[31m\xc3" * 10923)
    os.write(2, b"the end")
    ready()
    until_eof()


def chatter():
    """On EOF, write 4 MiB to stdout, and exit once all of it is read."""
    ready()
    until_eof()
    for _ in range(64):
        os.write(1, b"x" * 65536)


def last_words(status):
    os.write(2, b"Error: \xe2\x80\x9cno\xe2\x80\x9d \x1b[1mconfiguration\x1b[0m\n")
    os._exit(int(status))


def die(number):
    if int(number) != signal.SIGKILL:
        signal.signal(int(number), signal.SIG_DFL)  # under nohup, SIGHUP is ignored
    os.kill(os.getpid(), int(number))


globals()[sys.argv[1]](*sys.argv[2:])
