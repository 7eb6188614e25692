"""Every fault at every point of a session: the caller gets the documented error in time, and no process is left.

Unit tests cover the same faults layer by layer; here a complete client talks to a server process.
"""

import signal
import sys

import pytest
import trio

from faults.observed_session import configured, left_of, play
from faults.server import ASKED, DRIFT, JUNK, MESSAGE, MESSAGES, POINTS
from trio_codex import TurnStatus, errors, open_codex

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BUDGETS = {"request_timeout": 0.4, "interrupt_grace": 0.2, "stop_grace": 0.3}
"""Short timeouts for servers that have stopped responding."""


@pytest.fixture
def tried(record_property):
    """Record the cell for the summary at the end of the run."""

    def note(fault, phase):
        record_property("fault", fault)
        record_property("phase", phase)

    return note


def cell(*values, slow=False):
    """Return one parameter set, with an id that is easy to read and to type."""
    marks = [pytest.mark.long] if slow else []
    return pytest.param(*values, id=" ".join(map(str, values)).replace(":", "-"), marks=marks)


TOO_LONG = {"oversize", "oversize text", "very deep", "too long", "too deep", "an approval that is too long"}
"""Messages longer than ``max_line_bytes``. A pipe skips the line; a WebSocket connection ends."""


def transports(kinds, *, every_day=False):
    """Parametrize with each kind over a pipe, and over a WebSocket unless it ends the connection."""
    return pytest.mark.parametrize(
        ("kind", "over"),
        [
            *(pytest.param(kind, "pipe", id=f"{kind}-pipe") for kind in kinds),
            *(cell(kind, "websocket", slow=not every_day) for kind in kinds if kind not in TOO_LONG),
        ],
    )


# -- the server dies before, during and after each line ----------------------------------------------------------------

SUDDEN = {
    "exit:0": 0,
    "exit:3": 3,
    **{f"die:{name}": -getattr(signal, f"SIG{name}") for name in ("KILL", "TERM", "INT", "HUP", "SEGV")},
}


def lines_out(moment, point):
    """Return how many complete lines the client receives."""
    return POINTS.index(point) + (moment == "after")


@pytest.mark.parametrize(
    ("fault", "moment", "point"),
    [
        cell(fault, moment, point, slow=fault not in ("exit:3", "die:KILL"))
        for fault in SUDDEN
        for moment in ("before", "during", "after")
        for point in POINTS
    ],
)
async def test_the_death_of_the_server_fails_waiting_calls_with_its_exit_status(fault, moment, point, tried):
    tried(fault, f"{moment} {point}")
    out = lines_out(moment, point)
    seen = await play(fault, moment, point)
    assert seen.opened is (out > 0)
    if out == 0:
        assert type(seen.error) is errors.StartError
        assert (seen.error.phase, seen.error.returncode) == ("handshake", SUDDEN[fault])
        return
    assert type(seen.later) is type(seen.close_reason) is errors.ServerExited
    assert (seen.close_reason.returncode, seen.close_reason.pid, seen.close_reason.phase) == (
        SUDDEN[fault],
        seen.pid,
        "running",
    )
    assert seen.later is not seen.close_reason
    assert seen.later.args == seen.close_reason.args
    if out < 3:  # thread/start or turn/start was not answered
        assert type(seen.error) is errors.ServerExited
        assert seen.error.args == seen.close_reason.args
    elif out < 6:
        assert type(seen.error) is errors.TurnLost
        assert type(seen.error.__cause__) is errors.ServerExited
        assert seen.error.__cause__.args == seen.close_reason.args
        assert seen.error.result.status is TurnStatus.lost
        assert seen.text == (MESSAGE if out == 5 else "")
    else:
        assert seen.error is None
        assert (seen.result.status, seen.text) == (TurnStatus.completed, MESSAGE)


