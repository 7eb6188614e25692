"""One connection against a scripted peer: requests, the window, whole lines, the one death."""

import contextlib
import json
import math
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_codex import errors
from trio_codex._core.rpc import JunkKind, ServerRequest
from trio_codex._core.secrets import Secrets
from trio_codex._link import connection as _connection
from trio_codex._link.call import Call, CloseReason
from trio_codex._link.calls import BARRIER_METHOD
from trio_codex._link.channel import CHUNK_BYTES, LONG_LINE_CHUNK_BYTES, SHARED_CHUNK_BYTES, LineChannel
from trio_codex._link.connection import DIAGNOSIS_SECONDS, Connection, Limits
from trio_codex._link.pace import LINES_AT_ONCE
from trio_codex._link.services import open_services
from trio_codex._link.subscriptions import Subscription, Wakeups
from trio_codex._link.timeouts import Timeouts
from trio_codex.errors import (
    ConnectionBroken,
    ConnectionClosed,
    FrameTooLong,
    InvalidMessage,
    InvalidParamsError,
    LocalProtocolError,
    RequestTimeout,
    ServerExited,
)


class StubReceiver:
    """Keeps what it gets, in order."""

    def __init__(self):
        self.got = []
        self.deaths = []
        self.portions = []
        self.consumers = 1

    def on_notifications(self, notifications):
        self.got.extend(notifications)

    def on_oversize(self, message):
        self.got.append(message)

    on_server_request = on_junk = on_oversize

    def on_lines_end(self):
        lines = len(self.got) - sum(self.portions)
        self.portions.append(lines)
        return -(-lines // self.consumers)

    def on_close(self, death):
        self.deaths.append(death)


class Peer:
    """The other end."""

    def __init__(self, stream):
        self.stream = stream
        self.rest = b""
        self.lines = []

    async def send(self, *messages):
        await self.stream.send_all(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    async def requests(self, count):
        """The next so many lines, decoded."""
        with fail_soon():
            while len(self.lines) < count:
                chunk = await self.stream.receive_some()
                assert chunk, "the client closed the stream"
                *lines, self.rest = (self.rest + chunk).split(b"\n")
                self.lines += map(json.loads, lines)
        taken, self.lines = self.lines[:count], self.lines[count:]
        return taken

    async def request(self):
        [request] = await self.requests(1)
        return request

    async def assert_silent(self):
        """Nothing more comes."""
        got = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def listen():
                got.append(await self.stream.receive_some())

            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert [*self.lines, *got] == []

    async def answer(self, *requests, result=None):
        await self.send(*({"id": request["id"], "result": result} for request in requests))


def fail_soon():
    """A bound of every wait; far away on a clock that jumps, where the request timeout is 120 s."""
    return trio.fail_after(5 if trio.lowlevel.current_clock().__class__ is not MockClock else 10_000)


class Bench:
    def __init__(self, connection, peer, receiver, services):
        self.connection = connection
        self.peer = peer
        self.receiver = receiver
        self.services = services
        self.outcomes = {}

    async def call(self, name, request_class="window", params=None):
        """Request ``name`` and keep the outcome under it."""
        try:
            self.outcomes[name] = json.loads(
                bytes(await self.connection.calls.request(name, params, request_class))
            )
        except errors.CodexError as exc:
            self.outcomes[name] = exc


async def explain(reason):
    return ConnectionBroken(reason, "running", 77, None, "tail")


class Channel(LineChannel):
    """A channel that diagnoses as the test says."""

    def __init__(self, stream, max_message_bytes, diagnose):
        super().__init__(stream, stream, max_message_bytes)
        self._diagnose = diagnose

    async def diagnose(self, reason, phase):
        return await self._diagnose(reason)


@asynccontextmanager
async def connected(
    *,
    streams=None,
    window=64,
    request_timeout=120,
    max_line_bytes=10_000,
    diagnose=explain,
    receiver=None,
):
    client_end, server_end = streams or memory_stream_pair()
    receiver = receiver or StubReceiver()
    timeouts = Timeouts()

    async def close(services):
        connection.end(ConnectionClosed("closed by the test"))
        services.stop()

    async with open_services(close) as services:
        channel = Channel(client_end, max_line_bytes, diagnose)
        connection = Connection(services, channel, Limits(window, request_timeout), timeouts, Secrets({}))
        services.start_service(timeouts.watch)
        connection.start(receiver)
        with fail_soon():
            yield Bench(connection, Peer(server_end), receiver, services)


# -- requests ------------------------------------------------------------------------------------------------------


async def test_a_request_is_answered_with_the_raw_result():
    async with connected() as bench, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def serve():
            request = await bench.peer.request()
            assert request["method"] == "thread/read"
            assert request["params"] == {"threadId": "a"}
            await bench.peer.answer(request, result={"x": 1})

        result = await bench.connection.calls.request("thread/read", {"threadId": "a"})
        assert isinstance(result, msgspec.Raw)
        assert json.loads(bytes(result)) == {"x": 1}
        assert bench.connection.calls.in_flight == 0


async def test_answers_may_come_in_any_order_and_any_cuts():
    async with connected() as bench, trio.open_nursery() as nursery:
        for name in "abcde":
            nursery.start_soon(bench.call, name)
        requests = await bench.peer.requests(5)
        assert len({request["id"] for request in requests}) == 5
        answers = b"".join(
            b'{"id":%d,"result":"%s"}\n' % (request["id"], request["method"].encode())
            for request in reversed(requests)
        )
        for start in range(0, len(answers), 7):
            await bench.peer.stream.send_all(answers[start : start + 7])
        await wait_all_tasks_blocked()
        assert bench.outcomes == {name: name for name in "abcde"}


async def test_a_refusal_fails_its_request_and_only_that():
    async with connected() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        nursery.start_soon(bench.call, "b")
        first, second = await bench.peer.requests(2)
        await bench.peer.send({"id": first["id"], "error": {"code": -32602, "message": "no"}})
        await bench.peer.answer(second)
        await wait_all_tasks_blocked()
        error = bench.outcomes[first["method"]]
        assert type(error) is InvalidParamsError
        assert (error.code, error.data, error.method) == (-32602, None, first["method"])
        assert bench.outcomes[second["method"]] is None


async def test_an_answer_with_a_result_and_an_error_fails_its_request():
    async with connected() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        request = await bench.peer.request()
        await bench.peer.send({"id": request["id"], "result": 1, "error": {"code": 1, "message": "x"}})
        await wait_all_tasks_blocked()
        assert type(bench.outcomes["a"]) is InvalidMessage


async def test_an_answer_beyond_the_bound_fails_its_request_and_the_connection_lives():
    async with connected(max_line_bytes=5000) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "fs/readFile")
        await bench.peer.answer(await bench.peer.request(), result="x" * 6000)
        await wait_all_tasks_blocked()
        error = bench.outcomes["fs/readFile"]
        assert type(error) is FrameTooLong
        assert (error.method, error.limit) == ("fs/readFile", 5000)
        assert error.size > 6000
        nursery.start_soon(bench.call, "next")
        await bench.peer.answer(await bench.peer.request())
        await wait_all_tasks_blocked()
        assert bench.outcomes["next"] is None
        assert bench.connection.close_reason is None


async def test_what_is_not_json_is_refused_and_takes_no_place_in_the_window():
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        for _ in range(3):
            with pytest.raises(LocalProtocolError):
                await bench.connection.calls.request("m", {"a": object()})
        nursery.start_soon(bench.call, "next")
        await bench.peer.answer(await bench.peer.request())
        await wait_all_tasks_blocked()
        assert bench.outcomes["next"] is None


async def test_whatever_cannot_be_sent_takes_no_place_in_the_window():
    deep = None
    for _ in range(900):
        deep = [deep]
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        with contextlib.suppress(LocalProtocolError, RecursionError):
            await bench.connection.calls.begin("m", deep, "window")
            return  # it can be sent
        nursery.start_soon(bench.call, "next")
        await wait_all_tasks_blocked()
        assert bench.connection.calls.in_flight == 1
        nursery.cancel_scope.cancel()


async def test_a_notification_of_ours_is_a_line_without_id():
    async with connected() as bench:
        bench.connection.notify("initialized")
        assert await bench.peer.request() == {"method": "initialized"}


async def test_every_request_is_a_checkpoint_even_if_the_answer_is_there():
    async with connected() as bench:
        call = await bench.connection.calls.begin("a", None)
        await bench.peer.answer(await bench.peer.request(), result=5)
        await wait_all_tasks_blocked()
        assert call.answered
        with trio.CancelScope() as scope:
            scope.cancel()
            await call.answer()
        assert scope.cancelled_caught
        assert bytes(await call.answer()) == b"5"
        await call.settled()


@pytest.mark.parametrize("request_class", ["window", "deferred", "control"])
async def test_a_cancelled_caller_sends_nothing(request_class):
    async with connected() as bench:
        with trio.CancelScope() as scope:
            scope.cancel()
            await bench.connection.calls.request("a", None, request_class)
        assert scope.cancelled_caught
        assert bench.connection.calls.in_flight == 0
        await bench.peer.assert_silent()


@pytest.mark.parametrize("request_class", ["window", "deferred", "control"])
async def test_to_begin_a_call_is_a_cancellation_point_before_anything_is_queued(request_class):
    async with connected() as bench:
        with trio.CancelScope() as scope:
            scope.cancel()
            await bench.connection.calls.begin("a", None, request_class)
        assert scope.cancelled_caught
        assert bench.connection.calls.in_flight == 0
        await bench.peer.assert_silent()


# -- the window ----------------------------------------------------------------------------------------------------


async def test_the_65th_request_is_not_sent_until_one_is_answered():
    async with connected() as bench, trio.open_nursery() as nursery:
        for number in range(70):
            nursery.start_soon(bench.call, str(number))
        waiting = []

        @nursery.start_soon
        async def take():
            while True:
                waiting.append(await bench.peer.request())

        await wait_all_tasks_blocked()
        # The barrier is a line, too: whether it takes one of the 64 places depends on when the writer runs.
        assert [request["method"] for request in waiting].count(BARRIER_METHOD) == 1
        assert 64 <= len(waiting) <= 65
        while waiting:
            await bench.peer.answer(waiting.pop(0))
            await wait_all_tasks_blocked()
            assert len(waiting) <= 65
        assert len(bench.outcomes) == 70
        nursery.cancel_scope.cancel()


async def test_the_window_bounds_requests_in_progress_however_fast_their_lines_are_taken():
    async with connected(window=8) as bench, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(bench.call, str(number))
        waiting = await bench.peer.requests(8)
        await bench.peer.assert_silent()
        for _ in range(12):
            await bench.peer.answer(waiting.pop())
            waiting.append(await bench.peer.request())
            await bench.peer.assert_silent()
        await bench.peer.answer(*waiting)
        await wait_all_tasks_blocked()
        assert len(bench.outcomes) == 20


@pytest.mark.parametrize("request_class", ["control", "deferred"])
async def test_control_and_deferred_requests_pass_a_full_window_and_take_no_place_in_it(request_class):
    async with connected(window=2) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        nursery.start_soon(bench.call, "b")
        full = await bench.peer.requests(2)
        for number in range(10):
            nursery.start_soon(bench.call, str(number), request_class)
        passed = await bench.peer.requests(10)
        await bench.peer.answer(*passed)
        await wait_all_tasks_blocked()
        assert len(bench.outcomes) == 10
        nursery.start_soon(bench.call, "c")
        await bench.peer.assert_silent()
        await bench.peer.answer(full[0])
        assert (await bench.peer.request())["method"] == "c"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [{"result": 1}, {"error": {"code": 1, "message": "x"}}, {}])
