"""The error tree: its shape, its fields, messages and pickling."""

import copy
import pickle
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_codex import errors, wire
from trio_codex._values.turn_result import TurnResult, TurnStatus
from trio_codex._values.usage import TokenUsage
from trio_codex.errors import CodexError

RESULT = TurnResult(
    id="turn-1",
    thread_id="thread-1",
    status=TurnStatus.failed,
    error=wire.TurnError(message="the model is down"),
    final_response="so far",
)

SAMPLES = {
    errors.CodexError: {},
    errors.StartError: {
        "problem": "it did not come up",
        "phase": "handshake",
        "hint": "install it",
        "binary": "/bin/codex",
        "version": "0.163.0",
        "returncode": 3,
        "stderr_tail": "oh no\n",
    },
    errors.SpawnError: {"problem": "no such file"},
    errors.StartTimeout: {"problem": "too slow", "phase": "handshake", "stderr_tail": "busy"},
    errors.AttachError: {"problem": "refused with HTTP status 401", "hint": "Pass auth=…", "status": 401},
    errors.ConnectionClosed: {},
    errors.ConnectionBroken: {
        "reason": "it went away",
        "phase": "close",
        "pid": 77,
        "returncode": -9,
        "stderr_tail": "last words\n",
    },
    errors.ServerExited: {"reason": "it exited", "pid": 1, "returncode": 0},
    errors.RequestTimeout: {"method": "thread/read", "seconds": 0.5},
    errors.FaceError: {},
    errors.ProtocolError: {},
    errors.LocalProtocolError: {},
    errors.RemoteProtocolError: {},
    errors.FrameTooLong: {"method": "fs/readFile", "size": 11, "limit": 10},
    errors.InvalidMessage: {"method": "thread/read", "problem": "no result"},
    errors.DecodeError: {"what": "Turn", "path": "$.turn.id", "problem": "expected str"},
    errors.ServerTooOld: {"what": "source", "needed": "0.151.0", "found": "0.150.2"},
    errors.RpcError: {"code": 5, "message": "no", "data": {"a": [1, None]}, "method": "thread/read"},
    errors.ParseError: {"code": -32700, "message": "no"},
    errors.InvalidRequestError: {"code": -32600, "message": "no"},
    errors.UnsupportedMethod: {"code": -32600, "message": "unknown variant `x`", "method": "x"},
    errors.ThreadInUse: {"code": -32600, "message": "thread x already has an active writer", "method": "x"},
    errors.MethodNotFoundError: {"code": -32601, "message": "no"},
    errors.InvalidParamsError: {"code": -32602, "message": "no"},
    errors.InternalRpcError: {"code": -32603, "message": "no"},
    errors.ServerBusyError: {"code": -32001, "message": "overloaded"},
    errors.RetryLimitExceededError: {"code": -32001, "message": "retry limit", "data": 0},
    errors.TurnError: {},
    errors.TurnFailed: {"result": RESULT},
    errors.TurnLost: {"reason": "the server died", "result": RESULT},
    errors.TurnActive: {"thread_id": "thread-1", "turn_id": "turn-1"},
    errors.NoTurnRuns: {"thread_id": "thread-1"},
    errors.TurnStalled: {"thread_id": "thread-1", "turn_id": "turn-1", "waiting_on": "model", "seconds": 1.5},
    errors.BudgetExceeded: {
        "carrier": "turn",
        "limit": "tokens",
        "allowed": 100,
        "used": 115,
        "usage": TokenUsage(input_tokens=100, output_tokens=15, total_tokens=115),
        "result": RESULT,
    },
    errors.ThreadClosed: {"thread_id": "thread-1"},
    errors.PolicyError: {"method": "item/tool/call", "problem": "ValueError: x"},
    errors.RequestSettled: {"kind": "command", "thread_id": "thread-1", "turn_id": "turn-1"},
    errors.RequestWithdrawn: {"kind": "command", "thread_id": "thread-1", "turn_id": "turn-1"},
    errors.RequestAnswered: {"kind": "command", "thread_id": "thread-1", "turn_id": "turn-1"},
    errors.OutputError: {"text": "{", "problem": "not JSON"},
    errors.SubscriptionOverflow: {"events": 8193, "size": 12345},
    errors.InternalError: {},
    errors.SupervisionError: {},
    errors.RestartLimitExceeded: {
        "problem": "more than 10 restarts within 300 s",
        "exits": ["the server exited"],
    },
    errors.KeyConflict: {"name": "notes", "key": "plan"},
    errors.ThreadGone: {"name": "notes", "thread_id": "thread-1", "problem": "it was deleted"},
    errors.HistoryLost: {
        "name": "notes",
        "thread_id": "thread-1",
        "key": "plan",
        "problem": "its turn is missing",
    },
    errors.TurnInterrupted: {"key": "plan", "result": RESULT},
    errors.ThreadQuarantined: {"name": "notes", "deaths": 4},
    errors.BatchError: {},
    errors.BatchConflict: {"path": "runs/1", "differences": ("on_death was fresh and is now continue",)},
    errors.MergeConflict: {"path": "runs/2", "differences": ("task 'a' differs from the one in runs/1",)},
    errors.BatchStopped: {"problem": "the usage limit is reached", "left": 3},
    errors.ShardFailed: {"problem": "ValueError: no"},
    errors.JournalError: {"path": "a.db", "problem": "cannot be written", "hint": "Free some disk space."},
    errors.JournalInUse: {"path": "a.db", "problem": "is in use", "hint": "End the other supervisor."},
}

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, CodexError)
]

