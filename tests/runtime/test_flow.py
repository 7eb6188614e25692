"""Flow control: lines that the server has not read are bounded, and no call waits forever."""

import json
import math

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_codex import errors
from trio_codex._core.rpc import ServerRequest
from trio_codex._core.secrets import Secrets
from trio_codex._link.calls import BARRIER_METHOD
from trio_codex._link.channel import LineChannel
from trio_codex._link.connection import Connection, Limits
from trio_codex._link.flow import BARRIER_LINES, CONTROL_LINES, LINES
from trio_codex._link.services import open_services
from trio_codex._link.timeouts import Timeouts

TIMEOUT = 60
BUSY = {"code": -32001, "message": "Server overloaded; retry later."}


class Server:
    """A server with a queue of unread lines, counted as the real server does."""

    def __init__(self, stream):
        self.stream = stream
        self.lines = []
        """Requests that were neither answered nor refused, in order."""
        self.unacknowledged = []
        self.most = {"ordinary": 0, "control": 0}
        self.barriers = 0
        self.policy = None
        self.lock = trio.Lock()

    async def read(self):
        rest = b""
        while chunk := await self.stream.receive_some():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in map(json.loads, lines):
                self.take(line)
                if self.policy is not None:
                    await self.policy(line)

    def take(self, line):
        barrier = line.get("method") == BARRIER_METHOD
        self.barriers += barrier
        # A barrier may always be sent, and replies are never delayed.
        kind = "control" if line.get("method", "").startswith("control") else "ordinary"
        self.unacknowledged.append((line, barrier))
        if "method" in line:
            self.lines.append(line)
            if not barrier:
                others = sum(not is_barrier for _, is_barrier in self.unacknowledged)
                self.most[kind] = max(self.most[kind], others)

    async def answer(self, line, **answer):
        if answer.get("error") == BUSY:
            self.unacknowledged = [each for each in self.unacknowledged if each[0] is not line]
        elif any(each is line for each, _ in self.unacknowledged):
            while self.unacknowledged.pop(0)[0] is not line:
                pass
        self.lines.remove(line)
        async with self.lock:
            await self.stream.send_all(json.dumps({"id": line["id"], **answer}).encode() + b"\n")

    async def ask(self, request_id):
        line = {"id": f"ask-{request_id}", "method": "item/tool/call", "params": {}}
        async with self.lock:
            await self.stream.send_all(json.dumps(line).encode() + b"\n")


class Receiver:
    """Answers server requests immediately."""

    connection = None

    def on_notifications(self, notifications): ...
    def on_oversize(self, notification): ...
    def on_junk(self, junk): ...
    def on_close(self, death): ...

    def on_lines_end(self):
        return 0

    def on_server_request(self, request: ServerRequest):
        self.connection.respond(request.id, {})


class Session:
    def __init__(self, connection, stream, server, nursery):
        self.connection = connection
        self.stream = stream
        self.server = server
        self.nursery = nursery
        self.outcomes = []
        self.scopes = []

    def block_writes(self):
        """Act as a server that reads nothing, so that the client's next write never ends."""
        self.stream.send_stream.send_all_hook = trio.sleep_forever

    def request(self, request_class):
        self.outcomes.append(None)
        self.scopes.append(trio.CancelScope())
        self.nursery.start_soon(self._request, len(self.outcomes) - 1, request_class)

    async def _request(self, number, request_class):
        self.outcomes[number] = "cancelled"
        with self.scopes[number]:
            self.outcomes[number] = "waits"
            try:
                if request_class == "deferred":
                    # This call has no timeout, so the test sets one.
                    with trio.move_on_after(100 * TIMEOUT):
                        await self.connection.calls.request(request_class, {}, request_class)
                else:
                    await self.connection.calls.request(request_class, {}, request_class)
                self.outcomes[number] = "answered"
            except errors.CodexError as exc:
                self.outcomes[number] = type(exc)
        if self.scopes[number].cancelled_caught:
            self.outcomes[number] = "cancelled"


