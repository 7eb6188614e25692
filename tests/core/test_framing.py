"""Splitting bytes into lines and encoding messages: chunk boundaries do not matter, and memory and time are bounded."""

import dataclasses
import itertools
import json
import math
import time
import tracemalloc

import attrs
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_codex._core.framing import (
    MAX_LINE_BYTES,
    OVERSIZE_HEAD_BYTES,
    LineBuffer,
    OversizeLine,
    TruncatedLine,
    encode_message,
)
from trio_codex.errors import LocalProtocolError

# -- splitting -----------------------------------------------------------------------------------------------------


def whole(stream, limit):
    """Return the frames of a stream, split in the obvious way."""
    *lines, rest = stream.split(b"\n")
    frames = [
        line if len(line) <= limit else OversizeLine(line[:OVERSIZE_HEAD_BYTES], len(line)) for line in lines
    ]
    return frames + ([TruncatedLine(rest[:OVERSIZE_HEAD_BYTES], len(rest))] if rest else [])


def fed(chunks, limit):
    buffer = LineBuffer(limit)
    frames = []
    for chunk in chunks:
        frames += buffer.feed(chunk)
        assert {type(frame) for frame in frames} <= {bytes, OversizeLine}
        assert buffer.held_bytes <= max(limit, OVERSIZE_HEAD_BYTES)
    rest = buffer.feed_eof()
    assert buffer.held_bytes == 0
    assert buffer.feed_eof() is None
    return frames + ([] if rest is None else [rest])


def cut(stream, points):
    points = sorted({0, len(stream), *(point % (len(stream) + 1) for point in points)})
    return [stream[start:end] for start, end in itertools.pairwise(points)]


