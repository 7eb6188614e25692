"""Requests of one connection against a scripted peer: answers, the window, timeouts."""

import contextlib
import json
import math

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from runtime.connection_peer import connected
from trio_codex._core.rpc import JunkKind
from trio_codex._link.calls import BARRIER_METHOD
from trio_codex.errors import (
    FrameTooLong,
    InvalidMessage,
    InvalidParamsError,
    LocalProtocolError,
    RequestTimeout,
)

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


async def test_responses_may_arrive_in_any_order_and_any_chunks():
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


async def test_an_error_response_fails_only_its_request():
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


async def test_an_overlong_response_fails_its_request_and_the_connection_survives():
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


async def test_params_that_are_not_json_are_refused_and_do_not_count_toward_the_window():
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        for _ in range(3):
            with pytest.raises(LocalProtocolError):
                await bench.connection.calls.request("m", {"a": object()})
        nursery.start_soon(bench.call, "next")
        await bench.peer.answer(await bench.peer.request())
        await wait_all_tasks_blocked()
        assert bench.outcomes["next"] is None


async def test_params_that_cannot_be_encoded_do_not_count_toward_the_window():
    deep = None
    for _ in range(900):
        deep = [deep]
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        with contextlib.suppress(LocalProtocolError, RecursionError):
            await bench.connection.calls.begin("m", deep, "window")
            return  # the value can be sent
        nursery.start_soon(bench.call, "next")
        await wait_all_tasks_blocked()
        assert bench.connection.calls.in_flight == 1
        nursery.cancel_scope.cancel()


async def test_a_notification_is_sent_without_an_id():
    async with connected() as bench:
        bench.connection.notify("initialized")
        assert await bench.peer.request() == {"method": "initialized"}


async def test_every_request_is_a_checkpoint_even_if_its_response_has_arrived():
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
async def test_beginning_a_call_is_a_cancellation_point_before_anything_is_queued(request_class):
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
        # The barrier is also a line. Whether it counts toward the 64 depends on when the writer runs.
        assert [request["method"] for request in waiting].count(BARRIER_METHOD) == 1
        assert 64 <= len(waiting) <= 65
        while waiting:
            await bench.peer.answer(waiting.pop(0))
            await wait_all_tasks_blocked()
            assert len(waiting) <= 65
        assert len(bench.outcomes) == 70
        nursery.cancel_scope.cancel()


async def test_the_window_bounds_pending_requests_however_fast_the_peer_reads():
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
async def test_control_and_deferred_requests_bypass_the_window(request_class):
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
async def test_every_kind_of_response_makes_room_in_the_window(answer):
    async with connected(window=1) as bench, trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(bench.call, name)
        for _ in "abc":
            await bench.peer.send({"id": (await bench.peer.request())["id"], **answer})
        await wait_all_tasks_blocked()
        assert len(bench.outcomes) == 3


async def test_a_caller_cancelled_while_waiting_for_the_window_sends_nothing_and_does_not_count_toward_it():
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


async def test_a_request_that_is_not_answered_times_out_and_makes_room_in_the_window(autojump_clock):
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


async def test_waiting_for_the_window_counts_toward_the_timeout(autojump_clock):
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
async def test_only_requests_that_the_server_answers_immediately_time_out(
    autojump_clock, request_class, times_out
):
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