def run(async_fn, *args, **options):
    async def main():
        client_end, server_end = memory_stream_pair()
        receiver, timeouts = Receiver(), Timeouts()

        async def close(services):
            connection.end(errors.ConnectionClosed("closed by the test"))
            await trio.aclose_forcefully(client_end)
            services.stop()

        async with open_services(close) as services, trio.open_nursery() as nursery:
            channel = LineChannel(client_end, client_end, 10_000)
            limits = Limits(**{"window": 64, "request_timeout": TIMEOUT, **options})
            connection = receiver.connection = Connection(services, channel, limits, timeouts, Secrets({}))
            services.start_service(timeouts.watch)
            connection.start(receiver)
            server = Server(server_end)
            nursery.start_soon(server.read)
            with trio.fail_after(10_000):
                await async_fn(Session(connection, client_end, server, nursery), *args)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


lanes = st.sampled_from(["window", "deferred", "control"])
actions = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(1, 120), lanes),
        st.tuples(st.just("answer"), st.integers(0, 200), st.sampled_from(["result", "error"])),
        st.tuples(st.just("refuse"), st.integers(0, 200), st.integers(1, 40)),
        st.tuples(st.just("cancel"), st.integers(0, 200), st.integers(1, 80)),
        st.tuples(st.just("ask"), st.integers(1, 80), st.none()),
        st.tuples(st.just("sleep"), st.floats(0.001, 10), st.none()),
    ),
    max_size=12,
)


async def act(session, actions):
    server = session.server
    asked = 0
    for action, number, detail in actions:
        if action == "request":
            for _ in range(number):
                session.request(detail)
        elif action == "answer" and server.lines:
            answer = {"result": {}} if detail == "result" else {"error": {"code": -32600, "message": "no"}}
            await server.answer(server.lines[number % len(server.lines)], **answer)
        elif action == "refuse":
            for line in server.lines[number:][:detail]:
                await server.answer(line, error=BUSY)
        elif action == "cancel":
            for scope in session.scopes[number:][:detail]:
                scope.cancel()
        elif action == "ask":
            for _ in range(number):
                asked += 1
                await server.ask(asked)
        elif action == "sleep":
            await trio.sleep(number)
        await wait_all_tasks_blocked()
        assert server.most["ordinary"] <= LINES
        assert server.most["control"] <= LINES + CONTROL_LINES


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(actions)
def test_unread_lines_never_exceed_their_limit_and_a_responsive_server_gets_all_requests(actions):
    async def main(session):
        await act(session, actions)
        server = session.server
        for line in list(server.lines):
            await server.answer(line, result={})
        server.policy = lambda line: server.answer(line, result={}) if "method" in line else no_answer()
        await trio.sleep(2)
        for line in list(server.lines):
            await server.answer(line, result={})
        await trio.sleep(TIMEOUT)
        assert "waits" not in session.outcomes
        assert session.connection.calls.in_flight == 0
        assert server.most["ordinary"] <= LINES
        assert server.most["control"] <= LINES + CONTROL_LINES

    run(main)


async def no_answer():
    """A reply needs no answer."""


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(actions)
def test_if_the_server_stops_reading_all_calls_fail_within_their_timeout(actions):
    async def main(session):
        await act(session, actions)
        waiting = [number for number, outcome in enumerate(session.outcomes) if outcome == "waits"]
        await trio.sleep(2.1 * TIMEOUT)
        sent = [line for line in session.server.lines if line["method"] == "deferred"]
        still = [number for number in waiting if session.outcomes[number] == "waits"]
        # Only sent requests without a timeout are still waiting.
        assert len(still) <= len(sent)
        assert {session.outcomes[number] for number in waiting} <= {
            "waits", errors.RequestTimeout, errors.ServerBusyError,
        }  # fmt: skip

    run(main)


# -- single cases ----------------------------------------------------------------------------------------------------