@pytest.mark.parametrize(
    ("over", "moment", "point"),
    [
        cell(over, moment, point, slow=over == "websocket, reset" and moment != "during")
        for over in ("websocket", "websocket, reset")
        for moment in ("before", "during", "after")
        for point in POINTS
    ],
)
async def test_the_end_of_the_connection_fails_waiting_calls(over, moment, point, tried):
    tried("the connection ends", f"{moment} {point}")
    out = lines_out(moment, point)
    seen = await play("exit:0", moment, point, over=over)
    assert seen.opened is (out > 0)
    if out == 0:
        assert type(seen.error) is errors.StartError
        assert seen.error.phase == "connect"
        assert seen.error.hint
        return
    assert type(seen.later) is type(seen.close_reason) is errors.ConnectionBroken
    assert seen.later.args == seen.close_reason.args
    assert "ws://127.0.0.1" in seen.close_reason.reason
    if out < 3:
        assert type(seen.error) is errors.ConnectionBroken
        assert seen.error.args == seen.close_reason.args
    elif out < 6:
        assert type(seen.error) is errors.TurnLost
        assert seen.error.__cause__.args == seen.close_reason.args
        assert seen.error.result.status is TurnStatus.lost
        assert seen.text == (MESSAGE if out == 5 else "")
    else:
        assert seen.error is None
        assert (seen.result.status, seen.text) == (TurnStatus.completed, MESSAGE)


# -- the server goes silent --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "moment", "point"),
    [
        cell(fault, moment, point, slow=moment != "during" or (fault == "mute") is (point != "thread/start"))
        for fault in ("die:STOP", "mute")
        for moment in ("before", "during", "after")
        for point in POINTS
    ],
)
async def test_with_a_silent_server_no_call_exceeds_its_timeout(fault, moment, point, tried):
    tried(fault, f"{moment} {point}")
    out = lines_out(moment, point)
    budgets = BUDGETS | ({"start_timeout": 0.5} if out == 0 else {})
    seen = await play(fault, moment, point, patience=0.5 if 3 <= out < 6 else 5, **budgets)
    if out == 0:
        assert type(seen.error) is errors.StartTimeout
        assert seen.error.returncode is None
    elif out == 1:
        assert type(seen.error) is errors.RequestTimeout
        assert (seen.error.method, seen.error.seconds) == ("thread/start", 0.4)
        assert type(seen.later) is errors.RequestTimeout
    elif out == 2:
        assert type(seen.error) is errors.RequestTimeout
        assert seen.error.method == "turn/start"
        assert type(seen.close_reason) is errors.ConnectionBroken
        assert "turn (starting)" in seen.close_reason.reason
        assert seen.close_reason.pid == seen.pid
    elif out < 6:  # the timeout cancelled the turn, which could not be ended, so the server was killed
        assert seen.error is None
        assert seen.result.status is TurnStatus.lost
        assert seen.text == (MESSAGE if out == 5 else "")
        assert type(seen.close_reason) is errors.ConnectionBroken
        assert "turn-1" in seen.close_reason.reason
        assert seen.close_reason.pid == seen.pid
    else:
        assert seen.error is None
        assert (seen.result.status, seen.text) == (TurnStatus.completed, MESSAGE)
        assert type(seen.later) is errors.RequestTimeout


@pytest.mark.parametrize(
    ("fault", "moment", "point"),
    [
        cell(fault, moment, point, slow=(fault, moment) != ("mute", "during"))
        for fault in ("die:STOP", "mute")
        for moment in ("before", "during", "after")
        for point in POINTS
    ],
)
async def test_with_a_silent_attached_server_no_call_exceeds_its_timeout_and_the_server_survives(
    fault, moment, point, tried
):
    tried(f"{fault}, over a WebSocket", f"{moment} {point}")
    out = lines_out(moment, point)
    budgets = {"request_timeout": 0.4, "interrupt_grace": 0.2}
    budgets |= {"start_timeout": 0.5} if out == 0 else {}
    seen = await play(fault, moment, point, patience=0.5 if 3 <= out < 6 else 5, over="websocket", **budgets)
    assert seen.close_reason is None
    if out == 0:
        assert type(seen.error) is errors.StartTimeout
        return
    assert type(seen.later) is errors.RequestTimeout
    if out < 3:
        assert type(seen.error) is errors.RequestTimeout
        assert seen.error.method == ("thread/start" if out == 1 else "turn/start")
    elif out < 6:
        assert seen.error is None
        assert seen.result.status is TurnStatus.lost
        assert seen.text == (MESSAGE if out == 5 else "")
    else:
        assert seen.error is None
        assert (seen.result.status, seen.text) == (TurnStatus.completed, MESSAGE)


