"""Run the command line in forks of one interpreter: ``forked_cli.py DESCRIPTOR``, with one end of a socket pair.

A request is a JSON object with the arguments, the environment and the working directory, and carries the descriptors of
the standard streams and of a pipe. The response is the process id; the exit status is written to the pipe.

A short command spends most of its time on starting Python, on imports, and on freeing all modules at the exit. Here all
tests share one start and its imports, and nothing is freed.
"""

import atexit
import fcntl
import gc
import json
import os
import pkgutil
import selectors
import socket
import sys
import termios

REQUEST_BYTES = 1 << 20
REQUEST_DESCRIPTORS = 4
MOST_DESCRIPTORS = 1 << 10
STREAMS = (("stdin", "r", -1), ("stdout", "w", -1), ("stderr", "w", 1))
"""Name, mode and buffering of each, as Python opens them at startup."""


def serve(channel):
    """Fork for each request, and report exit statuses. Return only in a fork, with the request and its streams."""
    waiting = selectors.DefaultSelector()
    waiting.register(channel, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.data is not None:
                waiting.unregister(key.fileobj)
                report(key.fileobj, *key.data)
                continue
            message, descriptors, _, _ = socket.recv_fds(channel, REQUEST_BYTES, REQUEST_DESCRIPTORS)
            if not message:
                os._exit(0)  # the tests are over
            *streams, status = descriptors
            pid = os.fork()
            if pid == 0:
                waiting.close()
                channel.close()
                return json.loads(message), streams
            waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))
            for stream in streams:
                os.close(stream)
            channel.send(b"%d" % pid)


def report(pidfd, pid, status):
    # Reap the process last: until the driver has its status, it may still send a signal to this id.
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.write(status, b"%d" % (ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status))
    os.close(status)
    os.waitpid(pid, 0)
    os.close(pidfd)


def become(request, streams):
    """Give the fork the state of a process that has just started."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(len(streams), MOST_DESCRIPTORS)
    if request["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv[:] = [trio_codex.cli.__main__.__file__, *request["arguments"]]
    for number, (name, mode, buffering) in enumerate(STREAMS):
        old = getattr(sys, name)
        new = open(number, mode, buffering, encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115  # open until the exit
        setattr(sys, name, new)


async def rehearse():
    """Run a turn of a scripted server, which builds the converters that all commands need."""
    async with fake_codex(process=True) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await server.item("completed", {"type": "agentMessage", "id": "m", "text": "hello"})
        await server.end_turn()


ending = {}
"""The exit status of the command, once it is known."""


def leave():
    """Exit as Python does, but free nothing."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # Python reports the error, and exits with its own status
    if "status" in ending:
        os._exit(ending["status"])


if __name__ == "__main__":
    atexit.register(leave)  # before the imports, so that it runs after the functions that they register
    import hypercorn.trio  # noqa: F401  # for commands with a scripted model
    import trio

    import trio_codex.batch
    import trio_codex.cli.__main__
    import trio_codex.supervision
    import trio_codex.testing
    from trio_codex._api.loading import HELD
    from trio_codex.cli import main
    from trio_codex.testing import fake_codex

    for module in pkgutil.iter_modules(trio_codex.cli.__path__, "trio_codex.cli."):
        __import__(module.name)
    for name in HELD:
        __import__(name)
    trio.run(rehearse)
    gc.collect()
    gc.freeze()
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))
    try:
        main()
    except SystemExit as exc:
        if isinstance(exc.code, int):
            ending["status"] = exc.code
        raise