async def test_every_kind_of_answer_frees_the_window(answer):
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(bench.call, name)
        for _ in "abc":
            await bench.peer.send({"id": (await bench.peer.request())["id"], **answer})
        await wait_all_tasks_blocked()
        assert len(bench.outcomes) == 3


async def test_a_caller_that_is_cancelled_while_it_waits_for_the_window_sends_nothing_and_takes_no_place():
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        request = await bench.peer.request()
        with trio.move_on_after(0.01) as scope:
            await bench.connection.calls.request("b", None)
        assert scope.cancelled_caught
        await bench.peer.answer(request)
        await bench.peer.assert_silent()
        nursery.start_soon(bench.call, "c")
        await bench.peer.answer(await bench.peer.request())
        await wait_all_tasks_blocked()
        assert bench.outcomes["c"] is None


async def test_no_request_is_lost_by_a_peer_that_drops_beyond_128_in_flight():
    answered = 0
    async with connected() as bench, trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(bench.call, str(number))
        while answered < 1000:
            await wait_all_tasks_blocked()
            in_flight = await bench.peer.requests(1)
            in_flight += await bench.peer.requests(len(bench.peer.lines))
            assert len(in_flight) <= 65
            await bench.peer.answer(*in_flight[:128])
            answered += sum(request["method"] != BARRIER_METHOD for request in in_flight[:128])
        await wait_all_tasks_blocked()
        assert len(bench.outcomes) == 1000
        assert set(bench.outcomes.values()) == {None}
        assert bench.connection.calls.in_flight == 0
        assert bench.connection.junk_lines == 0