@pytest.mark.parametrize("point", [cell(point, slow=point in ("delta", "turn/started")) for point in POINTS])
async def test_with_a_missing_line_no_call_exceeds_its_timeout(point, tried):
    tried("a missing line", point)
    start_timeout = {"start_timeout": 0.5} if point == "initialize" else {}
    seen = await play("reply:never", "instead", point, patience=1, **BUDGETS, **start_timeout)
    match point:
        case "initialize":
            assert type(seen.error) is errors.StartTimeout
        case "thread/start" | "turn/start":
            # The turn runs to its end, but the client never receives its id.
            assert type(seen.error) is errors.RequestTimeout
            assert seen.error.method == point
        case "turn/started" | "delta":
            assert seen.error is None
            assert seen.result.status is TurnStatus.completed
        case _:
            assert seen.error is None
            assert seen.result.status is TurnStatus.interrupted
    assert seen.close_reason is None


# -- the server is odd, but works ------------------------------------------------------------------------------

HARMLESS = (
    "nothing",
    "slow",
    "pause",
    "stubborn",
    "grandchild:child",
    "grandchild:session",
    "grandchild:daemon",
    *(f"stderr:{kind}" for kind in ("line", "lines", "bytes", "escapes", "nul")),
)
PLACES = (
    "boot",
    "idle",
    *(f"before {point}" for point in POINTS),
    "during delta",
    "during initialize",
    "close",
)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        cell(
            fault,
            where,
            # By default, each fault is injected at one point, and two of them also while the server is closed.
            slow=where != "during delta"
            and not (where == "close" and fault in ("stubborn", "grandchild:daemon")),
        )
        for fault in HARMLESS
        for where in PLACES
    ],
)
async def test_an_odd_but_working_server_completes_the_session_and_is_stopped(fault, where, tried):
    tried(fault, where)
    moment, _, point = where.rpartition(" ")
    seen = await play(fault, moment, point)
    assert seen.error is seen.later is None
    assert (seen.result.status, seen.text) == (TurnStatus.completed, MESSAGE)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        cell(fault, where, slow=where != "during delta")
        for fault in ("nothing", "slow", "pause")
        for where in PLACES
        if (fault, where) != ("pause", "close")  # a suspended server does not see the end of the connection
    ],
)
async def test_an_odd_but_working_attached_server_completes_the_session(fault, where, tried):
    tried(f"{fault}, over a WebSocket", where)
    moment, _, point = where.rpartition(" ")
    seen = await play(fault, moment, point, over="websocket")
    assert seen.error is seen.later is seen.close_reason is None
    assert (seen.result.status, seen.text) == (TurnStatus.completed, MESSAGE)


# -- the server closes one of its streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        cell(fault, where, slow=where in ("idle", "before turn/start") and fault != "orphan:daemon")
        for fault in ("close_stdout", "orphan:child", "orphan:session", "orphan:daemon")
        for where in ("boot", "idle", "before thread/start", "before turn/start", "before delta")
    ],
)
async def test_the_connection_ends_if_stdout_is_closed_or_a_dead_servers_child_holds_it_open(
    fault, where, tried
):
    tried(fault, where)
    moment, _, point = where.rpartition(" ")
    seen = await play(fault, moment, point)
    returncode = -signal.SIGKILL if fault.startswith("orphan") else None
    if where == "boot":
        assert type(seen.error) is errors.StartError
        assert seen.error.returncode == returncode
        return
    death = seen.error.__cause__ if where == "before delta" else seen.error
    assert type(seen.error) is errors.TurnLost or seen.error is death
    assert type(death) is (errors.ConnectionBroken if returncode is None else errors.ServerExited)
    assert (death.pid, death.returncode) == (seen.pid, returncode)
    assert death.args == seen.later.args == seen.close_reason.args


@pytest.mark.parametrize(
    "where",
    [
        cell(where, slow=where in ("before thread/start", "before turn/start"))
        for where in ("boot", "before thread/start", "before turn/start", "before delta")
    ],
)
async def test_a_server_that_closes_its_stdin_is_noticed_at_the_next_write(where, tried):
    tried("close_stdin", where)
    moment, _, point = where.rpartition(" ")
    budgets = {"request_timeout": 1.5, "interrupt_grace": 0.3, "stop_grace": 0.3}
    if where == "boot":
        budgets["start_timeout"] = 0.5
    seen = await play("close_stdin", moment, point, patience=0.5 if where == "before delta" else 5, **budgets)
    if where == "boot":
        assert type(seen.error) is errors.StartTimeout
    elif where == "before delta":
        assert seen.result.status is TurnStatus.lost
    else:
        assert type(seen.error) is errors.RequestTimeout
    if where != "boot":
        assert type(seen.close_reason) is errors.ConnectionBroken
        assert seen.close_reason.pid == seen.pid


# -- the server stops reading during a large write -----------------------------------------------------------