def test_lines_of_cancelled_requests_count_until_a_later_one_is_answered():
    async def main(session):
        server = session.server
        for _ in range(LINES):
            session.request("window")
        await wait_all_tasks_blocked()
        sent = len(server.lines)
        assert LINES <= sent <= LINES + 1
        for scope in session.scopes:
            scope.cancel()
        await wait_all_tasks_blocked()
        session.request("window")
        session.request("control")
        await wait_all_tasks_blocked()
        # The window has room again, but the server may not have read any of those lines.
        assert [line["method"] for line in server.lines[sent:]] == ["control"]
        [barrier] = [line for line in server.lines if line["method"] == BARRIER_METHOD]
        await server.answer(barrier, result={})
        await wait_all_tasks_blocked()
        assert "window" in [line["method"] for line in server.lines[sent:]]

    run(main)


def test_a_deferred_request_behind_a_line_that_the_server_does_not_read_fails_in_time():
    async def main(session):
        session.block_writes()
        session.request("window")
        await wait_all_tasks_blocked()
        session.request("deferred")
        session.request("control")
        await trio.sleep(2 * TIMEOUT)
        assert session.outcomes == [errors.RequestTimeout] * 3
        assert session.connection.calls.in_flight == 0

    run(main)


def test_replies_are_never_delayed_but_count_as_unread_lines():
    async def main(session):
        server = session.server
        for number in range(3 * LINES):
            await server.ask(number)
        await wait_all_tasks_blocked()
        assert sum("method" not in line for line, _ in server.unacknowledged) == 3 * LINES
        session.request("window")
        await wait_all_tasks_blocked()
        [barrier] = server.lines
        assert barrier["method"] == BARRIER_METHOD
        # The first barrier was sent after the 32nd reply; the next one acknowledges the rest.
        await server.answer(barrier, result={})
        await wait_all_tasks_blocked()
        await server.answer(server.lines[0], error={"code": -32600, "message": "whatever"})
        await wait_all_tasks_blocked()
        assert [line["method"] for line in server.lines] == ["window"]

    run(main)


@pytest.mark.parametrize("request_class", ["window", "deferred", "control"])
def test_a_request_refused_for_overload_is_repeated_until_accepted(request_class):
    async def main(session):
        server = session.server
        session.request(request_class)
        times = []
        for _ in range(20):
            await trio.sleep(1)
            [line] = server.lines
            times.append(trio.current_time())
            await server.answer(line, error=BUSY)
        await trio.sleep(1)
        await server.answer(server.lines[0], result={})
        await wait_all_tasks_blocked()
        assert session.outcomes == ["answered"]

    run(main)


@pytest.mark.parametrize("request_class", ["window", "deferred", "control"])
def test_a_request_refused_until_its_timeout_raises_the_refusal(request_class):
    async def main(session):
        server = session.server
        server.policy = lambda line: server.answer(line, error=BUSY)
        began = trio.current_time()
        session.request(request_class)
        while session.outcomes[0] in (None, "waits"):  # noqa: ASYNC110  # the test measures when it changes
            await trio.sleep(0.1)
        assert session.outcomes == [errors.ServerBusyError]
        assert trio.current_time() - began == pytest.approx(TIMEOUT, abs=1)
        assert session.connection.calls.in_flight == 0

    run(main)


def test_a_refusal_acknowledges_no_other_line():
    async def main(session):
        server = session.server
        for _ in range(2 * LINES):
            session.request("deferred")
        await wait_all_tasks_blocked()
        sent = len(server.lines)
        [barrier] = [line for line in server.lines if line["method"] == BARRIER_METHOD]
        await server.answer(barrier, error=BUSY)
        # The request is sent again, regardless of limits and credits.
        await trio.sleep(1)
        assert server.barriers == 2
        assert sent <= len(server.lines) <= sent + 1
        sent = len(server.lines)
        await server.answer(server.lines[10], error=BUSY)
        await trio.sleep(1)
        assert sent - 1 <= len(server.lines) <= sent

    run(main)


def test_a_request_waiting_to_be_repeated_can_be_withdrawn():
    async def main(session):
        server = session.server
        call = await session.connection.calls.begin("turn/start", {}, "deferred")
        await wait_all_tasks_blocked()
        assert call.sent
        await server.answer(server.lines[0], error=BUSY)
        await wait_all_tasks_blocked()
        assert not call.sent
        assert call.take_back()
        await trio.sleep(10)
        assert server.lines == []

    run(main)


