"""JSON-RPC without I/O: parsing lines, tracking request ids, and mapping errors."""

import json
import pickle

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.rpc_lines import LIMIT, json_values, line_of, receive, waiting
from trio_codex import errors
from trio_codex._core import rpc as _rpc
from trio_codex._core.framing import OVERSIZE_HEAD_BYTES, OversizeLine, TruncatedLine
from trio_codex._core.rpc import (
    Junk,
    JunkKind,
    LateReply,
    Notification,
    OversizeNotification,
    Reply,
    RpcState,
    ServerRequest,
    read_head,
    rpc_error,
)

# -- requests to the server ----------------------------------------------------------------------------------------------


def test_a_request_is_one_line_with_its_id_and_always_has_params():
    state = RpcState(LIMIT)
    request_id, line = state.request("thread/read", {"a": [1]}, "token")
    assert json.loads(line) == {"id": request_id, "method": "thread/read", "params": {"a": [1]}}
    request_id, line = state.request("thread/list", None, "token")
    assert json.loads(line) == {"id": request_id, "method": "thread/list", "params": {}}
    assert b"\n" not in line
    assert state.pending == 2


@pytest.mark.parametrize("params", [0, False, "", [], {}])
def test_falsy_params_are_sent_unchanged(params):
    assert json.loads(RpcState(LIMIT).request("m", params, "t")[1])["params"] == params


def test_a_request_that_cannot_be_encoded_is_not_registered_and_uses_no_id():
    state = RpcState(LIMIT)
    with pytest.raises(errors.LocalProtocolError):
        state.request("m", object(), "t")
    assert state.pending == 0
    assert state.request("m", None, "t")[0] == 1


def test_a_client_notification_has_params_only_if_they_are_given():
    state = RpcState(LIMIT)
    assert json.loads(state.notification("initialized")) == {"method": "initialized"}
    assert json.loads(state.notification("x", {})) == {"method": "x", "params": {}}
    assert state.pending == 0


def test_a_result_is_returned_raw_with_the_token_of_its_request():
    state = waiting(2)
    reply = receive(state, line_of(id=2, result={"a": 1}))
    assert (reply.token, reply.method, reply.error) == ("t2", "thread/read", None)
    assert isinstance(reply.result, msgspec.Raw)
    assert json.loads(bytes(reply.result)) == {"a": 1}
    assert state.pending == 1


@pytest.mark.parametrize("result", [None, 0, False, "", [], {}])
def test_a_falsy_result_is_a_result(result):
    reply = receive(waiting(), line_of(id=1, result=result))
    assert reply.error is None
    assert json.loads(bytes(reply.result)) == result


def test_a_second_answer_to_a_request_is_stray():
    state = waiting()
    assert isinstance(receive(state, line_of(id=1, result=1)), Reply)
    second = receive(state, line_of(id=1, result=2))
    assert isinstance(second, Junk)
    assert second.kind is JunkKind.STRAY_REPLY


def test_the_first_answer_to_an_abandoned_request_is_late_and_the_next_is_stray():
    state = waiting()
    state.abandon(1)
    assert state.pending == 0
    late = receive(state, line_of(id=1, error={"code": 1, "message": "x"}))
    assert (late.token, type(late.error), late.junk.kind) == ("t1", errors.RpcError, JunkKind.LATE_REPLY)
    assert receive(state, line_of(id=1, result=1)).kind is JunkKind.STRAY_REPLY
    assert state.junk == {JunkKind.LATE_REPLY: 1, JunkKind.STRAY_REPLY: 1}


def test_an_answer_to_a_request_that_was_never_written_is_stray():
    state = waiting()
    state.forget(1)
    state.forget(1)
    assert state.pending == 0
    assert receive(state, line_of(id=1, result=1)).kind is JunkKind.STRAY_REPLY


def test_abandoning_an_unknown_request_has_no_effect():
    state = waiting()
    state.abandon(7)
    assert receive(state, line_of(id=7, result=1)).kind is JunkKind.STRAY_REPLY