@pytest.mark.parametrize("then", ["closed", "killed"])
async def test_a_large_write_to_a_server_that_does_not_read_blocks_no_other_task(then, tried):
    tried("mute", f"idle, during a write of 8 MB, then {then}")
    config, cookie = configured("mute", "", "idle", **BUDGETS)
    outcomes = []

    async def ask(codex, params):
        try:
            await codex.request("thread/list", params)
        except errors.CodexError as exc:
            outcomes.append(type(exc))

    with trio.fail_after(10):
        async with open_codex(config) as codex, trio.open_nursery() as nursery:
            for params in ({"searchTerm": "x" * 8_000_000}, {}, {}):
                nursery.start_soon(ask, codex, params)
            if then == "killed":
                codex._session.connection._channel.kill()
                death = await codex.wait_closed()
                assert (type(death), death.returncode) == (errors.ServerExited, -signal.SIGKILL)
    expected = errors.ServerExited if then == "killed" else errors.RequestTimeout
    assert outcomes == [expected] * 3
    assert left_of(cookie) == []


# -- the server misbehaves while it is closed ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [*SUDDEN, "die:STOP", "mute", "stubborn", "close_stdout", "orphan:daemon"])
async def test_closing_ends_a_misbehaving_server_without_raising(fault, tried):
    tried(fault, "close")
    seen = await play(fault, "", "close", stop_grace=0.3)
    assert seen.error is seen.later is None
    assert seen.result.status is TurnStatus.completed


# -- useless lines -----------------------------------------------------------------------------------------------------


@transports(JUNK, every_day=True)
@pytest.mark.parametrize(
    "point",
    [cell(point, slow=point != "delta") for point in ("initialize", "thread/start", "turn/start", "delta")],
)
async def test_a_useless_line_is_reported_and_has_no_effect(kind, point, over, tried):
    tried(f"junk: {kind}", f"before {point}")
    seen = await play(f"junk:{kind}", "before", point, over=over)
    assert seen.error is seen.later is None
    assert (seen.result.status, seen.text) == (TurnStatus.completed, MESSAGE)
    if point == "initialize":  # no listener is possible yet
        return
    ((method, params),) = seen.events
    if kind not in MESSAGES:
        assert method == "trio_codex/junk"
        assert params["size"] in (len(JUNK[kind]) - 1, len(JUNK[kind]))
        return
    assert method == "test/note"
    if kind == "U+2028":
        assert params["text"] == "a\u2028b\u2029c\u0085d"
    if kind == "duplicate keys":
        assert params == {"text": "b"}


# -- replies -----------------------------------------------------------------------------------------------------------

GOOD = {
    "twice": 1,
    "after one with an unknown id": 1,
    "after one with the id as a string": 1,
    "after one with the id null": 1,
    "after one with the id true": 1,
    "after one with a float as its id": 1,
    "then as an error": 1,
    "with unknown members": 0,
    "as an error with code -32001": 0,  # the server refused the request, so it is sent again
}
"""Usable replies, with the number of junk events that accompany each."""

BAD = {
    "with a result and an error": errors.InvalidMessage,
    "with neither": errors.InvalidMessage,
    "as an error": errors.InternalRpcError,
    "as an error with code 0": errors.RpcError,
    "as an error with a string as its code": errors.InvalidMessage,
    "as an error without a message": errors.InvalidMessage,
    "as an error that is a string": errors.InvalidMessage,
    "as an error that is null": errors.InvalidMessage,
    "with a string as its result": errors.DecodeError,
    "with null as its result": errors.DecodeError,
    "with a result that is a list": errors.DecodeError,
    "with an empty result": errors.DecodeError,
    "too long": errors.FrameTooLong,
    "cut off": errors.InvalidMessage,
    "in invalid UTF-8": errors.RemoteProtocolError,
    "too deep": errors.RemoteProtocolError,
}
"""Replies that fail the request they answer, and nothing else."""

REQUESTS = ("initialize", "thread/start", "turn/start")


@transports(GOOD)
@pytest.mark.parametrize("point", [cell(point, slow=point != "thread/start") for point in REQUESTS])
async def test_an_unrequested_reply_has_no_effect(kind, point, over, tried):
    tried(f"reply {kind}", point)
    seen = await play(f"reply:{kind}", "instead", point, over=over)
    assert seen.error is seen.later is None
    assert (seen.result.status, seen.text) == (TurnStatus.completed, MESSAGE)
    if point != "initialize":
        assert [method for method, _ in seen.events] == ["trio_codex/junk"] * GOOD[kind]