# -- timeouts ------------------------------------------------------------------------------------------------------


async def test_a_request_that_is_not_answered_times_out_and_frees_the_window(autojump_clock):
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        request = await bench.peer.request()
        await trio.sleep(60)
        nursery.start_soon(bench.call, "b")
        second = await bench.peer.request()
        assert trio.current_time() == pytest.approx(120)
        error = bench.outcomes["a"]
        assert type(error) is RequestTimeout
        assert (error.method, error.seconds) == ("a", 120)
        await bench.peer.answer(request, second)
        await wait_all_tasks_blocked()
        assert bench.outcomes["b"] is None
        [late] = bench.receiver.got
        assert late.kind is JunkKind.LATE_REPLY
        assert bench.connection.junk_lines == 1


async def test_the_wait_for_the_window_counts_as_time_for_the_answer(autojump_clock):
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        first = await bench.peer.request()
        nursery.start_soon(bench.call, "b")
        await trio.sleep(119)
        await bench.peer.answer(first)
        await bench.peer.request()
        await trio.sleep(2)
        assert bench.outcomes["a"] is None
        assert type(bench.outcomes["b"]) is RequestTimeout
        assert bench.outcomes["b"].problem is None


@pytest.mark.parametrize(("request_class", "times_out"), [("deferred", False), ("control", True)])
async def test_only_what_the_server_answers_at_once_times_out(autojump_clock, request_class, times_out):
    async with connected() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a", request_class)
        request = await bench.peer.request()
        await trio.sleep(1000)
        await bench.peer.answer(request)
        await wait_all_tasks_blocked()
        assert (type(bench.outcomes["a"]) is RequestTimeout) == times_out
        assert (bench.outcomes["a"] is None) != times_out


async def test_a_timeout_may_be_infinite(autojump_clock):
    async with connected(request_timeout=math.inf) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        request = await bench.peer.request()
        await trio.sleep(5000)
        await bench.peer.answer(request)
        await wait_all_tasks_blocked()
        assert bench.outcomes == {"a": None}


# -- whole lines ---------------------------------------------------------------------------------------------------


