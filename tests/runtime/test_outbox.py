"""The writer's queue: it keeps lines in order, and each line is either withdrawn or handed over."""

from types import SimpleNamespace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, precondition, rule
from trio.testing import wait_all_tasks_blocked

from trio_codex._link import write_queue as _write_queue
from trio_codex._link.channel import DirectSendStream
from trio_codex._link.write_queue import BATCH_BYTES, QueuedLine


class WriteQueue(_write_queue.WriteQueue):
    """A queue whose lines are made by the test, for a channel without framing."""

    def __init__(self, send_nowait=None, on_taken=lambda _: None):
        channel = SimpleNamespace(frame=lambda message: message, nonblocking_send=lambda: send_nowait)
        super().__init__(channel, on_taken)

    def put(self, line, *, urgent=False):
        queued_line = QueuedLine(line)
        super().put(queued_line, urgent=urgent)
        return queued_line


def at_once(awaitable):
    """Return the result of a coroutine that does not wait."""
    with pytest.raises(StopIteration) as caught:
        awaitable.send(None)
    return caught.value.value


async def test_lines_are_returned_whole_and_in_order():
    write_queue = WriteQueue()
    queued_lines = [write_queue.put(line) for line in (b"a\n", b"b\n", b"c\n")]
    assert not any(queued_line.taken for queued_line in queued_lines)
    with trio.fail_after(5):
        assert await write_queue.take_batch() == b"a\nb\nc\n"
    assert all(queued_line.taken for queued_line in queued_lines)


async def test_urgent_lines_precede_ordinary_ones_and_keep_their_order():
    write_queue = WriteQueue()
    write_queue.put(b"a\n")
    write_queue.put(b"1\n", urgent=True)
    write_queue.put(b"b\n")
    write_queue.put(b"2\n", urgent=True)
    with trio.fail_after(5):
        assert await write_queue.take_batch() == b"1\n2\na\nb\n"