streams = st.lists(st.binary(max_size=12) | st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\0"])).map(b"".join)
cuts = st.lists(st.integers(0, 2**16), max_size=30)


@given(streams, cuts, st.integers(0, 20))
@example(b"abc\nabcd\nab", [3, 4], 3)
@example(b"abcd\n", [3], 3)
@example(b"abcd\n", [4], 3)
@example(b"\n", [], 0)
def test_any_bytes_cut_anywhere_yield_the_same_frames(stream, points, limit):
    assert fed(cut(stream, points), limit) == whole(stream, limit)


@given(streams, st.integers(0, 20))
def test_feeding_single_bytes_yields_the_same_frames(stream, limit):
    assert fed([bytes([byte]) for byte in stream], limit) == whole(stream, limit)


@given(
    st.lists(st.integers(0, 3 * OVERSIZE_HEAD_BYTES), max_size=6),
    st.binary(max_size=20).map(lambda tail: tail.replace(b"\n", b"")),
    cuts,
    st.integers(0, 2 * OVERSIZE_HEAD_BYTES),
)
def test_lines_far_beyond_the_kept_head_yield_the_same_frames_however_they_are_cut(
    sizes, tail, points, limit
):
    stream = b"".join(bytes(range(48, 58)) * (size // 10 + 1) + b"\n" for size in sizes) + tail
    assert fed(cut(stream, points), limit) == whole(stream, limit)


@given(streams, cuts)
def test_lines_within_the_bound_are_returned_as_they_were_sent(stream, points):
    frames = fed([*cut(stream, points), b"\n"], MAX_LINE_BYTES)
    assert b"".join(line + b"\n" for line in frames) == stream + b"\n"


@given(st.lists(st.text().map(lambda text: {"m": text})), cuts)
def test_any_encoded_messages_are_split_into_the_same_messages(messages, points):
    frames = fed(
        cut(b"".join(encode_message(message) + b"\n" for message in messages), points), MAX_LINE_BYTES
    )
    assert [json.loads(frame) for frame in frames] == messages


def test_only_a_newline_ends_a_line():
    line = "a\r\v\f\x1c\x85\u2028\u2029\0b".encode()
    assert LineBuffer().feed(line + b"\n") == [line]


def test_a_line_at_the_size_limit_is_kept_and_a_longer_one_is_not():
    for chunks in ([b"12345\n"], [b"123", b"45\n"], [b"12345", b"\n"], [b"x\n12345\n"]):
        assert fed(chunks, 5)[-1] == b"12345"
        assert fed(chunks, 4)[-1] == OversizeLine(b"12345", 5)


def test_a_chunk_may_be_overwritten_once_it_has_been_fed():
    buffer = LineBuffer()
    chunk = bytearray(b"ab\ncd")
    lines = buffer.feed(chunk)
    chunk[:] = b"xxxxx"
    lines += buffer.feed(b"\n")
    assert lines == [b"ab", b"cd"]
    assert [type(line) for line in lines] == [bytes, bytes]


def test_an_empty_chunk_and_an_empty_stream_produce_no_frames():
    buffer = LineBuffer()
    assert buffer.feed(b"") == []
    assert buffer.feed_eof() is None


def test_the_stream_continues_after_a_line_that_was_too_long():
    buffer = LineBuffer(10)
    assert buffer.feed(b"x" * 11) == []
    assert buffer.feed(b"y" * 5) == []
    assert buffer.feed(b"z\nnext\n") == [OversizeLine(b"x" * 11 + b"y" * 5 + b"z", 17), b"next"]


def test_the_length_of_the_unfinished_line_is_known_whether_it_is_held_or_not():
    buffer = LineBuffer(10)
    for count in range(1, 3 * OVERSIZE_HEAD_BYTES // 100):
        buffer.feed(b"x" * 100)
        assert buffer.unfinished_bytes == 100 * count
        assert buffer.held_bytes == min(100 * count, OVERSIZE_HEAD_BYTES)
    buffer.feed(b"\nabc")
    assert buffer.unfinished_bytes == 3
    buffer.feed_eof()
    assert buffer.unfinished_bytes == 0


def test_a_line_beyond_the_bound_is_not_held_in_memory():
    limit, chunk = 256 * 1024, b"x" * (64 * 1024)
    buffer = LineBuffer(limit)
    tracemalloc.start()
    try:
        for _ in range(512):
            assert buffer.feed(bytearray(chunk)) == []  # a new buffer, as each read returns
        assert tracemalloc.get_traced_memory()[1] < 3 * limit
    finally:
        tracemalloc.stop()
    assert buffer.feed(b"\n") == [OversizeLine(b"x" * OVERSIZE_HEAD_BYTES, 512 * len(chunk))]


@pytest.mark.parametrize("limit", [MAX_LINE_BYTES, 1000], ids=["within the bound", "beyond it"])
def test_time_per_byte_does_not_grow_with_the_length_of_a_line(limit):
    def seconds_per_chunk(count):
        best = math.inf
        for _ in range(3):
            buffer = LineBuffer(limit)
            start = time.process_time()
            for _ in range(count):
                buffer.feed(chunk)
            buffer.feed(b"\n")
            best = min(best, time.process_time() - start)
        return best / count

    chunk = b"x" * 4096
    # If each chunk copied what came before, the ratio would be about 16.
    assert seconds_per_chunk(4096) < 5 * seconds_per_chunk(256) + 1e-6


class Stream(RuleBasedStateMachine):
    """Compare the buffer with ``bytes.split``, fed by a pipe that returns arbitrary pieces and may end at any time."""

    @initialize(limit=st.sampled_from([0, 1, 7, 40, 2 * OVERSIZE_HEAD_BYTES, 2 * OVERSIZE_HEAD_BYTES]))
    def open(self, limit):
        self.limit = limit
        self.buffer = LineBuffer(limit)
        self.written = b""  # but not yet read
        self.unfinished = b""

    @rule(
        line=st.sampled_from(
            [
                b"",
                b'{"method":"m","params":{}}',
                b'{"id":1,"result":null}\r',
                b"\r\r",
                b"\0",
                b"\xff\xfe\x80",
                "\u2028\u2029\x85\v\f\x1c".encode(),
            ]
        )
        | st.binary(max_size=12)  # may contain newlines
    )
    def write(self, line):
        self.written += line + b"\n"

    @rule(beyond=st.sampled_from([-1, 0, 0, 1, 1, 3 * OVERSIZE_HEAD_BYTES]))
    def write_a_line_of_about_the_maximum_length(self, beyond):
        size = max(self.limit + beyond, 0)
        self.write((b"0123456789" * (size // 10 + 1))[:size])

    @rule(part=st.binary(max_size=12).map(lambda part: part.replace(b"\n", b"")))
    def write_without_a_newline(self, part):
        self.written += part

    def feed(self, count):
        chunk, self.written = bytearray(self.written[:count]), self.written[count:]
        *lines, self.unfinished = (self.unfinished + chunk).split(b"\n")
        frames = self.buffer.feed(chunk)
        chunk[:] = b"\n" * len(chunk)  # the buffer must not keep a reference
        assert frames == [
            line if len(line) <= self.limit else OversizeLine(line[:OVERSIZE_HEAD_BYTES], len(line))
            for line in lines
        ]
        assert {type(frame) for frame in frames} <= {bytes, OversizeLine}

    @rule(count=st.integers(0, 12))
    def read_a_little(self, count):
        self.feed(count)

    @precondition(lambda self: self.written)
    @rule(quarters=st.integers(1, 4))
    def read_a_share(self, quarters):
        self.feed(len(self.written) * quarters // 4)

    @precondition(lambda self: b"\n" in self.written)
    @rule(past=st.sampled_from([0, 0, 1]))
    def read_up_to_the_end_of_a_line(self, past):
        self.feed(self.written.index(b"\n") + past)

    @rule()
    def end(self):
        """End the pipe. Unread data is lost, and the buffer can be used for another pipe."""
        rest, self.unfinished, self.written = self.unfinished, b"", b""
        assert self.buffer.feed_eof() == (
            TruncatedLine(rest[:OVERSIZE_HEAD_BYTES], len(rest)) if rest else None
        )

    @invariant()
    def the_unfinished_line_has_the_right_length_and_is_held_within_the_bound(self):
        if not hasattr(self, "buffer"):
            return
        size = len(self.unfinished)
        assert self.buffer.unfinished_bytes == size
        assert self.buffer.held_bytes == (size if size <= self.limit else min(size, OVERSIZE_HEAD_BYTES))


TestStream = Stream.TestCase


# -- encoding ------------------------------------------------------------------------------------------------------

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
)


def containers(leaves, keys=None):
    keys = st.text() if keys is None else keys
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=10,
    )


finite = scalars.filter(lambda value: not isinstance(value, float) or math.isfinite(value))


@given(containers(finite))
def test_any_json_is_encoded_as_exactly_one_equivalent_line(value):
    line = encode_message(value)
    assert b"\n" not in line
    assert json.loads(line) == json.loads(json.dumps(value))


surrogates = st.builds(
    lambda before, point, after: before + chr(point) + after,
    st.text(max_size=3),
    st.integers(0xD800, 0xDFFF),
    st.text(max_size=3),
)


@given(st.data())
def test_a_lone_surrogate_anywhere_is_refused(data):
    planted = data.draw(surrogates)
    value = data.draw(containers(finite))
    wrap = data.draw(
        st.sampled_from(
            [
                lambda bad: [value, bad],
                lambda bad: {"a": {"b": bad}, "c": value},
                lambda bad: {bad: value},
                lambda bad: bad,
            ]
        )
    )
    with pytest.raises(LocalProtocolError) as caught:
        encode_message(wrap(planted))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


non_finite = st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.data())
def test_a_non_finite_number_anywhere_is_refused(data):
    planted = data.draw(non_finite)
    value = data.draw(containers(finite))
    wrap = data.draw(
        st.sampled_from(
            [
                lambda bad: bad,
                lambda bad: [value, bad],
                lambda bad: (value, [bad]),
                lambda bad: {"a": [{"b": bad}], "c": value},
            ]
        )
    )
    with pytest.raises(LocalProtocolError):
        encode_message(wrap(planted))


@attrs.frozen
class AttrsValue:
    number: float


@dataclasses.dataclass
class DataValue:
    number: float


class StructValue(msgspec.Struct):
    number: float


@pytest.mark.parametrize(
    "wrap", [AttrsValue, DataValue, StructValue, lambda bad: {bad}, lambda bad: frozenset([bad])]
)
def test_a_non_finite_number_is_refused_in_every_type_that_the_encoder_accepts(wrap):
    assert json.loads(encode_message({"params": wrap(1.5)}))
    with pytest.raises(LocalProtocolError):
        encode_message({"params": wrap(math.nan)})


@given(containers(finite))
def test_null_is_not_mistaken_for_a_non_finite_number(value):
    assert encode_message({"null": None, "value": value})


@pytest.mark.parametrize("value", [object(), 1j, {(1, 2): 3}, [{"a": object()}], iter([1]), print])
def test_a_value_that_is_not_json_is_refused(value):
    with pytest.raises(LocalProtocolError) as caught:
        encode_message(value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("leaf", [None, 1], ids=repr)
def test_a_value_of_any_depth_is_encoded_or_refused(leaf):
    value = leaf
    for _ in range(1500):
        value = [value]
        try:
            line = encode_message({"params": value})
        except LocalProtocolError:
            continue
        assert line.startswith(b'{"params":[')


def test_a_value_that_contains_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(LocalProtocolError):
        encode_message(value)


def test_raw_json_is_sent_unchanged_unless_it_contains_a_newline():
    assert encode_message({"a": msgspec.Raw(b'[1, "x"]')}) == b'{"a":[1, "x"]}'
    pretty = msgspec.Raw(b'{\n "x": null\n}')
    try:
        line = encode_message({"a": pretty})
    except LocalProtocolError:
        return
    assert json.loads(line) == {"a": {"x": None}}
    assert b"\n" not in line