def test_the_number_of_remembered_abandoned_ids_is_bounded():
    count = _rpc.ABANDONED_IDS_KEPT + 1
    state = waiting(count)
    for request_id in range(1, count + 1):
        state.abandon(request_id)
    assert receive(state, line_of(id=1, result=1)).kind is JunkKind.STRAY_REPLY
    assert isinstance(receive(state, line_of(id=2, result=1)), LateReply)
    assert isinstance(receive(state, line_of(id=count, result=1)), LateReply)


def test_a_response_with_a_string_id_belongs_to_no_request():
    state = waiting()
    assert receive(state, line_of(id="1", result=1)).kind is JunkKind.STRAY_REPLY
    assert state.pending == 1


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"id": 1}, errors.InvalidMessage),
        ({"id": 1, "result": 1, "error": {"code": 1, "message": "x"}}, errors.InvalidMessage),
        ({"id": 1, "result": None, "error": None}, errors.InvalidMessage),
        ({"id": 1, "error": None}, errors.InvalidMessage),
        ({"id": 1, "error": "x"}, errors.InvalidMessage),
        ({"id": 1, "error": [1]}, errors.InvalidMessage),
        ({"id": 1, "error": {}}, errors.InvalidMessage),
        ({"id": 1, "error": {"code": 1}}, errors.InvalidMessage),
        ({"id": 1, "error": {"message": "x"}}, errors.InvalidMessage),
        ({"id": 1, "error": {"code": "1", "message": "x"}}, errors.InvalidMessage),
        ({"id": 1, "error": {"code": True, "message": "x"}}, errors.InvalidMessage),
        ({"id": 1, "error": {"code": 1.5, "message": "x"}}, errors.InvalidMessage),
        ({"id": 1, "error": {"code": 1, "message": None}}, errors.InvalidMessage),
        ({"id": 1, "error": {"code": 1, "message": "x"}}, errors.RpcError),
        ({"id": 1, "emittedAtMs": "x", "error": {"code": 1, "message": "x"}}, errors.RpcError),
    ],
)
def test_an_invalid_response_fails_only_its_request(members, kind):
    state = waiting(2)
    reply = receive(state, line_of(**members))
    assert isinstance(reply, Reply)
    assert (reply.token, reply.result) == ("t1", None)
    assert type(reply.error) is kind
    assert reply.error.method == "thread/read"
    assert state.pending == 1
    assert not state.junk


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":1,"result":',
        b'{"id":1,"result":{"a":"\x01"}',
        b'{"id":1,"error":{"code":1,"message":"\\ud800"}}',
        b'{"id":1,"result":"\\ud800"}',
        b'{"id":1,"error":{"code":1,"message":"\xff"}}',
        b'{"id":1,"result":1}}',
        b'{"id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id":1,"error":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"id":1,"result":1,"emittedAtMs":1e999}',
    ],
    ids=lambda line: repr(line[:40]),
)
def test_an_unreadable_answer_fails_its_request_with_a_documented_error(line):
    state = waiting(2)
    reply = receive(state, line)
    assert (reply.token, reply.result) == ("t1", None)
    assert type(reply.error) is errors.InvalidMessage
    assert state.pending == 1


def test_an_unreadable_line_that_is_not_a_response_is_junk_and_its_head_is_kept():
    state = waiting()
    line = b"Thread 'main' panicked " + b"x" * OVERSIZE_HEAD_BYTES
    junk = receive(state, line)
    assert junk == Junk(JunkKind.NOT_JSON, line[:OVERSIZE_HEAD_BYTES], len(line))
    assert receive(state, b'{"id":99,"result":').kind is JunkKind.NOT_JSON
    assert state.pending == 1
    assert state.junk[JunkKind.NOT_JSON] == 2


def test_an_unreadable_server_request_is_reported_and_does_not_fail_a_client_request_with_its_id():
    state = waiting()
    assert receive(state, b'{"id":1,"method":"ask","params":{"a') == ServerRequest(1, "ask", None)
    assert state.junk[JunkKind.NOT_JSON] == 1
    assert state.pending == 1
    assert receive(state, b'{"id":1,"method":"ask","params":{"a').kind is JunkKind.DUPLICATE_REQUEST


# -- messages from the server -----------------------------------------------------------------------------------------