class SlowStream(trio.abc.Stream):
    """Writes a few bytes at a time, and only when it is let."""

    def __init__(self, stream):
        self.stream = stream
        self.gate = trio.Event()
        self.writing = False
        self.calls = 0

    async def send_all(self, data):
        assert not self.writing, "two writers"
        self.writing = True
        self.calls += 1
        try:
            await self.stream.send_all(data[:3])
            await self.gate.wait()
            await self.stream.send_all(data[3:])
        finally:
            self.writing = False

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self.stream.receive_some(max_bytes)

    async def aclose(self):
        await self.stream.aclose()


def slow_pair():
    client_end, server_end = memory_stream_pair()
    return SlowStream(client_end), server_end


async def test_a_caller_that_is_cancelled_while_its_line_is_being_written_leaves_it_whole():
    streams = slow_pair()
    async with connected(streams=streams) as bench:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.call, "first", "window", {"text": "x" * 1000})
                await wait_all_tasks_blocked()  # three bytes of it are on the wire
                nursery.start_soon(bench.call, "second")
                nursery.start_soon(bench.call, "third", "control")
                await wait_all_tasks_blocked()
                scope.cancel()
        assert bench.connection.calls.in_flight == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.call, "fourth")
            await wait_all_tasks_blocked()
            streams[0].gate.set()
            first, fourth = await bench.peer.requests(2)
            assert first["method"] == "first"
            assert first["params"] == {"text": "x" * 1000}
            assert fourth["method"] == "fourth"
            await bench.peer.answer(first, fourth)
        assert bench.outcomes == {"fourth": None}
        [late] = bench.receiver.got
        assert late.kind is JunkKind.LATE_REPLY


async def test_a_call_can_be_taken_back_until_the_writer_has_it():
    streams = slow_pair()
    async with connected(streams=streams, window=3) as bench:
        first = await bench.connection.calls.begin("first", None)
        assert not first.sent
        await wait_all_tasks_blocked()
        second = await bench.connection.calls.begin("second", None)
        third = await bench.connection.calls.begin("third", None)
        assert first.sent
        assert not second.sent
        assert not first.take_back()
        assert second.take_back()
        assert not second.take_back()
        assert second.answered
        with pytest.raises(ConnectionClosed):
            await second.answer()
        assert bench.connection.calls.in_flight == 2
        fourth = await bench.connection.calls.begin("fourth", None)  # in the place of the second
        streams[0].gate.set()
        requests = await bench.peer.requests(3)
        assert [request["method"] for request in requests] == ["first", "third", "fourth"]
        await bench.peer.answer(*requests)
        for call in (first, third, fourth):
            assert bytes(await call.answer()) == b"null"
            assert not call.take_back()
            call.give_up()
        assert bench.connection.junk_lines == 0


async def test_a_call_that_is_given_up_fails_frees_its_place_and_its_answer_is_late():
    async with connected(window=1) as bench:
        call = await bench.connection.calls.begin("a", None)
        request = await bench.peer.request()
        call.give_up()
        call.give_up()
        assert call.answered
        with pytest.raises(ConnectionClosed):
            await call.answer()
        await bench.peer.answer(request)
        await bench.connection.calls.begin("b", None)
        await bench.peer.request()
        [late] = bench.receiver.got
        assert late.kind is JunkKind.LATE_REPLY


async def test_an_outcome_is_settled_once():
    async with connected(window=1) as bench:
        call = await bench.connection.calls.begin("a", None)
        await bench.peer.answer(await bench.peer.request(), result=1)
        await call.settled()
        call.settle(None, ConnectionClosed())
        assert bytes(await call.answer()) == b"1"
        await bench.connection.calls.begin("b", None)
        with trio.move_on_after(0) as scope:  # a second settling would have made room for this one
            await bench.connection.calls.begin("c", None)
        assert scope.cancelled_caught


async def test_a_call_that_was_never_queued_cannot_be_taken_back():
    async with connected() as bench:
        call = Call(bench.connection.calls, "m", "deferred")
        assert not call.sent
        assert not call.take_back()


async def test_urgent_lines_go_first_and_the_rest_in_order():
    streams = slow_pair()
    async with connected(streams=streams) as bench:
        for number in range(3):
            await bench.connection.calls.begin(f"ordinary {number}", None)
            if number == 0:
                await wait_all_tasks_blocked()
        await bench.connection.calls.begin("interrupt", None, "control")
        await bench.connection.calls.begin("deferred", None, "deferred")
        streams[0].gate.set()
        names = [request["method"] for request in await bench.peer.requests(5)]
        assert names == ["ordinary 0", "interrupt", "ordinary 1", "ordinary 2", "deferred"]
        assert streams[0].calls == 2


async def test_replies_go_before_requests():
    streams = slow_pair()
    async with connected(streams=streams) as bench:
        await bench.peer.send({"id": "s", "method": "ask"})
        await bench.connection.calls.begin("0", None)
        await wait_all_tasks_blocked()
        await bench.connection.calls.begin("1", None)
        assert bench.connection.respond("s", {})
        streams[0].gate.set()
        assert [line["id"] for line in await bench.peer.requests(3)] == [1, "s", 2]


# -- what the server sends -----------------------------------------------------------------------------------------