@transports(BAD)
@pytest.mark.parametrize("point", [cell(point, slow=point != "thread/start") for point in REQUESTS])
async def test_an_invalid_reply_fails_only_its_request(kind, point, over, tried):
    tried(f"reply {kind}", point)
    seen = await play(f"reply:{kind}", "instead", point, over=over)
    if point == "initialize":
        assert type(seen.error) is errors.StartError
        assert isinstance(seen.error.__cause__, BAD[kind])
        assert seen.error.returncode is None
        return
    assert seen.later is None
    if point == "turn/start" and seen.error is None:
        # The id of the turn can also be taken from its events, if they arrive with the answer.
        assert issubclass(errors.DecodeError, BAD[kind])
        assert (seen.result.id, seen.result.status) == ("turn-1", TurnStatus.completed)
        return
    assert isinstance(seen.error, BAD[kind])
    if isinstance(seen.error, errors.RpcError):
        assert seen.error.method == point
        assert seen.error.code in (0, -32603)


@pytest.mark.parametrize(
    ("fault", "moment", "point"),
    [
        cell("junk:oversize", "before", "thread/start"),
        cell("junk:oversize", "before", "delta"),
        cell("reply:too long", "instead", "thread/start"),
        cell("reply:end too long", "instead", "turn/completed"),
        cell("ask:an approval that is too long", "before", "turn/completed"),
    ],
)
async def test_a_message_that_is_too_long_ends_a_websocket_and_the_error_names_the_option(
    fault, moment, point, tried
):
    tried(f"{fault}, over a WebSocket", f"{moment} {point}")
    seen = await play(fault, moment, point, over="websocket")
    assert type(seen.close_reason) is errors.ConnectionBroken
    assert "max_line_bytes" in seen.close_reason.reason
    assert type(seen.error) is (errors.ConnectionBroken if point == "thread/start" else errors.TurnLost)


# -- the server speaks a later version ---------------------------------------------------------------------------------


@transports(DRIFT)
async def test_unknown_messages_of_a_newer_server_have_no_effect(kind, over, tried):
    tried(f"drift: {kind}", "before turn/completed")
    seen = await play(f"drift:{kind}", "before", "turn/completed", over=over)
    assert seen.error is seen.later is None
    assert seen.result.status is TurnStatus.completed
    assert seen.text.startswith(MESSAGE)
    assert seen.events == []


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("unknown status", "exploded"),
        ("no status", TurnStatus.lost),
        ("status 5", TurnStatus.lost),
        ("end too long", TurnStatus.lost),
    ],
)
async def test_a_turn_with_an_unknown_terminal_status_has_ended(kind, status, tried):
    tried(f"drift: {kind}", "turn/completed")
    seen = await play(f"reply:{kind}", "instead", "turn/completed")
    assert (type(seen.error) if seen.error else None) is (errors.TurnLost if kind == "end too long" else None)
    result = seen.error.result if seen.error else seen.result
    assert result.status == status
    assert seen.later is None
    assert seen.text == MESSAGE


# -- requests of the server --------------------------------------------------------------------------------------------


NO_TURN = {"a token refresh", "an unreadable approval", "an approval for an unknown thread"}
"""Requests that belong to no turn of this client. On a shared server, they are left to the other clients."""


@pytest.mark.parametrize(
    ("kind", "point", "over"),
    [
        cell(kind, point, over, slow=point == "thread/start" or over != "pipe")
        for kind in ASKED
        for point, over in (
            ("thread/start", "pipe"),
            ("turn/completed", "pipe"),
            ("turn/completed", "websocket"),
        )
        if over == "pipe" or kind not in TOO_LONG | NO_TURN
    ],
)
async def test_every_server_request_is_answered_and_nothing_is_granted(kind, point, over, tried):
    # While a thread is being opened, its requests are held until the answer to thread/start.
    moment = "after" if point == "thread/start" else "before"
    tried(f"asks for {kind}", f"{moment} {point}")
    seen = await play(f"ask:{kind}", moment, point, over=over)
    assert seen.error is seen.later is None
    assert seen.result.status is TurnStatus.completed
    answers = [raw for method, raw in seen.events if method == "test/answered"]
    assert len(answers) == 1
    assert "accept" not in str(answers)
    assert "approved" not in str(answers)
    if kind in ("an unknown request", "a token refresh"):
        assert answers[0]["error"]["code"] in (-32601, -32000)
    else:
        assert "result" in answers[0]
