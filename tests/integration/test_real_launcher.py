"""A server started elsewhere through a launcher such as ``ssh``, which ends when its input ends."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from trio_codex import CodexConfig, TurnStatus, errors, open_codex
from trio_codex.binary import find_binary
from trio_codex.testing import MockModel, offline_home

pytestmark = pytest.mark.real

LAUNCHER = """
import os, select, socket, sys

far = socket.socket(socket.AF_UNIX)
far.connect(sys.argv[1])
inputs = [0, far]
while True:
    ready, _, _ = select.select(inputs, [], [])
    if far in ready:
        data = far.recv(65536)
        if not data:
            break
        os.write(1, data)
    if 0 in ready:
        data = os.read(0, 65536)
        if data:
            far.sendall(data)
        else:
            far.shutdown(socket.SHUT_WR)
            inputs.remove(0)
"""


def started_elsewhere(connection, home):
    """Start a server on an accepted connection, as inetd does."""
    os.set_blocking(connection.fileno(), True)
    with connection:
        return subprocess.Popen(
            [find_binary().path, "app-server"],
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            stderr=subprocess.DEVNULL,
            env=home.env,
            cwd=home.workspace,
        )


async def exit_status(process):
    descriptor = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    return process.wait()


@asynccontextmanager
async def far_machine(home):
    """Yield a launcher and the list of its servers. Each launcher starts a server outside its own process tree."""
    path = f"{home.tmp}/far.sock"
    servers = []

    async def accept():
        while True:
            connection, _ = await listener.accept()
            servers.append(started_elsewhere(connection, home))

    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
        bound.listen()
        listener = trio.socket.from_stdlib_socket(bound)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            try:
                yield [sys.executable, "-I", "-S", "-c", LAUNCHER, path], servers
            finally:
                nursery.cancel_scope.cancel()
                for server in servers:
                    server.kill()
                    server.wait()


@asynccontextmanager
async def far_home():
    with trio.fail_after(30):
        async with MockModel() as model:
            with offline_home(model) as home:
                yield home, model


async def test_a_program_that_execs_the_server_can_be_a_launcher():
    async with far_home() as (home, model):
        model.say("Hello.")
        argv = ["/bin/sh", "-c", 'exec "$@"', "sh", find_binary().path, "app-server"]
        async with open_codex(home.config(CodexConfig(launch_args_override=argv))) as codex:
            result = await (await codex.thread_start()).run("Hi.")
            assert result.final_response == "Hello."
            pid = codex.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("end", ["left", "killed"])
async def test_a_remote_server_ends_at_the_end_of_its_input(end):
    async with far_home() as (home, model), far_machine(home) as (launcher, servers):
        model.say("Hello.")
        model.hang()
        config = home.config(CodexConfig(launch_args_override=launcher))
        async with open_codex(config) as codex:
            thread = await codex.thread_start()
            assert (await thread.run("Hi.")).final_response == "Hello."
            [server] = servers
            assert server.pid != codex.pid
            if end == "left":
                async with thread.turn("Take your time.") as turn:
                    await model.wait_for_requests(2)
                assert turn.result.status is TurnStatus.interrupted
            else:
                with pytest.raises(errors.TurnLost):
                    async with thread.turn("Take your time.") as turn:
                        await model.wait_for_requests(2)
                        os.kill(codex.pid, signal.SIGKILL)
                        await turn.wait()
                assert isinstance(await codex.wait_closed(), errors.ServerExited)
        assert await exit_status(server) == 0


@pytest.mark.parametrize("end", ["left", "killed"])
async def test_a_remote_command_ends_with_its_server(end):
    async with far_home() as (home, model), far_machine(home) as (launcher, servers):
        model.run_command("echo $$ > pid; exec sleep 1000")
        async with open_codex(home.config(CodexConfig(launch_args_override=launcher))) as codex:
            thread = await codex.thread_start(cwd=home.workspace, sandbox="danger-full-access")
            file = Path(home.workspace, "pid")
            with suppress(errors.TurnLost):
                async with thread.turn("Wait.") as turn:
                    while not (file.exists() and file.read_text().strip()):  # noqa: ASYNC110, ASYNC240
                        await trio.sleep(0.01)
                    command = os.pidfd_open(int(file.read_text()))  # noqa: ASYNC240
                    if end == "killed":
                        os.kill(codex.pid, signal.SIGKILL)
                        await turn.wait()
        try:
            await trio.lowlevel.wait_readable(command)
        finally:
            os.close(command)
        [server] = servers
        assert await exit_status(server) == 0