def test_a_notification_keeps_its_params_raw():
    message = receive(RpcState(LIMIT), b'{"method":"turn/started","params":{"a" :1},"emittedAtMs":12.5}')
    assert isinstance(message, Notification)
    assert (message.method, message.emitted_at) == ("turn/started", 12.5)
    assert bytes(message.params) == b'{"a" :1}'


def test_a_notification_without_params_has_empty_params():
    message = receive(RpcState(LIMIT), b'{"method":"m"}')
    assert bytes(message.params) == b""
    assert message.emitted_at is None


@pytest.mark.parametrize("emitted", ["x", [], {}, True, None])
def test_a_notification_with_an_invalid_time_is_still_a_notification(emitted):
    message = receive(RpcState(LIMIT), line_of(method="m", params=[1], emittedAtMs=emitted))
    assert isinstance(message, Notification)
    assert message.emitted_at is None
    assert json.loads(bytes(message.params)) == [1]


def test_an_invalid_id_is_junk_and_an_invalid_time_is_ignored():
    message = receive(RpcState(LIMIT), line_of(method="m", id=[], emittedAtMs=5))
    assert message.kind is JunkKind.NOT_JSON_RPC
    state = waiting()
    reply = receive(state, line_of(id=1, result=[2], emittedAtMs="x"))
    assert json.loads(bytes(reply.result)) == [2]


@pytest.mark.parametrize("request_id", [0, 1, -1, 2**63, "", "0", "abc", "ü", 10**30])
def test_a_server_request_keeps_its_id_unchanged_and_is_answered_once(request_id):
    state = RpcState(LIMIT)
    message = receive(state, line_of(id=request_id, method="item/tool/call", params={"a": 1}))
    assert isinstance(message, ServerRequest)
    assert (message.id, message.method) == (request_id, "item/tool/call")
    assert type(message.id) is type(request_id)
    assert state.server_requests == {request_id}
    line = state.respond(request_id, {"ok": None})
    assert json.loads(line) == {"id": request_id, "result": {"ok": None}}
    assert state.server_requests == frozenset()
    assert state.respond(request_id, 1) is None
    assert state.refuse(request_id, 1, "x") is None
    assert not state.withdraw(request_id)


def test_a_server_request_can_be_refused():
    state = RpcState(LIMIT)
    receive(state, line_of(id=0, method="m"))
    assert json.loads(state.refuse(0, -32601, "no")) == {"id": 0, "error": {"code": -32601, "message": "no"}}
    assert state.respond(0, 1) is None


def test_a_withdrawn_server_request_gets_no_answer():
    state = RpcState(LIMIT)
    receive(state, line_of(id="a", method="m"))
    assert state.withdraw("a")
    assert not state.withdraw("a")
    assert state.respond("a", 1) is None
    assert state.refuse("a", 1, "x") is None


def test_an_answer_that_cannot_be_encoded_leaves_the_server_request_open():
    state = RpcState(LIMIT)
    receive(state, line_of(id=0, method="m"))
    with pytest.raises(errors.LocalProtocolError):
        state.respond(0, object())
    assert state.server_requests == {0}
    assert state.respond(0, None) is not None


def test_a_second_server_request_with_an_open_id_is_junk_and_the_first_stays_open():
    state = RpcState(LIMIT)
    receive(state, line_of(id=0, method="first"))
    second = line_of(id=0, method="second")
    assert receive(state, second) == Junk(JunkKind.DUPLICATE_REQUEST, second, len(second))
    assert state.respond(0, 1) is not None
    assert isinstance(receive(state, second), ServerRequest)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"id": None},
        {"id": None, "method": "m"},
        {"id": None, "result": 1},
        {"id": True, "method": "m"},
        {"id": 1.5, "method": "m"},
        {"id": [1], "method": "m"},
        {"id": {}, "result": 1},
        {"method": 5},
        {"method": {"a": 1}, "id": 1},
        {"result": 1},
        {"error": {"code": 1, "message": "x"}},
        {"method": None},
    ],
)
def test_json_that_is_not_a_message_is_junk(members):
    state = waiting()
    line = line_of(**members)
    assert receive(state, line) == Junk(JunkKind.NOT_JSON_RPC, line, len(line))
    assert state.pending == 1
    assert state.server_requests == frozenset()