async def test_messages_reach_the_receiver_in_order_with_one_end_per_portion():
    async with connected(max_line_bytes=1000) as bench:
        big = json.dumps({"method": "big", "params": "x" * 2000}).encode()
        await bench.peer.stream.send_all(
            b'{"method":"a"}\njunk\n{"id":0,"method":"ask"}\n' + big + b'\n{"id":99,"result":1}\n'
        )
        await wait_all_tasks_blocked()
        names = [getattr(message, "method", None) or message.kind for message in bench.receiver.got]
        assert names == ["a", JunkKind.NOT_JSON, "ask", "big", JunkKind.STRAY_REPLY]
        assert bench.receiver.got[3].size == len(big)
        assert bench.receiver.portions == [5]
        assert bench.connection.junk_lines == 3
        assert bench.connection.close_reason is None


LINE = b'{"method":"m","params":"%s"}\n' % (b"x" * 273)


class Measuring(SlowStream):
    """Notes how much is asked for."""

    def __init__(self, stream):
        super().__init__(stream)
        self.sizes = []

    async def receive_some(self, max_bytes=None):
        self.sizes.append(max_bytes)
        return await super().receive_some(max_bytes)


async def test_what_a_notification_does_is_done_before_the_next_line_is_understood():
    class Withdrawing(StubReceiver):
        def on_notifications(self, notifications):
            super().on_notifications(notifications)
            assert bench.connection.withdraw(0)

    async with connected(receiver=Withdrawing()) as bench:
        await bench.peer.send({"id": 0, "method": "ask"}, {"method": "resolved"}, {"id": 0, "method": "ask"})
        await wait_all_tasks_blocked()
        first, _, second = bench.receiver.got
        assert isinstance(first, ServerRequest)
        assert isinstance(second, ServerRequest)


async def test_more_is_read_at_once_in_the_middle_of_a_long_line_and_for_many_consumers():
    client_end, server_end = memory_stream_pair()
    streams = Measuring(client_end), server_end
    sizes = streams[0].sizes
    async with connected(streams=streams, max_line_bytes=10**7) as bench:
        await bench.peer.stream.send_all(LINE * 1000)
        await wait_all_tasks_blocked()
        assert set(sizes) == {CHUNK_BYTES}
        sizes.clear()
        await bench.peer.send({"method": "big", "params": "x" * 10**6})
        await wait_all_tasks_blocked()
        assert max(sizes) == LONG_LINE_CHUNK_BYTES
        assert len(sizes) < 10
        assert sizes[-1] == CHUNK_BYTES, "a long line tells nothing about the next ones"
        assert bench.receiver.got[-1].method == "big"
        bench.receiver.consumers = 1000
        await bench.peer.stream.send_all(LINE * 1000)
        await wait_all_tasks_blocked()
        assert sizes[-1] == SHARED_CHUNK_BYTES


async def test_consumers_run_after_as_many_lines_as_one_of_them_takes_at_once():
    async with connected() as bench:
        await bench.peer.stream.send_all(LINE * 200)
        await wait_all_tasks_blocked()
        assert bench.receiver.portions == [LINES_AT_ONCE] * 3 + [200 - 3 * LINES_AT_ONCE]
        assert len(bench.receiver.got) == 200


async def test_the_more_consumers_share_the_lines_the_more_are_handed_on_at_once():
    async with connected() as bench:
        bench.receiver.consumers = 1000
        for _ in range(10):
            await bench.peer.stream.send_all(LINE * 10_000)
        await wait_all_tasks_blocked()
        assert max(bench.receiver.portions) >= SHARED_CHUNK_BYTES // len(LINE), "all that a chunk has"


async def test_what_is_left_of_a_chunk_is_dropped_when_the_connection_has_ended():
    async with connected() as bench:
        ended = []

        def end_it():
            ended.append(len(bench.receiver.got))
            bench.connection.end(ConnectionClosed("closed"))
            return 1

        bench.receiver.on_lines_end = end_it
        await bench.peer.stream.send_all(LINE * 200)
        await wait_all_tasks_blocked()
        assert ended == [LINES_AT_ONCE]
        assert len(bench.receiver.got) == LINES_AT_ONCE


@pytest.mark.parametrize("request_id", [0, 1, "0", ""])
async def test_a_server_request_is_answered_once_whatever_its_id(request_id):
    async with connected() as bench:
        await bench.peer.send({"id": request_id, "method": "ask", "params": {}})
        await wait_all_tasks_blocked()
        [request] = bench.receiver.got
        assert request.id == request_id
        assert bench.connection.respond(request_id, {"ok": 1})
        assert not bench.connection.respond(request_id, {"ok": 2})
        assert not bench.connection.refuse(request_id, 1, "no")
        assert not bench.connection.withdraw(request_id)
        assert await bench.peer.request() == {"id": request_id, "result": {"ok": 1}}
        await bench.peer.assert_silent()


async def test_a_server_request_can_be_refused_or_withdrawn():
    async with connected() as bench:
        await bench.peer.send({"id": 0, "method": "ask"}, {"id": 1, "method": "ask"})
        await wait_all_tasks_blocked()
        assert bench.connection.refuse(0, -32601, "no")
        assert bench.connection.withdraw(1)
        assert not bench.connection.respond(1, {})
        assert await bench.peer.request() == {"id": 0, "error": {"code": -32601, "message": "no"}}
        await bench.peer.assert_silent()