def test_a_request_that_was_to_be_withdrawn_is_not_repeated():
    async def main(session):
        server = session.server
        call = await session.connection.calls.begin("command/exec", {}, "deferred")
        await wait_all_tasks_blocked()
        assert not call.take_back()
        await server.answer(server.lines[0], error=BUSY)
        with pytest.raises(errors.ServerBusyError):
            await call.answer()
        await trio.sleep(10)
        assert server.lines == []

    run(main)


@pytest.mark.parametrize("lost", [1, 3])
def test_a_barrier_whose_refusal_is_lost_is_repeated(lost):
    # A server that cannot write a refusal drops it.
    async def main(session):
        server, dropped = session.server, []

        async def answer(line):
            if line["method"] == BARRIER_METHOD and len(dropped) < lost:
                dropped.append(line)
                server.lines.remove(line)
                server.unacknowledged = [each for each in server.unacknowledged if each[0] is not line]
            elif line["method"] != "deferred":
                await server.answer(line, result={})

        server.policy = answer
        for _ in range(LINES):
            session.request("deferred")
        await wait_all_tasks_blocked()
        session.request("window")
        await trio.sleep(TIMEOUT / 2)
        assert len(dropped) == lost
        assert session.outcomes[-1] == "answered"

    run(main)


def test_a_mute_server_gets_few_barriers():
    async def main(session):
        for _ in range(LINES):
            session.request("deferred")
        await trio.sleep(120)
        assert session.server.barriers <= LINES // 8

    run(main)


def test_a_mute_server_is_reported_as_such():
    async def main(session):
        for _ in range(BARRIER_LINES):
            session.request("deferred")
        await trio.sleep(5)
        for _ in range(LINES - BARRIER_LINES + 1):
            session.request("window")
        await wait_all_tasks_blocked()
        call = await session.connection.calls.begin("late", {})
        with pytest.raises(errors.RequestTimeout, match=r"has read nothing for 25.0 s") as caught:
            await call.answer_within(20)
        assert (caught.value.method, caught.value.seconds) == ("late", 20)
        assert call.take_back()

    run(main)


def test_waiting_requests_fail_once_new_ones_are_refused():
    async def main(session):
        for _ in range(2 * LINES):
            session.request("window")
        await wait_all_tasks_blocked()
        session.connection.refuse_new()
        await wait_all_tasks_blocked()
        refused = session.outcomes.count(errors.ConnectionClosed)
        assert LINES <= refused <= LINES + 1
        for line in list(session.server.lines):
            await session.server.answer(line, result={})
        await wait_all_tasks_blocked()
        assert session.outcomes.count("answered") == 2 * LINES - refused

    run(main)


def test_without_a_timeout_a_request_to_a_busy_server_is_repeated_forever():
    async def main(session):
        server = session.server
        server.policy = lambda line: server.answer(line, error=BUSY)
        session.request("window")
        await trio.sleep(10 * TIMEOUT)
        server.policy = lambda line: server.answer(line, result={})
        await trio.sleep(1)
        assert session.outcomes == ["answered"]

    run(main, request_timeout=math.inf)


def test_a_request_accepted_after_a_refusal_may_have_had_an_effect():
    async def main(session):
        server = session.server
        session.request("window")
        await wait_all_tasks_blocked()
        await server.answer(server.lines[0], error=BUSY)
        await trio.sleep(2 * TIMEOUT)
        assert session.outcomes == [errors.RequestTimeout]

    run(main)


def test_a_call_refused_until_its_timeout_is_not_sent_again():
    async def main(session):
        server = session.server
        call = await session.connection.calls.begin("thread/start", {}, "deferred")
        await wait_all_tasks_blocked()
        await server.answer(server.lines[0], error=BUSY)
        with pytest.raises(errors.ServerBusyError):
            await call.answer_within(0.001)
        await trio.sleep(TIMEOUT)
        assert server.lines == []
        assert call.answered

    run(main)
