"""The scope of the mock model and its HTTP server, with a plain socket as the client."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_codex.testing import Delay, MockModel, ModelRequest, Pause, RawEvent, Slot, Step, Text, _model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

LIMIT = 10
"""Timeout of a test in seconds."""


@asynccontextmanager
async def connected(model: MockModel) -> AsyncGenerator[trio.SocketStream]:
    host, _, port = model.base_url.removeprefix("http://").removesuffix("/v1").partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        yield stream


def encoded(body: bytes, path: str = "/v1/responses", method: str = "POST", **headers: str) -> bytes:
    fields = {"host": "model", "content-length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


async def everything(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    async for chunk in stream:
        received += chunk
    return bytes(received)


async def until(stream: trio.SocketStream, text: bytes) -> bytes:
    received = bytearray()
    async for chunk in stream:
        received += chunk
        if text in received:
            return bytes(received)
    pytest.fail(f"{bytes(received)!r} has no {text!r}")


async def asked(model: MockModel, body: bytes = b"{}", **options: str) -> bytes:
    """Send a request to the model, and return the whole HTTP response."""
    async with connected(model) as stream:
        await stream.send_all(encoded(body, **options))
        return await everything(stream)


def user_says(text: str) -> bytes:
    content = [{"type": "input_text", "text": text}]
    return json.dumps({"input": [{"type": "message", "role": "user", "content": content}]}).encode()


async def test_closing_the_model_drops_open_streams_immediately() -> None:
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as outlives_the_model:
            async with MockModel() as model:
                stream = await outlives_the_model.enter_async_context(connected(model))
                model.hang("for ever")
                await stream.send_all(encoded(b"{}"))
                await until(stream, b"for ever")
                leaving = trio.current_time()
            assert trio.current_time() - leaving < 0.5
            assert await everything(stream) == b""
            (request,) = model.requests
            assert request.closed.is_set()
            assert not request.completed


async def test_closing_the_model_drops_a_client_that_does_not_read() -> None:
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as outlives_the_model:
            async with MockModel() as model:
                stream = await outlives_the_model.enter_async_context(connected(model))
                model.say(*["x" * 10_000] * 2_000)
                await stream.send_all(encoded(b"{}"))
                await model.wait_for_requests(1)
                # When the buffers on both sides are full, hypercorn blocks in a shielded write.
                await trio.testing.wait_all_tasks_blocked(0.05)
                leaving = trio.current_time()
            assert trio.current_time() - leaving < 0.5
            assert not model.requests[0].completed


async def test_a_client_that_disconnects_ends_its_stream() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.hang()
            async with connected(model) as stream:
                await stream.send_all(encoded(b"{}"))
                await until(stream, b"response.created")
            (request,) = await model.wait_for_requests(1)
            await request.closed.wait()
            assert not request.completed


async def test_a_client_that_disconnects_during_its_request_is_not_recorded() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.say("ok")
            async with connected(model) as stream:
                await stream.send_all(encoded(b"{}", **{"content-length": "100"}))
            assert b"ok" in await asked(model)
            assert len(model.requests) == 1


@pytest.mark.parametrize(("clean", "last"), [(True, b"0\r\n\r\n"), (False, b"\n\n\r\n")])
async def test_a_cut_ends_the_body_or_breaks_it(clean: bool, last: bytes) -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.cut("par", clean=clean)
            received = await asked(model)
            assert received.endswith(last)
            assert b"response.completed" not in received
            assert model.requests[0].completed


async def test_a_flood_of_deltas_arrives_whole() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.say(*(f"<{number}>" for number in range(3_000)))
            received = await asked(model)
            assert received.count(b"event: response.output_text.delta") == 3_000
            assert model.requests[0].completed


async def test_http_failures_have_the_scripted_status_and_body() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.fail(429, error="usage_limit_reached", message="no more", headers={"Retry-After": "7"})
            head, _, body = (await asked(model)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 429 ")
            assert b"content-type: application/json" in head
            assert b"retry-after: 7" in head
            assert b'{"error": {"type": "usage_limit_reached"' in body
            model.fail(503, body="plain")
            head, _, body = (await asked(model)).partition(b"\r\n\r\n")
            assert b"content-type: text/plain" in head
            assert b"plain" in body


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("GET", "/v1/responses"), ("POST", "/v1/responses/compact")]
)
async def test_only_the_responses_endpoint_is_served(method: str, path: str) -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            assert (await asked(model, method=method, path=path)).startswith(b"HTTP/1.1 404 ")
            assert model.requests == []
            with pytest.raises(AssertionError, match=path):
                model.assert_all_used()


async def test_a_websocket_is_refused() -> None:
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            assert b" 101 " not in (await asked(model, b"", method="GET", **upgrade)).partition(b"\r\n")[0]


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b"\xff"])
async def test_a_body_that_is_not_an_object_is_recorded_as_empty(body: bytes) -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.say("ok")
            assert b"ok" in await asked(model, body)
            request = model.requests[0]
            assert request.body == {}
            assert (request.model, request.last_user_text, request.tools, request.input_texts) == (
                None,
                None,
                [],
                [],
            )
            assert (request.thread_id, request.turn_id, request.output_schema) == (None, None, None)


async def test_secret_headers_are_not_stored() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.say("ok")
            await asked(model, **{"Authorization": "Bearer sk-secret", "Thread-Id": "t"})
            (request,) = model.requests
            assert request.headers["authorization"] == "[redacted]"
            assert request.thread_id == "t"
            assert "sk-secret" not in f"{request!r}{request.headers}"


async def test_large_headers_and_bodies_are_read() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.say("ok")
            body = user_says("x" * 3_000_000)
            assert b"ok" in await asked(model, body, **{"x-metadata": "y" * 100_000})
            assert model.requests[0].last_user_text == "x" * 3_000_000


async def test_waiting_for_requests_ends_with_the_last_of_them() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model, trio.open_nursery() as nursery:
            model.say("ok")
            model.say("ok")
            nursery.start_soon(asked, model)
            assert len(await model.wait_for_requests(1)) == 1
            nursery.start_soon(asked, model)
            assert len(await model.wait_for_requests(2)) == 2


async def test_waiting_for_requests_fails_when_the_models_scope_exits() -> None:
    async def wait(model: MockModel) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await model.wait_for_requests(1)

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery, MockModel() as model:
            nursery.start_soon(wait, model)  # noqa: ASYNC111  # the case under test
            await trio.testing.wait_all_tasks_blocked()
        await wait(model)


async def test_a_gate_can_be_awaited_and_stays_open() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model, trio.open_nursery() as nursery:
            gate = model.gate()
            model.say("ok", gate, "ok")
            nursery.start_soon(asked, model)
            await gate.reached()
            (request,) = model.requests
            assert not request.closed.is_set()
            gate.open()
            await request.closed.wait()
            assert request.completed


async def test_a_gate_holds_back_the_response_that_has_a_matcher() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model, trio.open_nursery() as nursery:
            gate = model.gate()
            model.respond(Text("held"), when="held")
            model.say("free")
            nursery.start_soon(asked, model, user_says("to be held"))
            await gate.reached()
            assert b"free" in await asked(model)
            gate.open()
        model.assert_all_used()


@pytest.mark.parametrize(
    "error", [ValueError("mine"), KeyboardInterrupt(), ExceptionGroup("mine", [OSError()])]
)
async def test_an_exception_from_the_body_propagates_unchanged(error: BaseException) -> None:
    with trio.fail_after(LIMIT):
        with pytest.raises(type(error)) as caught:
            async with MockModel():
                raise error
        assert caught.value is error
        assert caught.value.__context__ is None


async def test_cancellation_of_the_body_propagates_as_itself() -> None:
    with trio.fail_after(LIMIT):
        with trio.CancelScope() as scope:
            async with MockModel() as model, connected(model) as stream:
                model.hang()
                await stream.send_all(encoded(b"{}"))
                await until(stream, b"response.created")
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_the_bodys_error_wins_over_a_cancellation() -> None:
    async def fail_while_cancelled() -> None:
        async with MockModel():
            scope.cancel()
            raise ValueError("mine")

    with trio.fail_after(LIMIT), pytest.raises(ValueError, match="mine"), trio.CancelScope() as scope:
        await fail_while_cancelled()


async def ask_for_ever(script: Callable[[MockModel], object]) -> None:
    """Send a request to a model with this script, and wait to be cancelled."""
    async with MockModel() as model:
        script(model)
        await asked(model)
        await trio.sleep_forever()


async def test_an_exception_from_a_predicate_cancels_the_body_and_propagates() -> None:
    error = ZeroDivisionError()

    def predicate(request: ModelRequest) -> bool:
        raise error

    with trio.fail_after(LIMIT) as scope:
        with pytest.raises(ZeroDivisionError) as caught:
            await ask_for_ever(lambda model: model.script(predicate))
        assert caught.value is error
        assert not scope.cancel_called


async def test_a_predicates_error_wins_over_a_cancellation() -> None:
    def predicate(request: ModelRequest) -> bool:
        scope.cancel()
        raise ZeroDivisionError

    async def ask_in_a_nursery() -> None:
        async with MockModel() as model, trio.open_nursery() as nursery:
            model.script(predicate)
            nursery.start_soon(asked, model)

    with trio.fail_after(LIMIT), pytest.raises(ZeroDivisionError), trio.CancelScope() as scope:
        await ask_in_a_nursery()


async def test_an_exception_from_a_custom_step_propagates() -> None:
    class Broken(Step):
        def frames(self, slot: Slot) -> Iterator[bytes | Pause]:
            raise ZeroDivisionError

    with trio.fail_after(LIMIT):
        with pytest.raises(ZeroDivisionError):
            await ask_for_ever(lambda model: model.respond(Broken()))


async def test_the_bodys_own_error_wins_over_a_predicates() -> None:
    async def fail_in_cleanup() -> None:
        async with MockModel() as model:
            model.script(lambda request: 1 // 0 == 0)
            try:
                await asked(model)
                await trio.sleep_forever()
            finally:
                raise ValueError("mine")

    with trio.fail_after(LIMIT):
        with pytest.raises(ValueError, match="mine"):
            await fail_in_cleanup()


async def test_a_broken_http_server_ends_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: Any, **options: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("inside", [OSError("gone")])

    monkeypatch.setattr("hypercorn.trio.serve", broken)
    with trio.fail_after(LIMIT) as scope:
        with pytest.raises(RuntimeError, match="HTTP server") as caught:
            async with MockModel():
                await trio.sleep_forever()
        assert not scope.cancel_called
        assert isinstance(caught.value.__cause__, ExceptionGroup)


async def test_keyboard_interrupt_in_the_http_server_propagates_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def interrupted(*args: Any, **options: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    monkeypatch.setattr("hypercorn.trio.serve", interrupted)
    with trio.fail_after(LIMIT) as scope:
        with pytest.raises(KeyboardInterrupt):
            async with MockModel():
                await trio.sleep_forever()
        assert not scope.cancel_called


async def test_a_model_without_a_port_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_port(*args: Any, **options: Any) -> socket.socket:
        raise OSError("no ports left")

    monkeypatch.setattr(socket, "create_server", no_port)
    with pytest.raises(OSError, match="no ports left"):
        async with MockModel():
            pytest.fail("it was entered")


async def test_the_error_for_missing_hypercorn_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypercorn.config", None)
    with pytest.raises(ImportError, match="the testing extra"):
        async with MockModel():
            pytest.fail("it was entered")


async def test_a_model_can_be_entered_once_and_then_has_an_address() -> None:
    model = MockModel()
    with pytest.raises(RuntimeError, match="before it is entered"):
        _ = model.base_url
    with trio.fail_after(LIMIT):
        async with model:
            assert model.base_url.startswith("http://127.0.0.1:")
    with pytest.raises(RuntimeError, match="only once"):
        async with model:
            pytest.fail("it was entered")


async def test_children_do_not_inherit_the_port() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.say("ok")
            await asked(model)
            inheritable = [int(fd) for fd in os.listdir("/proc/self/fd") if _is_inheritable_socket(int(fd))]
            assert inheritable == []


def _is_inheritable_socket(fd: int) -> bool:
    try:
        return os.get_inheritable(fd) and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


async def test_the_model_writes_nothing_to_stdout_stderr_or_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(LIMIT), caplog.at_level(logging.DEBUG):
        async with MockModel() as model:
            model.say("ok")
            model.cut(clean=False)
            for _ in range(3):
                await asked(model)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


async def test_an_event_without_fields_is_sent_between_delays() -> None:
    with trio.fail_after(LIMIT):
        async with MockModel() as model:
            model.respond(Delay(0), RawEvent("response.odd"), Delay(0))
            assert b'event: response.odd\ndata: {"type":"response.odd"}\n\n' in await asked(model)


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_package_imports_nothing_more() -> None:
    code = """
