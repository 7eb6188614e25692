"""The cost of a client in a fresh process. Run as ``python fresh.py WHAT DIRECTORY [SERVER…]``.

Before the clock starts, it imports only what it needs for measuring. ``WHAT`` names an import, or a client to start
with the server command that follows: the scripted server or the real one.
"""

import os
import sys
import time

IMPORTS = {
    "bare": "",
    "dependencies": "import trio, attrs, cattrs, msgspec",
    "trio-codex": "import trio_codex",
    "openai-codex": "import openai_codex",
}


def resident_kib(pid="self"):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def start_trio(command, then):
    import trio

    import trio_codex

    config = trio_codex.CodexConfig(launch_args_override=command)

    async def main():
        async with trio_codex.open_codex(config) as codex:
            return then(codex)

    return lambda: trio.run(main)


def start_async_sdk(command, then):
    import asyncio

    import openai_codex

    async def main():
        async with openai_codex.AsyncCodex(
            openai_codex.CodexConfig(launch_args_override=tuple(command))
        ) as codex:
            return then(codex)

    return lambda: asyncio.run(main())


def start_sync_sdk(command, then):
    import openai_codex

    def main():
        with openai_codex.Codex(openai_codex.CodexConfig(launch_args_override=tuple(command))) as codex:
            return then(codex)

    return main


def start_bare(command, then):
    """Start the server and perform the handshake, nothing else."""
    import subprocess

    def main():
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            client = b'{"name":"bare","title":"bare","version":"0"}'
            server.stdin.write(b'{"id":1,"method":"initialize","params":{"clientInfo":%b}}\n' % client)
            server.stdin.flush()
            assert b'"result"' in server.stdout.readline()
            found = then(server)
            server.stdin.close()
            server.stdout.read()
        return found

    return main


CLIENTS = {
    "bare": start_bare,
    "trio-codex": start_trio,
    "AsyncCodex": start_async_sdk,
    "Codex": start_sync_sdk,
}


def cost_of_import(what):
    before, wall, cpu = resident_kib(), time.perf_counter(), time.process_time()
    exec(IMPORTS[what])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"ms": 1e3 * wall, "cpu ms": 1e3 * cpu, "MiB": (resident_kib() - before) / 1024}


def cost_of_start(what, command):
    before = resident_kib()
    main = CLIENTS[what](command, lambda codex: (time.perf_counter(), resident_kib() - before, child_kib()))
    start = time.perf_counter()
    end, memory, child = main()
    return {"ms": 1e3 * (end - start), "MiB": memory / 1024, "child MiB": child / 1024}


def child_kib():
    """Return the resident memory of the process that the client started: the server, or its guard."""
    pids = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children") as file:
            pids += file.read().split()
    (pid,) = pids
    return resident_kib(pid)


if __name__ == "__main__":
    numbers = cost_of_start(sys.argv[1], sys.argv[2:]) if sys.argv[2:] else cost_of_import(sys.argv[1])
    import json

    sys.stdout.write(json.dumps(numbers) + "\n")