async def test_an_answer_that_is_not_json_leaves_the_server_request_open():
    async with connected() as bench:
        await bench.peer.send({"id": 0, "method": "ask"})
        await wait_all_tasks_blocked()
        with pytest.raises(LocalProtocolError):
            bench.connection.respond(0, object())
        assert bench.connection.respond(0, None)


async def test_ids_of_the_server_and_ours_do_not_meet():
    async with connected() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        request = await bench.peer.request()
        await bench.peer.send({"id": request["id"], "method": "ask"})
        await bench.peer.answer(request, result="mine")
        await wait_all_tasks_blocked()
        assert bench.outcomes == {"a": "mine"}
        assert bench.connection.respond(request["id"], "yours")
        assert await bench.peer.request() == {"id": request["id"], "result": "yours"}


async def test_the_reader_goes_on_though_a_consumer_never_reads():
    class NoMerging:
        def delta(self, event):
            return None

    class Sized(bytes):
        size = property(len)

    class Receiver(StubReceiver):
        def on_notifications(self, notifications):
            for notification in notifications:
                subscription.put(Sized(bytes(notification.params)))

    subscription = Subscription(10, 1000, NoMerging(), Wakeups())
    async with connected(receiver=Receiver()) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        request = await bench.peer.request()
        for _ in range(100):
            await bench.peer.stream.send_all(b'{"method":"m","params":"%s"}\n' % (b"x" * 100) * 100)
        await bench.peer.answer(request)
        await wait_all_tasks_blocked()
        assert bench.outcomes == {"a": None}


# -- the end -------------------------------------------------------------------------------------------------------


async def fail_everything(bench, nursery, deferred=2, waiting=3):
    """Start calls in every state of waiting: in flight, for the window, without a deadline."""
    for number in range(bench.window + waiting):
        nursery.start_soon(bench.call, f"w{number}")
    for number in range(deferred):
        nursery.start_soon(bench.call, f"d{number}", "deferred")
    await bench.peer.requests(bench.window + deferred)
    await wait_all_tasks_blocked()


async def test_at_the_end_of_the_stream_every_wait_fails_within_a_second_with_an_exception_of_its_own(
    autojump_clock,
):
    cause = OSError(32, "pipe")

    async def diagnose(reason):
        await trio.sleep(DIAGNOSIS_SECONDS)
        error = ServerExited(reason, "running", 77, -9, "last words")
        error.__cause__ = cause
        return error

    async with connected(diagnose=diagnose, window=5) as bench, trio.open_nursery() as nursery:
        bench.window = 5
        await fail_everything(bench, nursery)
        await bench.peer.stream.aclose()
        death = await bench.connection.wait_ended()
        await wait_all_tasks_blocked()
        assert trio.current_time() <= 1
        outcomes = list(bench.outcomes.values())
        assert len(outcomes) == 10
        assert len(set(map(id, outcomes))) == 10
        for outcome in [*outcomes, death.exception()]:
            assert type(outcome) is ServerExited
            assert (outcome.phase, outcome.pid, outcome.returncode) == ("running", 77, -9)
            assert outcome.stderr_tail == "last words"
            assert outcome.__cause__ is cause
        assert bench.receiver.deaths == [death]
        assert death.exception() is not death.exception()
        before = trio.current_time()
        for request_class in ("window", "deferred", "control"):
            with pytest.raises(ServerExited) as caught:
                await bench.connection.calls.request("late", None, request_class)
            assert caught.value not in outcomes
        with pytest.raises(ServerExited):
            bench.connection.check_open()
        assert trio.current_time() == before
        assert await bench.connection.wait_ended() is death
        assert bench.connection.calls.in_flight == 0


async def test_a_diagnosis_that_never_comes_does_not_hold_up_the_end(autojump_clock):
    async def diagnose(reason):
        await trio.sleep_forever()

    async with connected(diagnose=diagnose, window=2) as bench, trio.open_nursery() as nursery:
        bench.window = 2
        await fail_everything(bench, nursery)
        await bench.peer.stream.aclose()
        death = await bench.connection.wait_ended()
        await wait_all_tasks_blocked()
        assert trio.current_time() <= 1
        assert type(death.exception()) is ConnectionBroken
        assert "closed" in death.exception().reason
        assert {type(outcome) for outcome in bench.outcomes.values()} == {ConnectionBroken}


async def test_while_the_end_is_diagnosed_it_is_lost_only_once(autojump_clock):
    reasons = []

    async def diagnose(reason):
        reasons.append(reason)
        await trio.sleep(0.3)
        return ConnectionBroken(reason)

    async with connected(diagnose=diagnose) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.connection.lose, "first")
        await wait_all_tasks_blocked()
        nursery.start_soon(bench.connection.lose, "second")
        await bench.peer.stream.aclose()
        death = await bench.connection.wait_ended()
        await bench.connection.lose("third")
        assert reasons == ["first"]
        assert death.exception().reason == "first"
        assert len(bench.receiver.deaths) == 1