@pytest.mark.parametrize("line", [b"1", b"null", b"[]", b'"x"', b"true", b'[{"id":1,"result":1}]'])
def test_json_that_is_not_an_object_is_junk(line):
    state = waiting()
    assert receive(state, line) == Junk(JunkKind.NOT_JSON_RPC, line, len(line))


def test_junk_has_a_bounded_head_and_its_full_size():
    line = b"[" + b"1," * 5000 + b"1]"
    assert receive(RpcState(LIMIT), line) == Junk(
        JunkKind.NOT_JSON_RPC, line[:OVERSIZE_HEAD_BYTES], len(line)
    )


def test_a_line_truncated_by_the_end_of_the_stream_is_junk():
    state = waiting()
    junk = receive(state, TruncatedLine(b'{"id":1,"resu', 13))
    assert junk == Junk(JunkKind.TRUNCATED, b'{"id":1,"resu', 13)
    assert state.pending == 1


# -- lines beyond the bound ----------------------------------------------------------------------------------------


def test_an_answer_beyond_the_bound_fails_only_its_request():
    state = waiting(2, "fs/readFile")
    reply = receive(state, OversizeLine(b'{"id":1,"result":{"dataBase64":"xxxx', 20_000))
    assert (reply.token, reply.method, reply.result) == ("t1", "fs/readFile", None)
    assert type(reply.error) is errors.FrameTooLong
    assert (reply.error.method, reply.error.size, reply.error.limit) == ("fs/readFile", 20_000, LIMIT)
    assert state.pending == 1
    assert state.junk == {JunkKind.TOO_LONG: 1}


def test_a_server_request_beyond_the_bound_can_still_be_answered():
    state = RpcState(LIMIT)
    message = receive(state, OversizeLine(b'{"method":"item/tool/call","id":0,"params":{"a":"x', 20_000))
    assert message == ServerRequest(0, "item/tool/call", None)
    assert state.server_requests == {0}
    assert state.refuse(0, 1, "too long") is not None


def test_a_duplicate_server_request_beyond_the_bound_is_one_junk_line_with_its_size():
    state = RpcState(LIMIT)
    receive(state, line_of(id=0, method="m"))
    head = b'{"method":"m","id":0,"params":{"a":"x'
    assert receive(state, OversizeLine(head, 20_000)) == Junk(JunkKind.DUPLICATE_REQUEST, head, 20_000)
    assert state.junk.total() == 1


def test_a_notification_beyond_the_bound_is_reported_with_its_head():
    head = b'{"method":"turn/completed","params":{"threadId":"a'
    message = receive(RpcState(LIMIT), OversizeLine(head, 20_000))
    assert message == OversizeNotification("turn/completed", head, 20_000)


@pytest.mark.parametrize("head", [b"", b"x", b'{"id":99,"result":', b'{"params":{"id":1,"method":"m"', b"{"])
def test_any_other_line_beyond_the_bound_is_junk(head):
    state = waiting()
    assert receive(state, OversizeLine(head, 20_000)) == Junk(JunkKind.TOO_LONG, head, 20_000)
    assert state.pending == 1
    assert state.junk == {JunkKind.TOO_LONG: 1}


@given(
    st.one_of(st.integers(-(2**62), 2**62), st.text(max_size=20)),
    st.text(max_size=20),
    st.booleans(),
    st.dictionaries(st.sampled_from(["id", "method", "x"]), st.text() | st.integers(), min_size=1),
    st.integers(0, 50),
)
def test_id_and_method_are_read_from_any_head_that_contains_them_and_never_from_params(
    request_id, method, id_first, params, cut
):
    leading = {"id": request_id, "method": method} if id_first else {"method": method, "id": request_id}
    line = json.dumps({**leading, "params": params}, ensure_ascii=False).encode()
    start = line.index(b'"params"')
    head = line[: max(start, len(line) - cut)]
    assert read_head(head) == (request_id, method)
    assert read_head(line[start - 1 :]) == (None, None)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
