"""The streams of a remote process, without a process: Trio's stream contracts, and their limit."""

from base64 import b64decode

import pytest
import trio
import trio.testing

from trio_codex._api.exec_streams import WRITE_BYTES, RemoteInput, RemoteOutput
from trio_codex.errors import ConnectionBroken, InvalidRequestError, SubscriptionOverflow


class Answered:
    """A call that is answered, or waits for its answer."""

    def __init__(self, error=None, gate=None):
        self.error = error
        self.gate = gate
        self.given_up = False

    async def answer(self):
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error

    def give_up(self):
        self.given_up = True
        if self.gate is not None:
            self.error = self.error or InvalidRequestError(-32600, "given up")
            self.gate.set()


async def loopback():
    """A stdin whose process echoes its input until the output is closed."""
    output = RemoteOutput(1 << 20)

    async def begin(params):
        if output._closed:
            return Answered(InvalidRequestError(-32600, "is no longer running"))
        if params.get("closeStdin"):
            output.end()
        else:
            output.put(b64decode(params["deltaBase64"]))
        return Answered()

    await trio.lowlevel.checkpoint()
    return RemoteInput(begin), output


async def test_remote_streams_pass_trios_stream_tests():
    with trio.fail_after(10):
        await trio.testing.check_one_way_stream(loopback, None)


async def test_buffered_output_is_returned_before_the_error():
    output = RemoteOutput(10)
    output.put(b"12345678")
    output.put(b"9ab")
    assert await output.receive_some(5) == b"12345"
    assert await output.receive_some() == b"678"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await output.receive_some()
        assert isinstance(caught.value.__cause__, SubscriptionOverflow)
        assert (caught.value.__cause__.events, caught.value.__cause__.size) == (2, 11)


async def test_reading_frees_space():
    output = RemoteOutput(4)
    for _ in range(10):
        output.put(b"1234")
        assert await output.receive_some() == b"1234"
    output.end()
    assert await output.receive_some() == b""


async def test_only_the_first_end_of_an_output_counts():
    output = RemoteOutput(4)
    output.end()
    output.end(lambda: ConnectionBroken("later"))
    output.put(b"later")
    assert await output.receive_some() == b""


async def test_closing_an_output_wakes_its_reader_and_drops_later_output():
    output = RemoteOutput(4)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(trio.ClosedResourceError):
                await output.receive_some()

        await trio.testing.wait_all_tasks_blocked()
        await output.aclose()
    output.put(b"12345678")
    with pytest.raises(trio.ClosedResourceError):
        await output.receive_some()


async def test_long_input_is_sent_in_chunks():
    pieces = []

    async def begin(params):
        pieces.append(len(b64decode(params["deltaBase64"])))
        return Answered()

    await RemoteInput(begin).send_all(memoryview(bytearray(2 * WRITE_BYTES + 1)))
    assert pieces == [WRITE_BYTES, WRITE_BYTES, 1]


async def test_the_end_of_the_process_fails_a_pending_send():
    call = Answered(gate=trio.Event())

    async def begin(_):
        await trio.lowlevel.checkpoint()
        return call

    stdin = RemoteInput(begin)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(trio.BrokenResourceError) as caught:
                await stdin.send_all(b"x")
            assert isinstance(caught.value.__cause__, InvalidRequestError)

        await trio.testing.wait_all_tasks_blocked()
        stdin.end()
    with pytest.raises(trio.BrokenResourceError):
        await stdin.send_all(b"x")


async def test_closing_an_input_wakes_its_sender():
    call = Answered(gate=trio.Event())
    sent = []

    async def begin(params):
        await trio.lowlevel.checkpoint()
        sent.append(params)
        return call

    stdin = RemoteInput(begin)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                with pytest.raises(trio.ClosedResourceError):
                    await stdin.send_all(b"x")

            await trio.testing.wait_all_tasks_blocked()
            await stdin.aclose()
    assert call.given_up
    assert [*sent[0], *sent[1]] == ["deltaBase64", "closeStdin"]


async def test_a_cancelled_send_abandons_its_request():
    call = Answered(gate=trio.Event())

    async def begin(_):
        return call

    with trio.move_on_after(0.01):
        await RemoteInput(begin).send_all(b"x")
    assert call.given_up


async def test_end_of_file_is_sent_once_even_if_the_sender_is_cancelled():
    sent = []

    async def begin(params):
        await trio.lowlevel.checkpoint_if_cancelled()
        sent.append(params)
        return Answered()

    stdin = RemoteInput(begin)
    with trio.CancelScope() as scope:
        scope.cancel()
        await stdin.aclose()
    assert scope.cancelled_caught
    await stdin.aclose()
    assert sent == [{"closeStdin": True}]
    with pytest.raises(trio.ClosedResourceError):
        await stdin.send_all(b"x")
