"""The end of a connection: every waiter fails with the same cause, and closing flushes."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from runtime.connection_peer import connected, slow_pair
from trio_codex import errors
from trio_codex._core.rpc import JunkKind
from trio_codex._link import connection as _connection
from trio_codex._link.call import CloseReason
from trio_codex._link.connection import DIAGNOSIS_SECONDS
from trio_codex.errors import ConnectionBroken, ConnectionClosed, ServerExited

# -- the end -------------------------------------------------------------------------------------------------------


async def fail_everything(bench, nursery, deferred=2, waiting=3):
    """Start calls in every state: sent, waiting for the window, and without a deadline."""
    for number in range(bench.window + waiting):
        nursery.start_soon(bench.call, f"w{number}")
    for number in range(deferred):
        nursery.start_soon(bench.call, f"d{number}", "deferred")
    await bench.peer.requests(bench.window + deferred)
    await wait_all_tasks_blocked()


async def test_at_the_end_of_the_stream_every_wait_fails_within_a_second_with_its_own_exception(
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


async def test_a_diagnosis_that_never_returns_does_not_delay_the_end(autojump_clock):
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


async def test_further_losses_during_the_diagnosis_do_not_change_the_cause(autojump_clock):
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


async def test_messages_that_arrive_during_the_diagnosis_are_delivered(autojump_clock):
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


async def test_closing_during_the_diagnosis_takes_precedence(autojump_clock):
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


async def test_closing_fails_every_wait_immediately_and_only_the_first_cause_counts():
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


async def test_after_the_end_nothing_is_written_or_delivered_but_the_stream_is_drained():
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


async def test_an_incomplete_line_at_the_end_is_reported():
    async with connected() as bench:
        await bench.peer.stream.send_all(b'{"method":"a"}\n{"method":')
        await bench.peer.stream.aclose()
        await bench.connection.wait_ended()
        assert bench.receiver.got[-1].kind is JunkKind.TRUNCATED
        assert bench.receiver.portions == [1, 1]


async def test_the_end_of_the_stream_without_an_incomplete_line_reports_nothing():
    async with connected() as bench:
        await bench.peer.stream.aclose()
        await bench.connection.wait_ended()
        assert bench.receiver.got == []


class BrokenStream(trio.abc.Stream):
    """A stream whose writing side breaks immediately; its reading side ends, breaks, or continues."""

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
    """Make the server send requests, and answer each with this many bytes."""
    for number in range(count):
        await bench.peer.send({"id": number, "method": "item/tool/call", "params": {}})
    await wait_all_tasks_blocked()
    for number in range(count):
        bench.connection.respond(number, "x" * size)


async def test_a_server_that_sends_requests_and_does_not_read_ends_the_connection(monkeypatch):
    monkeypatch.setattr(_connection, "QUEUED_REPLY_BYTES", 10_000)
    async with connected(streams=slow_pair()) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "mine")
        await ask_and_answer(bench, 100, 1000)
        assert bench.connection.calls.write_queue.reply_bytes < 12_000
        death = await bench.connection.wait_ended()
        assert type(death.exception()) is ConnectionBroken
        assert "does not read" in death.exception().reason
    assert type(bench.outcomes["mine"]) is ConnectionBroken


async def test_replies_that_the_server_reads_have_no_total_limit(monkeypatch):
    monkeypatch.setattr(_connection, "QUEUED_REPLY_BYTES", 10_000)
    async with connected() as bench:
        for _ in range(50):
            await ask_and_answer(bench, 5, 1000)
            await wait_all_tasks_blocked()
        assert bench.connection.close_reason is None
        assert bench.connection.calls.write_queue.reply_bytes == 0


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


async def test_when_both_directions_break_the_cause_comes_from_the_reading_side(autojump_clock):
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
async def test_a_stream_that_breaks_while_reading_ends_the_connection(cause):
    error = trio.BrokenResourceError("broke")
    error.__cause__ = cause
    stream = BrokenStream(read_error=error)
    stream.reading.set()
    async with connected(streams=(stream, None)) as bench:
        death = await bench.connection.wait_ended()
        assert str(cause or error) in death.exception().reason


async def test_closing_the_stream_while_reading_ends_the_connection():
    stream = BrokenStream(read_error=trio.ClosedResourceError())
    stream.reading.set()
    async with connected(streams=(stream, None)) as bench:
        await bench.connection.wait_drained()
        death = await bench.connection.wait_ended()
        assert type(death.exception()) is ConnectionBroken


async def test_a_failing_diagnosis_is_an_internal_error_and_wakes_all_waiters():
    async def diagnose(reason):
        raise ValueError("bug")

    with pytest.raises(errors.InternalError) as caught:
        async with connected(diagnose=diagnose) as bench:
            await bench.connection.calls.begin("a", None)
            await bench.peer.stream.aclose()
            await trio.sleep_forever()
    assert type(caught.value.__cause__) is ValueError


# -- closing -------------------------------------------------------------------------------------------------------


async def test_while_new_requests_are_refused_cleanup_requests_are_still_sent():
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


def test_a_close_reason_creates_a_new_exception_each_time():
    error = ServerExited("r", "running", 1, 2, "tail")
    death = CloseReason(error)
    first, second = death.exception(), death.exception()
    assert first is not second
    assert error not in (first, second)
    assert type(first) is ServerExited
    assert vars(first) == vars(second) == vars(error)
    assert first.args == error.args


def test_a_close_reason_has_a_short_and_a_full_description():
    death = CloseReason(ServerExited("it exited", "running", 1, 2, "tail"))
    assert death.reason == "it exited"
    assert str(death) == str(death.exception())
    assert CloseReason(ConnectionClosed("bye")).reason == "bye"