every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def test_there_is_a_sample_of_every_class():
    assert set(SAMPLES) == set(CLASSES)


def test_the_tree_in_the_docstring_matches_the_classes():
    drawn, path = {}, []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line):
            depth = len(match[1]) // 3
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {cls.__name__: cls.__base__.__name__ for cls in CLASSES}


@every_class
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_a_pickle_round_trip_with_its_type_and_fields(cls, protocol):
    error = cls(**SAMPLES[cls])
    error.add_note("and so on")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is cls
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert again.__notes__ == ["and so on"]
    assert str(again) == str(error)


@every_class
def test_every_error_can_be_copied(cls):
    error = cls(**SAMPLES[cls])
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert again.args == error.args
        assert vars(again) == vars(error)


@every_class
def test_every_error_is_equal_only_to_itself(cls):
    error, other = cls(**SAMPLES[cls]), cls(**SAMPLES[cls])
    assert error == error
    assert error != other
    assert len({error, other}) == 2


@every_class
def test_every_error_has_a_readable_message(cls):
    error = cls(**SAMPLES[cls])
    text = str(error)
    assert "object at 0x" not in text
    for name in ("problem", "reason", "message", "method", "phase", "stderr_tail", "hint", "path"):
        if value := SAMPLES[cls].get(name):
            assert value.strip() in text


@every_class
def test_every_error_can_be_raised_from_a_cause_and_keeps_it(cls):
    cause = OSError(2, "no")
    with pytest.raises(cls) as caught:
        raise cls(**SAMPLES[cls]) from cause
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("cls", [errors.InternalError, errors.ConnectionClosed, errors.LocalProtocolError])
@given(text=st.text())
def test_the_text_of_an_error_is_unchanged(cls, text):
    error = pickle.loads(pickle.dumps(cls(text)))
    assert error.args == (text,)
    assert str(error) == text or not text


@given(code=st.integers(), message=st.text(), data=st.none() | st.dictionaries(st.text(), st.floats()))
def test_an_rpc_error_keeps_any_code_message_and_data(code, message, data):
    error = errors.RpcError(code, message, data)
    assert (error.code, error.message, error.data, error.method) == (code, message, data, None)
    assert f"({code})" in str(error)


def test_zero_is_a_valid_code_and_valid_data():
    error = errors.RpcError(0, "", 0, "m")
    assert (error.code, error.message, error.data, error.method) == (0, "", 0, "m")


