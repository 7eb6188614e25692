"""Reading from a connection: messages reach the receiver in order, and consumers run between batches."""

import json

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from runtime.connection_peer import SlowStream, StubReceiver, connected
from trio_codex._core.rpc import JunkKind, ServerRequest
from trio_codex._link.channel import CHUNK_BYTES, LONG_LINE_CHUNK_BYTES, SHARED_CHUNK_BYTES
from trio_codex._link.pace import LINES_AT_ONCE
from trio_codex._link.subscriptions import Subscription, Wakeups
from trio_codex.errors import ConnectionClosed, LocalProtocolError


async def test_messages_reach_the_receiver_in_order_with_one_flush_per_batch():
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
    """Records the size of each read."""

    def __init__(self, stream):
        super().__init__(stream)
        self.sizes = []

    async def receive_some(self, max_bytes=None):
        self.sizes.append(max_bytes)
        return await super().receive_some(max_bytes)


async def test_a_notification_takes_effect_before_the_next_line_is_parsed():
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


async def test_reads_grow_within_a_long_line_and_with_many_consumers():
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
        assert sizes[-1] == CHUNK_BYTES, "a long line must not affect later reads"
        assert bench.receiver.got[-1].method == "big"
        bench.receiver.consumers = 1000
        await bench.peer.stream.send_all(LINE * 1000)
        await wait_all_tasks_blocked()
        assert sizes[-1] == SHARED_CHUNK_BYTES


async def test_consumers_run_after_every_batch_of_lines():
    async with connected() as bench:
        await bench.peer.stream.send_all(LINE * 200)
        await wait_all_tasks_blocked()
        assert bench.receiver.portions == [LINES_AT_ONCE] * 3 + [200 - 3 * LINES_AT_ONCE]
        assert len(bench.receiver.got) == 200


async def test_batches_grow_with_the_number_of_consumers():
    async with connected() as bench:
        bench.receiver.consumers = 1000
        for _ in range(10):
            await bench.peer.stream.send_all(LINE * 10_000)
        await wait_all_tasks_blocked()
        assert max(bench.receiver.portions) >= SHARED_CHUNK_BYTES // len(LINE), "a batch must span a chunk"


async def test_the_rest_of_a_chunk_is_dropped_once_the_connection_has_ended():
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


async def test_an_answer_that_cannot_be_encoded_leaves_the_server_request_open():
    async with connected() as bench:
        await bench.peer.send({"id": 0, "method": "ask"})
        await wait_all_tasks_blocked()
        with pytest.raises(LocalProtocolError):
            bench.connection.respond(0, object())
        assert bench.connection.respond(0, None)


async def test_ids_of_server_requests_and_client_requests_are_independent():
    async with connected() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "a")
        request = await bench.peer.request()
        await bench.peer.send({"id": request["id"], "method": "ask"})
        await bench.peer.answer(request, result="mine")
        await wait_all_tasks_blocked()
        assert bench.outcomes == {"a": "mine"}
        assert bench.connection.respond(request["id"], "yours")
        assert await bench.peer.request() == {"id": request["id"], "result": "yours"}


async def test_the_reader_continues_though_a_consumer_never_reads():
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
