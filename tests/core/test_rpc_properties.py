"""Properties of the JSON-RPC state: it accepts any bytes, in any order, split anywhere."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from core.rpc_lines import LIMIT, json_values, line_of, receive, waiting
from trio_codex import errors
from trio_codex._core.framing import OVERSIZE_HEAD_BYTES, LineBuffer, OversizeLine, TruncatedLine
from trio_codex._core.rpc import (
    Junk,
    JunkKind,
    LateReply,
    Notification,
    OversizeNotification,
    Reply,
    RpcState,
    ServerRequest,
)

EVENTS = (Notification, OversizeNotification, ServerRequest, Reply, LateReply, Junk)


ids = st.integers(-1, 6) | st.sampled_from(["", "1", "a"])


envelopes = st.fixed_dictionaries(
    {},
    optional={
        "id": ids | json_values,
        "method": st.sampled_from(["m", "turn/started", ""]) | json_values,
        "params": json_values,
        "result": json_values,
        "error": st.fixed_dictionaries({}, optional={"code": json_values, "message": json_values})
        | json_values,
        "emittedAtMs": json_values,
        "jsonrpc": json_values,
    },
)


valid_lines = st.sampled_from(
    [
        line_of(id=1, result={"thread": {"id": "a", "turns": []}}),
        line_of(id=2, error={"code": -32600, "message": "no", "data": {"a": 1}}),
        line_of(id="a", method="item/tool/call", params={"threadId": "a"}),
        line_of(method="item/agentMessage/delta", params={"delta": "ü\ud83d\ude00"}, emittedAtMs=1.5),
    ]
)


@st.composite
def mutated_lines(draw):
    line = bytearray(draw(valid_lines))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(line)))
        length = draw(st.integers(0, 3))
        line[place : place + length] = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"[", b"\\u", b"\xff", b"null", b"1e999"])
        )
    return bytes(line)


def receive_anything(frame):
    state = waiting(3)
    state.abandon(3)
    receive(state, line_of(id="a", method="m"))
    before = state.junk.total()
    message = receive(state, frame)
    assert isinstance(message, EVENTS)
    if isinstance(message, Reply):
        assert message.token in ("t1", "t2")
        assert (message.result is None) != (message.error is None)
        assert isinstance(message.error, errors.RpcError | errors.RemoteProtocolError | None)
        assert state.pending == 1
    else:
        assert state.pending == 2
    unread = isinstance(message, ServerRequest) and message.params is None
    counted = unread or isinstance(message, Junk | LateReply) or isinstance(frame, OversizeLine)
    assert state.junk.total() - before == counted
    if isinstance(message, Junk):
        assert len(message.head) <= OVERSIZE_HEAD_BYTES
    if isinstance(message, ServerRequest):
        assert state.respond(message.id, None) is not None
    return message


@given(st.binary(max_size=200) | mutated_lines())
def test_any_bytes_produce_one_event_and_at_most_one_answer(line):
    receive_anything(line)


@given(json_values | envelopes)
def test_any_json_produces_one_event_and_at_most_one_answer(value):
    receive_anything(json.dumps(value).encode())


@given(st.binary(max_size=200) | mutated_lines() | envelopes.map(lambda value: json.dumps(value).encode()))
def test_any_head_of_a_line_beyond_the_bound_produces_one_event_and_at_most_one_answer(head):
    receive_anything(OversizeLine(head, LIMIT + 1))


@given(st.lists(st.binary(max_size=30) | mutated_lines(), max_size=5), st.integers(5, 100))
def test_any_stream_produces_events(pieces, limit):
    lines, state = LineBuffer(limit), waiting(3)
    for frame in lines.feed(b"\n".join(pieces)):
        assert isinstance(receive(state, frame), EVENTS)
    if (rest := lines.feed_eof()) is not None:
        assert receive(state, rest).kind is JunkKind.TRUNCATED


@pytest.mark.parametrize("start", [b'{"id":1,"result":', b'{"method":"m","emittedAtMs":"x","params":', b""])
def test_any_nesting_depth_produces_an_event(start):
    for depth in range(0, 1100, 7):
        line = start + b"[" * depth + b"]" * depth + (b"}" if start else b"")
        receive_anything(line)


# -- a model of the state ---------------------------------------------------------------------------------------------


class Rpc(RuleBasedStateMachine):
    """Compare the state with a model: pending requests, abandoned ones, and open requests from the server."""

    requests = Bundle("requests")
    server_ids = st.integers(0, 3) | st.sampled_from(["0", "a"])

    @initialize()
    def connect(self):
        self.state = RpcState(LIMIT)
        self.tokens = 0
        self.ids = set()
        self.open = {}
        self.abandoned = set()
        self.settled = Counter()
        self.server_open = set()
        self.closed = False
        self.junk = Counter()

    def expect_junk(self, message, kind):
        assert isinstance(message, Junk)
        assert message.kind is kind
        self.junk[kind] += 1

    def expect_answer(self, request_id, message):
        if request_id in self.open:
            assert isinstance(message, Reply)
            assert message.token == self.open.pop(request_id)
            self.settled[message.token] += 1
        elif request_id in self.abandoned:
            self.abandoned.discard(request_id)
            assert isinstance(message, LateReply)
            assert message.token == request_id
            self.expect_junk(message.junk, JunkKind.LATE_REPLY)
        else:
            self.expect_junk(message, JunkKind.STRAY_REPLY)
        return message

    @rule(target=requests, params=json_values)
    def issue(self, params):
        self.tokens += 1
        if self.closed:
            with pytest.raises(errors.ConnectionClosed):
                self.state.request("m", params, self.tokens)
            return 0
        request_id, line = self.state.request("m", params, self.tokens)
        assert request_id not in self.ids
        self.ids.add(request_id)
        assert json.loads(line)["id"] == request_id
        self.open[request_id] = self.tokens
        return request_id

    @rule()
    def issue_a_value_that_is_not_json(self):
        with pytest.raises(errors.ConnectionClosed if self.closed else errors.LocalProtocolError):
            self.state.request("m", {"a": object()}, "never")

    @rule(request_id=requests, result=json_values)
    def answer(self, request_id, result):
        reply = self.expect_answer(request_id, receive(self.state, line_of(id=request_id, result=result)))
        assert isinstance(reply, Junk) or reply.error is None

    @rule(request_id=requests, code=st.integers())
    def answer_with_an_error(self, request_id, code):
        error = {"code": code, "message": "x"}
        reply = self.expect_answer(request_id, receive(self.state, line_of(id=request_id, error=error)))
        assert isinstance(reply, Junk) or reply.error.code == code

    @rule(request_id=requests)
    def answer_with_both(self, request_id):
        line = line_of(id=request_id, result=1, error={"code": 1, "message": "x"})
        reply = self.expect_answer(request_id, receive(self.state, line))
        assert isinstance(reply, Junk) or isinstance(reply.error, errors.InvalidMessage)

    @rule(request_id=requests)
    def answer_beyond_the_bound(self, request_id):
        message = receive(self.state, OversizeLine(b'{"id":%d,"result":' % request_id, LIMIT + 1))
        self.junk[JunkKind.TOO_LONG] += 1
        if request_id in self.open:
            assert message.token == self.open.pop(request_id)
            self.settled[message.token] += 1
            assert isinstance(message.error, errors.FrameTooLong)
        else:
            assert message.kind is JunkKind.TOO_LONG

    @rule(request_id=requests)
    def forget(self, request_id):
        self.state.forget(request_id)
        if (token := self.open.pop(request_id, None)) is not None:
            self.settled[token] += 1

    @rule(request_id=consumes(requests))
    def abandon(self, request_id):
        self.state.abandon(request_id)
        if (token := self.open.pop(request_id, None)) is not None:
            self.settled[token] += 1
            self.abandoned.add(request_id)

    @rule(request_id=requests)
    def answer_an_abandoned_request_twice(self, request_id):
        self.abandon(request_id)
        self.answer(request_id, None)
        self.answer(request_id, None)

    @rule(server_id=server_ids, too_long=st.booleans())
    def server_request(self, server_id, too_long):
        line = line_of(id=server_id, method="ask", params={})
        message = receive(self.state, OversizeLine(line, LIMIT + 1) if too_long else line)
        if self.closed or server_id in self.server_open:
            assert message.kind is JunkKind.DUPLICATE_REQUEST
            self.junk[JunkKind.DUPLICATE_REQUEST] += 1
        else:
            self.junk[JunkKind.TOO_LONG] += too_long
            assert message.id == server_id
            self.server_open.add(server_id)

    def expect_one_answer(self, server_id, line):
        assert (line is not None) == (server_id in self.server_open)
        self.server_open.discard(server_id)
        assert line is None or json.loads(line)["id"] == server_id

    @rule(server_id=server_ids, result=json_values)
    def respond(self, server_id, result):
        self.expect_one_answer(server_id, self.state.respond(server_id, result))

    @rule(server_id=server_ids)
    def respond_with_a_value_that_is_not_json(self, server_id):
        if server_id in self.server_open:
            with pytest.raises(errors.LocalProtocolError):
                self.state.respond(server_id, object())
        else:
            assert self.state.respond(server_id, object()) is None

    @rule(server_id=server_ids)
    def refuse(self, server_id):
        self.expect_one_answer(server_id, self.state.refuse(server_id, -32601, "no"))

    @rule(server_id=server_ids)
    def withdraw(self, server_id):
        assert self.state.withdraw(server_id) == (server_id in self.server_open)
        self.server_open.discard(server_id)

    @rule()
    def notification(self):
        assert isinstance(receive(self.state, b'{"method":"m","params":{"id":1}}'), Notification)

    @rule(
        junk=st.sampled_from(
            [
                (b"x", JunkKind.NOT_JSON),
                (b"", JunkKind.NOT_JSON),
                (b"[]", JunkKind.NOT_JSON_RPC),
                (b'{"id":null,"method":"m"}', JunkKind.NOT_JSON_RPC),
                (TruncatedLine(b'{"id":1,', 8), JunkKind.TRUNCATED),
            ]
        )
    )
    def junk_line(self, junk):
        frame, kind = junk
        self.expect_junk(receive(self.state, frame), kind)

    @rule()
    def close(self):
        tokens = self.state.close()
        assert tokens == list(self.open.values())
        self.settled.update(tokens)
        self.open.clear()
        self.server_open.clear()
        self.closed = True

    @invariant()
    def the_model_agrees(self):
        if not hasattr(self, "state"):
            return
        assert self.state.pending == len(self.open)
        assert self.state.server_requests == self.server_open
        assert not self.settled or max(self.settled.values()) == 1
        assert not self.settled.keys() & set(self.open.values())
        assert self.state.junk == self.junk
        if self.closed:
            assert self.state.pending == 0


TestRpc = Rpc.TestCase


# -- batches of lines --------------------------------------------------------------------------------------------

LINES = st.sampled_from(
    [
        line_of(method="m"), line_of(method="n", params=[1]), line_of(method="m", emittedAtMs="x"), line_of(id=1, result=1),
        line_of(id=1, method="ask"), line_of(id=None, method="m"), line_of(id="x", error={}), b"junk", b"", b"[]",
        OversizeLine(b'{"method":"big","params":"x', 20_000), TruncatedLine(b"{", 1), b'{"method":"deep","params":' + b"[" * 2000,
    ]
)  # fmt: skip


def said(message):
    params = getattr(message, "params", None)
    return re.sub("at 0x[0-9a-f]+", "", repr(message)), params and bytes(params)


@given(LINES.filter(lambda line: isinstance(line, bytes)))
def test_a_line_in_a_bytearray_is_read_like_one_in_bytes(line):
    one, other = waiting(), waiting()
    assert said(receive(one, bytearray(line))) == said(receive(other, line))
    assert one.junk == other.junk


@given(st.lists(LINES, max_size=12))
def test_lines_received_together_are_read_as_if_received_one_by_one(lines):
    together, one_by_one = waiting(), waiting()
    messages = list(together.receive(lines))
    rows = [message for message in messages if isinstance(message, list)]
    assert all(rows)
    flat = [
        single for message in messages for single in (message if isinstance(message, list) else [message])
    ]
    assert list(map(said, flat)) == [said(receive(one_by_one, line)) for line in lines]
    assert together.junk == one_by_one.junk