import sys, trio_codex
before = set(sys.modules)
import trio_codex.testing
print(sorted(sys.modules.keys() - before))
"""
    assert run_python(code) == "['trio_codex.testing']"


def test_serving_imports_no_asyncio_and_starts_no_thread() -> None:
    code = """
import sys, threading, trio
from trio_codex.testing import MockModel
async def main():
    async with MockModel() as model:
        model.say("ok")
        host, port = model.base_url.removeprefix("http://").removesuffix("/v1").split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"POST /v1/responses HTTP/1.1\\r\\nhost: h\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
            async for chunk in stream:
                pass
        print("asyncio" in sys.modules, threading.active_count(), model.requests[0].completed)
trio.run(main)
"""
    assert run_python(code) == "False 1 True"


def test_ctrl_c_propagates_as_keyboard_interrupt() -> None:
    code = """
import os, signal, trio
from trio_codex.testing import MockModel
async def main():
    async with MockModel():
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep_forever()
try:
    trio.run(main)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert run_python(code) == "interrupted"
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


async def test_a_request_is_completed_when_the_last_bytes_of_its_response_are_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play = _model._Player.play

    async def play_and_dawdle(player: _model._Player, frame: bytes) -> None:
        await play(player, frame)
        await trio.sleep(0.2)

    monkeypatch.setattr(_model._Player, "play", play_and_dawdle)
    with trio.fail_after(LIMIT):
        async with MockModel() as model, connected(model) as stream:
            model.say("hi")
            await stream.send_all(encoded(b"{}"))
            await until(stream, b'"response.completed"')
            assert model.requests[0].completed
