"""A client that starts a server, prints the ids of all processes, and sleeps until it is killed.

Run as ``python parent.py HOLD BEHAVIOR…``. With ``HOLD`` = 1, a forked copy keeps all descriptors open.
"""

import os
import signal
import sys

import trio

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from process.running_server import ENV, fake, read_line
from trio_codex._process import guard as _guard
from trio_codex._process.spawn import spawn_server


async def main():
    hold, *behavior = sys.argv[1:]
    process = spawn_server(fake(*behavior), env=ENV, guard_python=os.environ.get("GUARD_PYTHON"))
    async with trio.open_nursery() as nursery:
        await process.started()
        nursery.start_soon(process.drain_stderr)
        pids = (await read_line(process)).split()[1:]
        copy = 0
        if hold == "1":
            copy = os.fork()
            if copy == 0:
                signal.pause()
                os._exit(0)
        guard = _guard.look_up(process.pid).parent
        sys.stdout.write(" ".join(map(str, [copy, guard, process.pid, *map(int, pids)])) + "\n")
        sys.stdout.flush()
        await trio.sleep_forever()


trio.run(main)
