"""The client's ends of a server's streams: whole, in order, closed once, and with checkpoints as Trio requires."""

import gc
import os
import random
import signal
import socket
import sys
from contextlib import contextmanager

import pytest
import trio
from trio.testing import assert_checkpoints, check_one_way_stream, wait_all_tasks_blocked

if sys.platform == "win32":
    pytest.skip("needs Unix pipes", allow_module_level=True)

from trio_codex._process.pipes import PipeReceiveStream, PipeSendStream, ServerStreams

PIPE_BYTES = 64 * 1024


def pipe():
    ours, theirs = socket.socketpair()
    return PipeSendStream(ours), PipeReceiveStream(theirs.detach())


@contextmanager
def pipe_ends():
    send, receive = pipe()
    try:
        yield send, receive
    finally:
        send.close()
        receive.close()


def fill(send):
    while send.send_nowait(b"x" * 4096):
        pass


async def test_a_pipe_passes_trios_stream_tests():
    async def make():
        return pipe()

    async def make_full():
        send, receive = pipe()
        fill(send)
        return send, receive

    with trio.fail_after(30):
        await check_one_way_stream(make, make_full)


async def test_bytes_are_transferred_unchanged():
    data = random.Random(1).randbytes(1_000_000)
    got = bytearray()
    with trio.fail_after(10), pipe_ends() as (send, receive):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def write():
                await send.send_all(data[:400_000])
                await send.send_all(memoryview(data)[400_000:])
                send.close()

            while chunk := await receive.receive_some(random.Random(len(got)).randint(1, 100_000)):
                got += chunk
    assert bytes(got) == data


async def test_buffered_bytes_are_returned_without_waiting_but_with_a_checkpoint():
    with trio.fail_after(5), pipe_ends() as (send, receive):
        await send.send_all(b"abcd")
        for rest in (b"ab", b"cd"):
            with assert_checkpoints():
                assert await receive.receive_some(2) == rest
        with assert_checkpoints():
            await send.send_all(b"")
        with pytest.raises(ValueError, match="at least 1"):
            await receive.receive_some(0)


async def test_cancellation_loses_nothing():
    with trio.fail_after(5), pipe_ends() as (send, receive):
        await send.send_all(b"abcd")
        assert await receive.receive_some(1) == b"a"
        with trio.CancelScope() as scope:
            scope.cancel()
            await receive.receive_some(1)
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await send.send_all(b"never")
        assert scope.cancelled_caught
        assert await receive.receive_some(10) == b"bcd"


async def test_as_much_of_a_line_as_fits_is_written_immediately():
    size = 16 * PIPE_BYTES
    with pipe_ends() as (send, receive):
        fill(send)
        assert send.send_nowait(b"more") == 0
        with trio.fail_after(5):
            await receive.receive_some(PIPE_BYTES)
            assert 0 < send.send_nowait(b"y" * size) < size


async def test_a_pipe_without_a_reader_is_broken_and_a_closed_one_is_closed():
    send, receive = pipe()
    receive.close()
    with pytest.raises(trio.BrokenResourceError, match="Broken pipe"):
        send.send_nowait(b"a")
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
        await send.send_all(b"a")
    send.close()
    send.close()
    assert (send.fileno(), receive.fileno()) == (-1, -1)
    with pytest.raises(trio.ClosedResourceError):
        send.send_nowait(b"a")
    for use in (lambda: send.send_all(b""), send.wait_send_all_might_not_block, receive.receive_some):
        with pytest.raises(trio.ClosedResourceError), trio.fail_after(5):
            await use()


@pytest.mark.parametrize("end", ["send", "receive"])
async def test_waiting_tasks_are_woken_when_the_pipe_is_closed(end):
    with trio.fail_after(5), pipe_ends() as (send, receive):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                with pytest.raises(trio.ClosedResourceError):
                    await (send.send_all(b"a") if end == "send" else receive.receive_some())

            if end == "send":
                fill(send)
            await wait_all_tasks_blocked()
            (send if end == "send" else receive).close()


async def test_a_garbage_collected_pipe_is_closed():
    send, receive = pipe()
    fd = send.fileno()
    del send
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with trio.fail_after(5):
        assert await receive.receive_some() == b""
    receive.close()


async def test_writing_without_a_reader_does_not_raise_sigpipe():
    caught = []
    previous = signal.signal(signal.SIGPIPE, lambda number, frame: caught.append(number))
    try:
        with pipe_ends() as (send, receive):
            receive.close()
            with pytest.raises(trio.BrokenResourceError):
                send.send_nowait(b"a")
    finally:
        signal.signal(signal.SIGPIPE, previous)
    assert caught == []


async def test_closing_is_seen_although_a_forked_copy_holds_the_descriptor(forked_copy):
    with trio.fail_after(5), pipe_ends() as (send, receive):
        await send.send_all(b"a")
        with forked_copy():
            send.close()
            assert await receive.receive_some() == b"a"
            assert await receive.receive_some() == b""


async def test_garbage_collection_in_a_forked_copy_does_not_close_the_pipe(forked_copy):
    with trio.fail_after(5), pipe_ends() as (send, receive):
        with forked_copy(send.__del__) as has_done_it:
            has_done_it()
        await send.send_all(b"a")
        assert await receive.receive_some() == b"a"


@pytest.mark.parametrize("spare", [0, 1])
async def test_a_failure_part_way_closes_everything_that_was_opened(monkeypatch, spare):
    pipes = iter([os.pipe] * spare)

    def open_pipe():
        for open_one in pipes:
            return open_one()
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", open_pipe)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Too many"):
        ServerStreams()
    assert sorted(os.listdir("/proc/self/fd")) == before
