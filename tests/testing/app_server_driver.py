"""A raw JSON-RPC driver of the real app-server over stdio, to test the mock model independently of the client."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio
from codex_cli_bin import bundled_codex_path

from trio_codex.testing import MockModel, OfflineHome, offline_home

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

LIMIT = 10
"""Timeout of a test in seconds."""


@attrs.define(eq=False)
class AppServer:
    """The real server. `log` keeps every message that the server sends."""

    home: OfflineHome
    stdin: trio.abc.SendStream
    stdout: trio.abc.ReceiveStream
    log: list[dict[str, Any]] = attrs.field(factory=list)
    _buffer: bytearray = attrs.field(factory=bytearray)
    _next_id: int = 1000

    async def _read(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            chunk = await self.stdout.receive_some()
            if not chunk:
                raise EOFError("the app-server closed its stdout")
            self._buffer += chunk
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer[:] = rest
        self.log.append(json.loads(line))
        return self.log[-1]  # noqa: ASYNC910  # no checkpoint if a line is buffered

    async def send(self, **message: Any) -> None:
        await self.stdin.send_all(json.dumps(message).encode() + b"\n")

    async def find(self, matches: Callable[[dict[str, Any]], bool], start: int = 0) -> dict[str, Any]:
        """Wait for a message that matches, at or after position `start` of the log, and return it."""
        for message in self.log[start:]:
            if matches(message):
                return message  # noqa: ASYNC910  # no checkpoint if the message is in the log
        while not matches(message := await self._read()):
            pass
        return message

    async def call(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self._next_id += 1
        request_id = self._next_id
        await self.send(id=request_id, method=method, params=params)
        answer = await self.find(lambda m: m.get("id") == request_id and "method" not in m)
        assert "error" not in answer, answer
        return answer["result"]

    async def start_thread(self, **params: Any) -> str:
        return (await self.call("thread/start", params))["thread"]["id"]

    async def start_turn(self, thread: str, text: str, **params: Any) -> str:
        prompt = [{"type": "text", "text": text}]
        return (await self.call("turn/start", {"threadId": thread, "input": prompt, **params}))["turn"]["id"]

    async def turn_end(self, turn: str) -> dict[str, Any]:
        end = await self.find(
            lambda m: m.get("method") == "turn/completed" and m["params"]["turn"]["id"] == turn
        )
        return end["params"]["turn"]

    async def run_turn(self, text: str, **params: Any) -> dict[str, Any]:
        return await self.turn_end(await self.start_turn(await self.start_thread(), text, **params))

    async def notified(self, method: str) -> dict[str, Any]:
        return (await self.find(lambda m: m.get("method") == method))["params"]

    async def asked(self, method: str) -> dict[str, Any]:
        """Wait for a request from the server."""
        return await self.find(lambda m: m.get("method") == method and "id" in m)

    def params_of(self, method: str) -> list[dict[str, Any]]:
        return [m["params"] for m in self.log if m.get("method") == method]

    def completed_items(self, kind: str) -> list[dict[str, Any]]:
        items = [params["item"] for params in self.params_of("item/completed")]
        return [item for item in items if item["type"] == kind]


@asynccontextmanager
async def app_server(home: OfflineHome) -> AsyncGenerator[AppServer]:
    # Not with Trio's `open_process`, whose worker thread would outlive the test.
    their_stdin, our_stdin = os.pipe()
    our_stdout, their_stdout = os.pipe()
    process = subprocess.Popen(  # noqa: ASYNC220
        [str(bundled_codex_path()), "app-server"],
        stdin=their_stdin,
        stdout=their_stdout,
        stderr=subprocess.DEVNULL,
        env=dict(home.env),
        cwd=home.workspace,
        start_new_session=True,
    )
    os.close(their_stdin)
    os.close(their_stdout)
    async with trio.lowlevel.FdStream(our_stdout) as stdout, trio.lowlevel.FdStream(our_stdin) as stdin:
        try:
            server = AppServer(home, stdin, stdout)
            info = {"name": "mock-model-test", "title": "test", "version": "0"}
            await server.call("initialize", {"clientInfo": info, "capabilities": {"experimentalApi": True}})
            yield server
        finally:
            with trio.move_on_after(3, shield=True):
                await stdin.aclose()
                # The server exits only if its stdout is read; it then exits right after it closes stdout.
                while await stdout.receive_some():
                    pass
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.kill()
            process.wait()
    # A process that the server was starting when it was killed ends a moment later.
    with trio.move_on_after(3):
        while processes_of(home):  # noqa: ASYNC110  # there is no event for this
            await trio.sleep(0.02)
    assert processes_of(home) == []


def processes_of(home: OfflineHome) -> list[int]:
    """Return the ids of the processes that run in this home."""
    mark = f"CODEX_HOME={home.codex_home}".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (directory / "environ").read_bytes().split(b"\0"):
                found.append(int(directory.name))
        except OSError:
            continue
    return found


@asynccontextmanager
async def played(**home_options: Any) -> AsyncGenerator[tuple[MockModel, AppServer]]:
    """Run a server with a mock model within the time limit, and check that nothing is left."""
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            with offline_home(model, **home_options) as home:
                async with app_server(home) as server:
                    yield model, server