def test_unknown_fields_have_defaults():
    start = errors.StartError("p")
    assert (start.phase, start.hint, start.binary, start.version) == ("spawn", None, None, None)
    assert (start.returncode, start.stderr_tail) == (None, "")
    assert str(start) == "p (phase: spawn)"
    broken = errors.ConnectionBroken("r")
    assert (broken.phase, broken.pid, broken.returncode, broken.stderr_tail) == ("running", None, None, "")
    assert str(broken) == "r (phase: running)"
    assert errors.TurnLost("r").result is None
    assert errors.TurnActive("t").turn_id is None
    assert "starting" in str(errors.TurnActive("t"))
    assert str(errors.ConnectionClosed())


def test_a_start_error_names_the_binary_its_version_and_its_exit_status():
    text = str(errors.StartError(**SAMPLES[errors.StartError]))
    assert text == (
        "it did not come up (phase: handshake; binary: /bin/codex 0.163.0; exit status 3)"
        "\nstderr: oh no\ninstall it"
    )


def test_a_backtrace_does_not_hide_the_cause():
    frames = "".join(
        f"  {number:2}: <unknown>\n             at /src/main.rs:{number}:5\n" for number in range(40)
    )
    tail = f"WARNING: no aliases\nError: CODEX_HOME does not exist\n\nStack backtrace:\n{frames}"
    text = str(errors.StartError("it exited", stderr_tail=tail))
    assert text.splitlines()[1:] == [
        "stderr: WARNING: no aliases",
        "stderr: Error: CODEX_HOME does not exist",
    ]
    assert "<unknown>" in errors.StartError("it exited", stderr_tail=tail).stderr_tail


def test_a_failed_turn_without_an_error_has_a_message():
    assert str(errors.TurnFailed(SimpleNamespace(error=None))) == "the turn failed"
    assert "the model is down" in str(errors.TurnFailed(RESULT))
    assert errors.TurnFailed(RESULT).message == "the model is down"


@every_class
def test_the_repr_of_an_error_shows_its_message_but_not_its_fields(cls):
    error = cls(**SAMPLES[cls])
    assert repr(error) == f"{cls.__name__}({str(error)!r})"
    assert "so far" not in repr(error)


def test_long_server_messages_are_truncated_in_str_but_not_in_the_field():
    message = "x" * 5000
    error = errors.InvalidRequestError(-32600, message)
    assert error.message == message
    assert len(str(error)) < 1000
    assert "5000" in str(error)


def test_the_message_does_not_contain_the_text_that_fails_validation():
    error = errors.OutputError("secret answer", "not an object")
    assert error.text == "secret answer"
    assert "secret" not in str(error)


@given(text=st.text(max_size=30), limit=st.integers(0, 40))
def test_shorten_truncates_and_reports_how_much(text, limit):
    short = errors.shorten(text, limit)
    if len(text) <= limit:
        assert short == text
    else:
        assert short.startswith(f"{text[:limit]}…")
        assert str(len(text)) in short


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exit status 0"),
        (1, "exit status 1"),
        (255, "exit status 255"),
        (-9, "killed by SIGKILL"),
        (-15, "killed by SIGTERM"),
        (-99, "killed by signal 99"),
    ],
)
def test_the_end_of_a_process_is_described_in_words(returncode, words):
    assert errors.describe_exit(returncode) == words


def test_connection_errors_distinguish_who_ended_the_connection():
    assert issubclass(errors.ServerExited, errors.ConnectionBroken)
    assert not issubclass(errors.ConnectionClosed, errors.ConnectionBroken)
    assert not issubclass(errors.RequestTimeout, errors.ConnectionBroken | TimeoutError)


def test_the_deprecated_name_of_hint_still_works_and_warns():
    error = errors.StartError("it is broken", hint="mend it")
    with pytest.warns(DeprecationWarning, match="now called hint"):
        assert error.mend == "mend it"