async def test_what_still_comes_while_the_end_is_diagnosed_counts(autojump_clock):
    async def diagnose(reason):
        await trio.sleep(0.3)
        return ConnectionBroken(reason)

    async with connected(diagnose=diagnose) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        request = await bench.peer.request()
        nursery.start_soon(bench.connection.lose, "the process ended")
        await wait_all_tasks_blocked()
        await bench.peer.answer(request, result="in time")
        await bench.connection.wait_ended()
        await wait_all_tasks_blocked()
        assert bench.outcomes == {"a": "in time"}


async def test_closing_during_the_diagnosis_wins(autojump_clock):
    async def diagnose(reason):
        await trio.sleep_forever()

    async with connected(diagnose=diagnose) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.connection.lose, "x")
        await wait_all_tasks_blocked()
        bench.connection.end(ConnectionClosed("closed"))
        death = await bench.connection.wait_ended()
        await trio.sleep(5)
        assert type(death.exception()) is ConnectionClosed
        assert len(bench.receiver.deaths) == 1


async def test_ending_by_us_fails_every_wait_at_once_and_only_the_first_cause_counts():
    async with connected(window=2) as bench, trio.open_nursery() as nursery:
        bench.window = 2
        await fail_everything(bench, nursery)
        bench.connection.end(ConnectionClosed("bye"))
        bench.connection.end(ConnectionBroken("too late"))
        await wait_all_tasks_blocked()
        outcomes = list(bench.outcomes.values())
        assert {type(outcome) for outcome in outcomes} == {ConnectionClosed}
        assert {outcome.args for outcome in outcomes} == {("bye",)}
        assert len(set(map(id, outcomes))) == 7
        assert len(bench.receiver.deaths) == 1
        with pytest.raises(ConnectionClosed):
            await bench.connection.calls.begin("late", None)


async def test_after_the_end_nothing_is_written_answered_or_delivered_but_the_stream_is_drained():
    async with connected() as bench:
        await bench.peer.send({"id": 0, "method": "ask"})
        await wait_all_tasks_blocked()
        bench.connection.end(ConnectionClosed())
        before = len(bench.receiver.got)
        assert not bench.connection.respond(0, {})
        bench.connection.notify("late")
        await bench.peer.assert_silent()
        await bench.peer.stream.send_all(b'{"method":"m"}\n' * 10_000 + b"rest")
        await bench.peer.stream.aclose()
        await bench.connection.wait_drained()
        assert len(bench.receiver.got) == before


async def test_what_is_left_over_at_the_end_is_reported():
    async with connected() as bench:
        await bench.peer.stream.send_all(b'{"method":"a"}\n{"method":')
        await bench.peer.stream.aclose()
        await bench.connection.wait_ended()
        assert bench.receiver.got[-1].kind is JunkKind.TRUNCATED
        assert bench.receiver.portions == [1, 1]


async def test_the_end_of_the_stream_without_anything_left_over_reports_nothing():
    async with connected() as bench:
        await bench.peer.stream.aclose()
        await bench.connection.wait_ended()
        assert bench.receiver.got == []


class BrokenStream(trio.abc.Stream):
    """Its writing side breaks at once; its reading side ends, breaks, or goes on."""

    def __init__(self, *, read_error=None, reading=None):
        self.read_error = read_error
        self.reading = reading or trio.Event()

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes=None):
        await self.reading.wait()
        if self.read_error is not None:
            raise self.read_error
        return b""

    async def aclose(self):
        await trio.lowlevel.checkpoint()


async def test_a_server_that_stopped_reading_fails_every_wait_within_a_second(autojump_clock):
    async with connected(streams=(BrokenStream(), None)) as bench, trio.open_nursery() as nursery:
        for request_class in ("window", "deferred", "control"):
            nursery.start_soon(bench.call, request_class, request_class)
        death = await bench.connection.wait_ended()
        await wait_all_tasks_blocked()
        assert trio.current_time() <= 1
        assert "reading" in death.exception().reason
        assert {type(outcome) for outcome in bench.outcomes.values()} == {ConnectionBroken}
        assert len(bench.outcomes) == 3


async def ask_and_answer(bench, count, size):
    """Have the server ask, and answer each of its requests with this many bytes."""
    for number in range(count):
        await bench.peer.send({"id": number, "method": "item/tool/call", "params": {}})
    await wait_all_tasks_blocked()
    for number in range(count):
        bench.connection.respond(number, "x" * size)


async def test_a_server_that_asks_and_does_not_read_ends_the_connection(monkeypatch):
    monkeypatch.setattr(_connection, "QUEUED_REPLY_BYTES", 10_000)
    async with connected(streams=slow_pair()) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "mine")
        await ask_and_answer(bench, 100, 1000)
        assert bench.connection._queued_reply_bytes < 12_000
        death = await bench.connection.wait_ended()
        assert type(death.exception()) is ConnectionBroken
        assert "does not read" in death.exception().reason
    assert type(bench.outcomes["mine"]) is ConnectionBroken


async def test_replies_that_the_server_reads_may_come_to_any_size(monkeypatch):
    monkeypatch.setattr(_connection, "QUEUED_REPLY_BYTES", 10_000)
    async with connected() as bench:
        for _ in range(50):
            await ask_and_answer(bench, 5, 1000)
            await wait_all_tasks_blocked()
        assert bench.connection.close_reason is None
        assert bench.connection._queued_reply_bytes == 0


