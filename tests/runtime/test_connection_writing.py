"""Writing to a connection: whole lines, in order, whichever task is cancelled."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from runtime.connection_peer import connected, slow_pair
from trio_codex._core.rpc import JunkKind
from trio_codex._link.call import Call
from trio_codex.errors import ConnectionClosed


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


async def test_a_call_can_be_withdrawn_until_the_writer_has_its_line():
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


async def test_an_abandoned_call_fails_and_makes_room_in_the_window_and_its_response_is_reported_as_late():
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
        with trio.move_on_after(0) as scope:  # settling twice would have made room for this one
            await bench.connection.calls.begin("c", None)
        assert scope.cancelled_caught


async def test_a_call_that_was_never_queued_cannot_be_withdrawn():
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