async def test_a_batch_is_bounded_and_leaves_the_rest_for_the_next():
    write_queue = WriteQueue()
    half = b"x" * (BATCH_BYTES // 2 - 1) + b"\n"
    queued_lines = [write_queue.put(half) for _ in range(3)]
    with trio.fail_after(5):
        assert await write_queue.take_batch() == half + half
        assert [queued_line.taken for queued_line in queued_lines] == [True, True, False]
        assert await write_queue.take_batch() == half


async def test_a_line_larger_than_a_batch_is_a_batch_of_its_own():
    write_queue = WriteQueue()
    huge = b"x" * (3 * BATCH_BYTES) + b"\n"
    write_queue.put(huge)
    write_queue.put(b"a\n")
    with trio.fail_after(5):
        assert await write_queue.take_batch() == huge
        assert await write_queue.take_batch() == b"a\n"


async def test_an_ordinary_line_does_not_overtake_an_urgent_one_that_did_not_fit():
    write_queue = WriteQueue()
    big = b"x" * (BATCH_BYTES - 100) + b"\n"
    for line in (b"1" + big, b"2" + big):
        write_queue.put(line, urgent=True)
    write_queue.put(b"\n")
    with trio.fail_after(5):
        assert await write_queue.take_batch() == b"1" + big
        assert await write_queue.take_batch() == b"2" + big + b"\n"


async def test_the_writer_waits_for_a_line_and_an_urgent_one_wakes_it_too():
    write_queue = WriteQueue()
    batches = []

    async def write():
        while (batch := await write_queue.take_batch()) is not None:
            batches.append(batch)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            write_queue.put(b"a\n")
            write_queue.put(b"b\n")
            await wait_all_tasks_blocked()
            assert batches == [b"a\nb\n"]
            write_queue.put(b"c\n", urgent=True)
            await wait_all_tasks_blocked()
            assert batches == [b"a\nb\n", b"c\n"]
            write_queue.close()


async def test_a_line_withdrawn_while_the_writer_was_waking_up_is_not_written():
    write_queue = WriteQueue()
    batches = []

    async def write():
        while (batch := await write_queue.take_batch()) is not None:
            batches.append(batch)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            assert write_queue.take_back(write_queue.put(b"a\n"))
            await wait_all_tasks_blocked()
            assert batches == []
            write_queue.put(b"b\n")
            await wait_all_tasks_blocked()
            assert batches == [b"b\n"]
            write_queue.finish()


@pytest.mark.parametrize("urgent", [True, False])
async def test_a_line_can_be_withdrawn_until_it_is_handed_over(urgent):
    write_queue = WriteQueue()
    kept, undone = write_queue.put(b"a\n", urgent=urgent), write_queue.put(b"a\n", urgent=urgent)
    assert write_queue.take_back(undone)
    assert not write_queue.take_back(undone)
    with trio.fail_after(5):
        assert await write_queue.take_batch() == b"a\n"
    assert not write_queue.take_back(kept)
    assert kept.taken
    assert not undone.taken


async def test_closing_drops_queued_and_later_lines():
    write_queue = WriteQueue()
    queued_lines = [write_queue.put(b"a\n"), write_queue.put(b"b\n", urgent=True)]
    write_queue.close()
    queued_lines.append(write_queue.put(b"c\n"))
    with trio.fail_after(5):
        assert await write_queue.take_batch() is None
        assert await write_queue.take_batch() is None
    assert not any(queued_line.taken for queued_line in queued_lines)
    assert not any(write_queue.take_back(queued_line) for queued_line in queued_lines)


async def test_finishing_returns_queued_lines_first_and_accepts_no_more():
    write_queue = WriteQueue()
    write_queue.put(b"a\n")
    write_queue.finish()
    assert not write_queue.take_back(write_queue.put(b"b\n"))
    with trio.fail_after(5):
        assert await write_queue.take_batch() == b"a\n"
        assert await write_queue.take_batch() is None


@pytest.mark.parametrize("end", [WriteQueue.close, WriteQueue.finish])
async def test_closing_and_finishing_wake_a_waiting_writer(end):
    write_queue = WriteQueue()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def write():
                assert await write_queue.take_batch() is None

            await wait_all_tasks_blocked()
            end(write_queue)


async def test_cancelling_a_waiting_writer_loses_nothing():
    write_queue = WriteQueue()
    with trio.move_on_after(0) as scope:
        await write_queue.take_batch()
    assert scope.cancelled_caught
    write_queue.put(b"a\n")
    with trio.fail_after(5):
        assert await write_queue.take_batch() == b"a\n"


sizes = st.integers(1, 3) | st.integers(BATCH_BYTES // 3, BATCH_BYTES + 2)


@given(st.lists(st.tuples(sizes, st.booleans()), min_size=1, max_size=12))
def test_urgent_lines_precede_ordinary_ones_whatever_their_sizes(lines):
    write_queue = WriteQueue()
    for number, (size, urgent) in enumerate(lines):
        write_queue.put(b"%d%s%s\n" % (number, b"u" if urgent else b"o", b"." * size), urgent=urgent)
    write_queue.finish()
    written = []
    while (batch := at_once(write_queue.take_batch())) is not None:
        assert len(batch) <= BATCH_BYTES or batch.count(b"\n") == 1
        written += [line.rstrip(b".") for line in batch.splitlines()]
    assert written == [b"%du" % n for n, (_, urgent) in enumerate(lines) if urgent] + [
        b"%do" % n for n, (_, urgent) in enumerate(lines) if not urgent
    ]


class Narrow(DirectSendStream):
    """A stream that accepts only this many bytes, until there is room for more."""

    def __init__(self):
        self.wire = b""
        self.room = 0
        self.more = trio.Event()
        self.busy = False

    def make_room(self, size):
        self.room += size
        self.more.set()

    def send_nowait(self, data):
        assert not self.busy, "somebody is in send_all"
        sent = data[: self.room]
        self.wire += sent
        self.room -= len(sent)
        return len(sent)

    async def send_all(self, data):
        assert not self.busy
        while data := data[self.send_nowait(data) :]:
            self.busy = True
            self.more = trio.Event()
            await self.more.wait()
            self.busy = False

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def aclose(self):
        await trio.lowlevel.checkpoint()


small = st.integers(1, 40)
puts = st.tuples(st.just("put"), small, st.booleans())
rooms = st.tuples(st.just("room"), small, st.just(None))
lets_run = st.tuples(st.just("run"), st.just(0), st.just(None))
takes_back = st.tuples(st.just("take back"), st.integers(0, 12), st.just(None))


@given(st.lists(puts | rooms | lets_run | takes_back, max_size=30))
def test_lines_reach_a_stream_whole_and_in_order_whichever_task_writes_them(actions):
    trio.run(send_through, Narrow(), actions)


async def send_through(stream, actions):
    told = []
    write_queue = WriteQueue(stream.send_nowait, lambda queued_line: told.append(queued_line.line))
    queued_lines, undone = [], set()

    async def write():
        while (batch := await write_queue.take_batch()) is not None:
            await stream.send_all(batch)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            for action, number, urgent in actions:
                if action == "put":
                    line = b"%s%d %s\n" % (b"u" if urgent else b"o", len(queued_lines), b"." * number)
                    queued_lines.append(write_queue.put(line, urgent=urgent))
                elif action == "room":
                    stream.make_room(number)
                elif action == "run":
                    await wait_all_tasks_blocked()
                elif number < len(queued_lines) and write_queue.take_back(queued_lines[number]):
                    undone.add(number)
            write_queue.finish()
            stream.make_room(10_000)
    lines = stream.wire.splitlines(keepends=True)
    assert lines == told
    for kind in (b"u", b"o"):
        assert [line for line in lines if line.startswith(kind)] == [
            queued_line.line
            for number, queued_line in enumerate(queued_lines)
            if number not in undone and queued_line.line.startswith(kind)
        ]
    assert [queued_line.taken for queued_line in queued_lines] == [
        n not in undone for n in range(len(queued_lines))
    ]


async def test_a_line_is_written_immediately_if_nothing_is_queued():
    stream, taken = Narrow(), []
    stream.make_room(100)
    write_queue = WriteQueue(stream.send_nowait, lambda queued_line: taken.append(queued_line.line))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_queue.take_batch)
            await wait_all_tasks_blocked()
            assert write_queue.put(b"a\n").taken
            assert write_queue.put(b"b\n", urgent=True).taken
            assert stream.wire == b"a\nb\n"
            assert taken == [b"a\n", b"b\n"]
            write_queue.close()
            assert not write_queue.put(b"c\n").taken
            assert stream.wire == b"a\nb\n"


@pytest.mark.parametrize("error", [trio.BrokenResourceError, trio.ClosedResourceError])
async def test_the_writer_handles_a_broken_stream(error):
    def send_nowait(_):
        raise error

    write_queue = WriteQueue(send_nowait)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def write():
                assert await write_queue.take_batch() == b"a\n"

            await wait_all_tasks_blocked()
            assert not write_queue.put(b"a\n").taken


class Letters(RuleBasedStateMachine):
    """Each queued line is written once, in the order of its kind, or withdrawn, or dropped at the end."""

    queued_lines = Bundle("queued_lines")

    def __init__(self):
        super().__init__()
        self.write_queue = WriteQueue()
        self.queued = {False: [], True: []}
        self.number = 0
        self.closed = False

    @rule(target=queued_lines, urgent=st.booleans(), size=sizes)
    def put(self, urgent, size):
        self.number += 1
        queued_line = self.write_queue.put(b"%d %s\n" % (self.number, b"." * size), urgent=urgent)
        assert not queued_line.taken
        if not self.closed:
            self.queued[urgent].append(queued_line)
        return queued_line

    def model_remove(self, queued_line):
        for queue in self.queued.values():
            if queued_line in queue:
                queue.remove(queued_line)
                return True
        return False

    @rule(queued_line=queued_lines)
    def take_back(self, queued_line):
        assert self.write_queue.take_back(queued_line) == self.model_remove(queued_line)

    @rule(queued_line=consumes(queued_lines))
    def take_back_twice(self, queued_line):
        self.take_back(queued_line)
        assert not self.write_queue.take_back(queued_line)

    @precondition(lambda self: any(self.queued.values()) or self.closed)
    @rule()
    def take_batch(self):
        batch = at_once(self.write_queue.take_batch())
        if batch is None:
            assert self.closed
            assert not any(self.queued.values())
            return
        assert batch
        for line in batch.splitlines(keepends=True):
            queue = next(queue for queue in self.queued.values() if queue and queue[0].line == line)
            assert queue.pop(0).taken
        assert not any(queued_line.taken for queue in self.queued.values() for queued_line in queue)

    @rule()
    def finish(self):
        self.write_queue.finish()
        self.closed = True

    @rule()
    def close(self):
        self.write_queue.close()
        self.queued = {False: [], True: []}
        self.closed = True


TestLetters = Letters.TestCase