async def test_one_reply_may_be_longer_than_the_bound(monkeypatch):
    monkeypatch.setattr(_connection, "QUEUED_REPLY_BYTES", 10_000)
    async with connected() as bench:
        await ask_and_answer(bench, 1, 100_000)
        await wait_all_tasks_blocked()
        assert bench.connection.close_reason is None


async def test_a_slow_diagnosis_after_a_broken_write_stays_within_a_second(autojump_clock):
    async def diagnose(reason):
        await trio.sleep(DIAGNOSIS_SECONDS)
        return ConnectionBroken(reason)

    async with (
        connected(streams=(BrokenStream(), None), diagnose=diagnose) as bench,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(bench.call, "a")
        await bench.connection.wait_ended()
        await wait_all_tasks_blocked()
        assert trio.current_time() <= 1
        assert type(bench.outcomes["a"]) is ConnectionBroken


async def test_when_both_directions_break_the_end_of_the_reading_one_tells_why(autojump_clock):
    stream = BrokenStream()
    async with connected(streams=(stream, None)) as bench:
        call = await bench.connection.calls.begin("a", None)
        await wait_all_tasks_blocked()
        stream.reading.set()
        with pytest.raises(ConnectionBroken) as caught:
            await call.answer()
        assert "closed the connection" in caught.value.reason
        assert trio.current_time() == 0


@pytest.mark.parametrize("cause", [OSError(104, "reset"), None])
async def test_a_stream_that_breaks_while_reading_is_the_end(cause):
    error = trio.BrokenResourceError("broke")
    error.__cause__ = cause
    stream = BrokenStream(read_error=error)
    stream.reading.set()
    async with connected(streams=(stream, None)) as bench:
        death = await bench.connection.wait_ended()
        assert str(cause or error) in death.exception().reason


async def test_a_stream_that_we_closed_while_reading_is_the_end():
    stream = BrokenStream(read_error=trio.ClosedResourceError())
    stream.reading.set()
    async with connected(streams=(stream, None)) as bench:
        await bench.connection.wait_drained()
        death = await bench.connection.wait_ended()
        assert type(death.exception()) is ConnectionBroken


async def test_a_diagnosis_that_fails_is_a_bug_of_ours_and_nobody_waits_for_ever():
    async def diagnose(reason):
        raise ValueError("bug")

    with pytest.raises(errors.InternalError) as caught:
        async with connected(diagnose=diagnose) as bench:
            await bench.connection.calls.begin("a", None)
            await bench.peer.stream.aclose()
            await trio.sleep_forever()
    assert type(caught.value.__cause__) is ValueError


# -- closing -------------------------------------------------------------------------------------------------------


async def test_when_new_requests_are_refused_those_that_end_something_still_pass():
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "open")
        request = await bench.peer.request()
        nursery.start_soon(bench.call, "waiting for the window")
        await wait_all_tasks_blocked()
        bench.connection.refuse_new()
        for request_class in ("window", "deferred"):
            with pytest.raises(ConnectionClosed):
                await bench.connection.calls.request("late", None, request_class)
        nursery.start_soon(bench.call, "interrupt", "control")
        await bench.peer.answer(await bench.peer.request(), request)
        await wait_all_tasks_blocked()
        assert bench.outcomes.pop("interrupt") is None
        assert bench.outcomes.pop("open") is None
        assert type(bench.outcomes.pop("waiting for the window")) is ConnectionClosed
        await bench.peer.assert_silent()
        bench.connection.check_open()


async def test_flush_waits_until_everything_queued_is_written():
    streams = slow_pair()
    async with connected(streams=streams) as bench, trio.open_nursery() as nursery:
        bench.connection.notify("a")
        await wait_all_tasks_blocked()
        bench.connection.notify("b")
        flushed = trio.Event()

        @nursery.start_soon
        async def flush():
            await bench.connection.flush()
            flushed.set()

        await wait_all_tasks_blocked()
        assert not flushed.is_set()
        bench.connection.notify("too late")
        streams[0].gate.set()
        assert [line["method"] for line in await bench.peer.requests(2)] == ["a", "b"]
        await flushed.wait()
        await bench.connection.flush()
        await bench.peer.assert_silent()


async def test_flush_does_not_wait_for_a_writer_that_broke(autojump_clock):
    async with connected(streams=(BrokenStream(), None)) as bench:
        bench.connection.notify("a")
        await bench.connection.flush()
        assert trio.current_time() <= 1
        assert bench.connection.close_reason is not None


def test_a_death_gives_a_fresh_exception_each_time():
    error = ServerExited("r", "running", 1, 2, "tail")
    death = CloseReason(error)
    first, second = death.exception(), death.exception()
    assert first is not second
    assert error not in (first, second)
    assert type(first) is ServerExited
    assert vars(first) == vars(second) == vars(error)
    assert first.args == error.args


def test_a_death_tells_why_in_one_sentence_and_in_full():
    death = CloseReason(ServerExited("it exited", "running", 1, 2, "tail"))
    assert death.reason == "it exited"
    assert str(death) == str(death.exception())
    assert CloseReason(ConnectionClosed("bye")).reason == "bye"