@example(b'{"id":"\x01"')
@example(b'{"id":"\xff"')
@example(b'{"id":01,')
@example(b'{"id":12')
@example(b'{"id":123456789012345678901234567890,')
@example(b'{"id":true,"method":"m",')
def test_any_head_is_read_without_an_exception(head):
    request_id, method = read_head(head)
    assert request_id is None or type(request_id) in (int, str)
    assert method is None or type(method) is str


def test_a_truncated_number_is_not_taken_for_an_id():
    assert read_head(b'{"id":12') == (None, None)
    assert read_head(b'{"id":12,') == (12, None)
    assert read_head(b'{"id":12}') == (12, None)
    assert read_head(b'{"id":"a') == (None, None)


# -- errors --------------------------------------------------------------------------------------------------------

CLASSES = {
    -32700: errors.ParseError,
    -32600: errors.InvalidRequestError,
    -32601: errors.MethodNotFoundError,
    -32602: errors.InvalidParamsError,
    -32603: errors.InternalRpcError,
    -32001: errors.ServerBusyError,
}


@given(
    st.sampled_from(sorted(CLASSES)) | st.integers(-33000, -31900) | st.integers(),
    st.text(),
    st.just(...) | json_values,
)
@example(-32001, "Server overloaded; retry later.", ...)
@example(0, "", 0)
def test_the_code_alone_determines_the_error_class(code, message, data):
    error = {"code": code, "message": message} | ({} if data is ... else {"data": data})
    reply = receive(waiting(), line_of(id=1, error=error))
    expected = None if data is ... else json.loads(json.dumps(data))
    exc = reply.error
    assert type(exc) is CLASSES.get(code, errors.RpcError)
    assert (exc.code, exc.message, exc.method) == (code, message, "thread/read")
    assert exc.data == expected
    again = pickle.loads(pickle.dumps(exc))
    assert type(again) is type(exc)
    assert again.args == exc.args


@given(st.sampled_from(["retry limit", "Retry Limit", "too many failed attempts"]), json_values)
def test_an_overload_that_exhausted_the_servers_retries_is_recognized_by_its_text(text, data):
    for code in (-32000, -32001, -32099):
        assert type(rpc_error(code, f"exceeded {text}", data)) is errors.RetryLimitExceededError
    for code in (-31999, -32100, -32603):
        assert type(rpc_error(code, text, data)) is CLASSES.get(code, errors.RpcError)


def test_a_thread_open_in_another_server_is_recognized_by_the_text_of_the_refusal():
    text = "thread 01a1 already has an active writer"
    assert type(rpc_error(-32600, text, None, "thread/resume")) is errors.ThreadInUse
    assert type(rpc_error(-32603, text)) is errors.InternalRpcError
    assert type(rpc_error(-32600, "thread not found")) is errors.InvalidRequestError


def test_a_method_that_the_server_does_not_know_is_recognized_by_its_name_in_the_refusal():
    message = "Invalid request: unknown variant `memory/reset`, expected one of `initialize`, `thread/start`"
    exc = rpc_error(-32600, message, None, "memory/reset")
    assert type(exc) is errors.UnsupportedMethod
    assert (exc.code, exc.method) == (-32600, "memory/reset")
    assert type(rpc_error(-32600, message, None, "thread/start")) is errors.InvalidRequestError
    assert type(rpc_error(-32600, message)) is errors.InvalidRequestError
    assert type(rpc_error(-32602, message, None, "memory/reset")) is errors.InvalidParamsError


# -- the end -------------------------------------------------------------------------------------------------------


def test_closing_returns_pending_tokens_once_and_refuses_new_requests():
    state = waiting(3)
    receive(state, line_of(id=0, method="m"))
    receive(state, line_of(id=2, result=1))
    assert state.close() == ["t1", "t3"]
    assert state.close() == []
    assert state.pending == 0
    assert state.server_requests == frozenset()
    assert state.respond(0, 1) is None
    with pytest.raises(errors.ConnectionClosed):
        state.request("m", None, "t")
    assert isinstance(receive(state, line_of(id=1, result=1)), Junk)
    assert isinstance(receive(state, line_of(id=5, method="m")), Junk)
    assert isinstance(receive(state, line_of(method="m")), Notification)
