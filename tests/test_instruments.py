"""Instrument hooks: their arguments, failing instruments, and the cost of unused hooks."""

import logging
import sys
from contextlib import asynccontextmanager, suppress

import attrs
import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_codex import CodexConfig, EventBuffer, Policy, TurnStatus, errors, open_codex
from trio_codex._link.hooks import Instruments
from trio_codex.instruments import Instrument, LogInstrument, StatsInstrument
from trio_codex.testing import MockModel, fake_codex, offline_home

HOOKS = [name for name in vars(Instrument) if not name.startswith("_")]


class Everything(Instrument):
    """Records every call, by hook."""

    def __init__(self):
        self.calls = []

    def of(self, hook):
        return [args[0] if len(args) == 1 else args for name, args in self.calls if name == hook]

    def one(self, hook):
        [call] = self.of(hook)
        return call

    def hooks(self):
        return {name for name, _ in self.calls}


def _keep(hook):
    def keep(self, *args):
        self.calls.append((hook, args))

    return keep


for _hook in HOOKS:
    setattr(Everything, _hook, _keep(_hook))


@asynccontextmanager
async def scripted(*instruments, config=None, policy=None, **options):
    with trio.fail_after(5):
        async with fake_codex(config, policy=policy, instruments=instruments, **options) as both:
            yield both


async def play_turn(server, *deltas, status="completed"):
    await server.accept_turn()
    for delta in deltas or ("hi",):
        await server.delta(delta)
    await server.end_turn(status=status)


async def refuse(server, method):
    await (await server.expect(method)).refuse("no")


# -- events --------------------------------------------------------------------------------------------------


async def test_a_turn_is_reported_from_start_to_end():
    seen = Everything()
    async with scripted(seen) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(play_turn, server)
        async with thread.turn("hello") as turn:
            await turn.wait()

    number = seen.one("connection_opened")
    assert seen.one("handshake_completed") == (number, codex.metadata)
    ended_connection, error = seen.one("connection_ended")
    assert ended_connection == number
    assert type(error) is errors.ConnectionClosed
    requests = seen.of("request_queued")
    assert [request.method for request in requests] == ["initialize", "thread/start", "turn/start"]
    assert requests == seen.of("request_sent") == seen.of("request_ended")
    for request in requests:
        assert request.outcome == "answered"
        assert request.queued_at <= request.sent_at <= request.ended_at
        assert request.duration >= 0
    record = seen.one("turn_started")
    assert record is seen.one("turn_ended")
    assert (record.id, record.thread_id, record.owned) == (turn.id, thread.id, True)
    assert record.status == "completed"
    assert [event.method for _, event in seen.of("event_received")] == [
        "turn/started",
        "item/agentMessage/delta",
        "turn/completed",
    ]
    sent = [msgspec.json.decode(line)["method"] for _, line in seen.of("frame_sent")]
    assert sent == ["initialize", "initialized", "thread/start", "turn/start"]
    assert len(seen.of("frame_received")) == 6


async def test_the_outcome_of_a_request_is_reported_once():
    seen = Everything()
    async with scripted(seen, config=CodexConfig(request_window=1)) as (codex, server):
        server.take_over("model/list")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(codex.models)
            await server.expect("model/list")
            async with trio.open_nursery() as waiting:
                waiting.start_soon(codex.thread_start)
                await wait_all_tasks_blocked()  # the window is full
                waiting.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse, server, "model/list")
            with pytest.raises(errors.RpcError) as refusal:
                await codex.models()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_end, codex)
            await server.expect("model/list")
            await server.hang_up()
    ended = seen.of("request_ended")
    assert [(request.method, request.outcome) for request in ended] == [
        ("initialize", "answered"),
        ("thread/start", "unsent"),
        ("model/list", "given up"),
        ("model/list", "refused"),
        ("model/list", "failed"),
    ]
    assert set(ended) == set(seen.of("request_queued"))
    assert ended[3].error is refusal.value
    assert isinstance(ended[4].error, errors.ConnectionBroken)
    assert "secret" not in repr(ended)


async def wait_for_end(codex):
    with pytest.raises(errors.ConnectionBroken):
        await codex.models()


async def test_a_request_cancelled_before_it_is_written_is_reported_as_unsent():
    seen = Everything()
    async with scripted(seen) as (codex, _):
        with trio.move_on_after(1) as scope:
            scope.cancel()
            await codex.models()
        call = await codex._session.server.begin("model/list", None)
        assert call.take_back()
    # A request cancelled before it was queued is not reported.
    assert [request.outcome for request in seen.of("request_ended")] == ["answered", "unsent"]
    assert len(seen.of("request_sent")) == 1


async def test_server_requests_are_reported_with_their_outcome():
    async def park(_):
        await trio.sleep_forever()

    seen = Everything()
    async with scripted(seen, policy=Policy(command=park)) as (_, server):
        await server.ask(1, "attestation/generate", {})
        await server.ask(
            2, "item/fileChange/requestApproval", {"threadId": "t", "turnId": "u", "itemId": "i"}
        )
        approval = {"threadId": "t", "turnId": "u", "itemId": "i", "startedAtMs": 0}
        for request_id in (3, 4):
            await server.ask(request_id, "item/commandExecution/requestApproval", approval)
        await server.notify("serverRequest/resolved", {"threadId": "t", "requestId": 3})
        await server.answer_to(2)
        await wait_all_tasks_blocked()
    ended = seen.of("server_request_ended")
    assert [(request.id, request.outcome) for request in ended] == [
        (1, "refused"),
        (2, "answered"),
        (3, "withdrawn"),
        (4, "lost"),
    ]
    assert ended == seen.of("server_request_received")
    assert all(request.duration >= 0 for request in ended)
    assert [(record.id, record.outcome) for record in seen.of("decision_made")] == [
        (1, "answered"),
        (2, "answered"),
        (3, "withdrawn"),
        (4, "withdrawn"),
    ]


async def test_discarded_lines_are_reported_by_reason_and_size():
    seen = Everything()
    async with scripted(seen, config=CodexConfig(max_line_bytes=5000)) as (_, server):
        await server.send_line(b"no JSON")
        await server.send_line(b'{"id": 7, "method": "attestation/generate", "params": "%s"}' % (b"x" * 6000))
        await server.notify("configWarning", {"summary": "x" * 6000})
        await server.send_line(b"x" * 6000)
        await server.answer_to(7)
        await wait_all_tasks_blocked()
    (_, reason, size), *long = seen.of("line_discarded")
    assert (reason, size) == ("not JSON", 7)
    assert [reason for _, reason, _ in long] == ["longer than max_line_bytes"] * 3
    assert all(size >= 6000 for _, _, size in long)
    assert not any(b"xxx" in line for _, line in seen.of("frame_received"))


async def test_a_truncated_line_is_reported_once():
    seen = Everything()
    async with scripted(seen) as (_, server):
        server.fault("cut")
        await server.notify("configWarning", {"summary": "it ends"})
        await wait_all_tasks_blocked()
        assert [reason for _, reason, _ in seen.of("line_discarded")] == ["cut off by the end of the stream"]


async def test_lag_is_reported_as_merged_deltas_and_then_as_an_overflow():
    seen = Everything()
    config = CodexConfig(event_buffer=EventBuffer(events=20))
    async with scripted(seen, config=config) as (codex, server):
        async with codex.events() as merging, codex.events("item/started") as overflowing:
            for number in range(40):
                await server.delta(str(number))
                await server.item("started", {"type": "plan", "id": str(number), "text": ""})
            await wait_all_tasks_blocked()
            with pytest.raises(errors.SubscriptionOverflow):
                async for _ in overflowing:
                    pass
        async with codex.events() as merging:
            for number in range(40):
                await server.delta(str(number))
            await wait_all_tasks_blocked()
            for _ in range(11):
                await merging.__anext__()
    assert len(seen.of("buffer_overflowed")) == 2
    assert all(isinstance(error, errors.SubscriptionOverflow) for _, error in seen.of("buffer_overflowed"))
    [(_, method, count)] = seen.of("deltas_merged")
    assert (method, count) == ("item/agentMessage/delta", 30)


async def test_failed_refused_and_server_started_turns_are_reported():
    seen = Everything()
    async with scripted(seen) as (codex, server):
        thread = await codex.thread_start()
        for play in (lambda: play_turn(server, status="failed"), lambda: refuse(server, "turn/start")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(play)
                with pytest.raises((errors.TurnFailed, errors.RpcError)):
                    await thread.run("hi")
        await server.start_turn("goal")
        await wait_all_tasks_blocked()
        await server.hang_up()
        await codex.wait_closed()
    started = seen.of("turn_started")
    assert started == seen.of("turn_ended")
    assert [(turn.id, turn.status, turn.owned) for turn in started] == [
        ("turn-1", "failed", True),
        (None, "refused", True),
        ("goal", "lost", False),
    ]


async def test_the_start_and_the_end_of_a_process_are_reported():
    seen = Everything()
    script = "import json, sys; sys.stdin.readline(); sys.exit(3)"
    config = CodexConfig(launch_args_override=[sys.executable, "-c", script], inherit_env=True)
    with trio.fail_after(10), pytest.raises(errors.StartError):
        async with open_codex(config, instruments=[seen]):
            pytest.fail("it never came up")
    process = seen.one("process_spawned")
    assert process is seen.one("process_exited")
    assert process.returncode == 3
    assert process.pid > 0
    assert seen.one("connection_ended")


@pytest.mark.real
async def test_the_real_server_is_reported_from_spawn_to_exit():
    seen = Everything()
    with trio.fail_after(20):
        async with MockModel() as model:
            with offline_home(model) as home:
                model.say("hello")
                config = CodexConfig(env=home.env, inherit_env=False, cwd=home.workspace)
                async with open_codex(config, instruments=[seen]) as codex:
                    thread = await codex.thread_start()
                    await thread.run("hi")
    assert seen.one("process_spawned").pid == codex.pid
    assert seen.one("process_spawned").version == codex.metadata.server_version
    assert seen.one("process_exited").returncode == 0
    assert seen.one("turn_ended").status == TurnStatus.completed
    assert seen.hooks() <= set(HOOKS)


# -- unused hooks and failing instruments --------------------------------------------------------------------


class Deaf(Instrument):
    """Overrides nothing."""


def test_only_hooks_that_are_overridden_are_called():
    assert not Instruments([Deaf()], Instrument)
    assert set(Instruments([Everything()], Instrument)) == set(HOOKS)
    assert "frame_received" not in Instruments([StatsInstrument(), LogInstrument(), Deaf()], Instrument)


def test_a_hook_may_be_overridden_on_the_instance():
    quiet, seen = Deaf(), []
    quiet.turn_ended = seen.append
    instruments = Instruments([quiet], Instrument)
    instruments.emit("turn_ended", "turn")
    assert set(instruments) == {"turn_ended"}
    assert seen == ["turn"]


@attrs.define
class Reasons(Instrument):
    """An instrument with equality and without a hash, which is the default of attrs classes."""

    heard: list = attrs.Factory(list)

    def line_discarded(self, connection, reason, size):
        self.heard.append(reason)


def test_equal_instruments_are_all_notified():
    one, other = Reasons(), Reasons()
    Instruments([one, other, one], Instrument).emit("line_discarded", 1, "not JSON", 7)
    assert one.heard == other.heard == ["not JSON"]


def test_events_of_a_removed_instrument_are_not_in_the_log(caplog):
    instruments = Instruments([Reasons(["secret"])], Instrument)
    instruments.emit("line_discarded", "no such arguments")
    assert not instruments
    [record] = caplog.records
    assert "line_discarded of Reasons raised" in record.getMessage()
    assert "secret" not in caplog.text


def test_each_connection_has_its_own_number():
    assert Instruments([], Instrument).connection != Instruments([], Instrument).connection


async def test_an_invalid_instrument_is_refused_before_anything_starts():
    with pytest.raises(TypeError, match="instruments expects an Instrument"):
        async with open_codex(instruments=[Instrument]):
            pytest.fail("nothing was opened")


async def test_an_instrument_that_raises_is_removed_with_one_logged_error(caplog):
    class Broken(Everything):
        def request_queued(self, request):
            raise ValueError("out of order")

    broken, seen = Broken(), Everything()
    async with scripted(broken, seen) as (codex, _):
        await codex.thread_start()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "request_queued" in record.getMessage()
    assert broken.hooks() == {"connection_opened"}
    assert len(seen.of("request_ended")) == 2


async def test_an_instrument_that_returns_an_invalid_trace_is_removed_and_the_next_is_used(caplog):
    class Wrong(Instrument):
        def request_trace(self, request):
            return {"traceparent": 5}

    class Right(Instrument):
        def request_trace(self, request):
            if request.method == "initialize":
                return {}
            return {"traceparent": "00-1-2-01", "baggage": "not sent"}

    seen = Everything()
    async with scripted(Wrong(), Right(), seen) as (codex, _):
        await codex.thread_start()
    lines = [msgspec.json.decode(line) for _, line in seen.of("frame_sent")]
    assert [line.get("trace") for line in lines] == [None, None, {"traceparent": "00-1-2-01"}]
    assert len(caplog.records) == 1


# -- built-in instruments
# ----------------------------------------------------------------------------------------------------


async def test_stats_count_finished_and_ongoing_work():
    async def park(_):
        await trio.sleep_forever()

    stats = StatsInstrument()
    config = CodexConfig(request_window=1)
    async with scripted(stats, config=config, policy=Policy(command=park), strict=False) as (codex, server):
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play_turn, server, "a", "b")
            await thread.run("hi")
        server.take_over("model/list")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(codex.models)
            nursery.start_soon(codex.models)
            approval = {"threadId": "t", "turnId": "u", "itemId": "i", "startedAtMs": 0}
            await server.ask(1, "item/commandExecution/requestApproval", approval)
            await wait_all_tasks_blocked()
            now = stats.snapshot()
            nursery.cancel_scope.cancel()
    assert (now.connections_open, now.connections_ended) == (1, 0)
    assert (now.requests_waiting, now.requests_in_flight, now.server_requests_open) == (1, 1, 1)
    assert now.requests == {"answered": 3}
    assert now.events == 4
    assert now.turns == {"completed": 1}
    assert now.turn_latency.count == 1
    assert now.turn_latency.p50 == now.turn_latency.longest == now.turn_latency.total

    then = stats.snapshot()
    assert (then.connections_open, then.connections_ended) == (0, 1)
    assert (then.requests_waiting, then.requests_in_flight, then.server_requests_open) == (0, 0, 0)
    assert then.requests == {"answered": 3, "unsent": 1, "given up": 1}
    assert then.server_requests == {"lost": 1}
    assert then.decisions == {"withdrawn": 1}
    assert then.request_latency.count == 3
    assert then.decision_latency.p50 is None


async def test_a_turn_is_reported_with_its_tokens_and_interrupt_latency(autojump_clock):
    seen, stats = Everything(), StatsInstrument()
    last = {"inputTokens": 7, "outputTokens": 2, "totalTokens": 9}
    async with fake_codex(instruments=[seen, stats]) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def serve():
            await server.accept_turn()
            usage = {"threadId": "thread-1", "turnId": "turn-1", "tokenUsage": {"total": last, "last": last}}
            await server.notify("thread/tokenUsage/updated", usage)
            await trio.sleep(1)
            for _ in range(2):
                await (await server.expect("turn/interrupt")).answer()
            await trio.sleep(2)
            await server.end_turn(status="interrupted")
            await play_turn(server)

        nursery.start_soon(serve)
        async with thread.turn("hello") as turn:
            await trio.sleep(1)
            await turn.interrupt()
            await trio.sleep(1)
            await turn.interrupt()
            await turn.wait()
        await thread.run("hello")
    interrupted, completed = seen.of("turn_ended")
    assert interrupted.interrupted_at - interrupted.started_at == 1
    assert interrupted.interrupt_latency == 3
    assert (interrupted.usage.input_tokens, interrupted.usage.output_tokens) == (7, 2)
    assert (completed.interrupted_at, completed.interrupt_latency, completed.usage) == (None, None, None)
    snapshot = stats.snapshot()
    assert (snapshot.interrupt_latency.count, snapshot.interrupt_latency.total) == (1, 3)
    assert snapshot.tokens.total_tokens == 9


async def test_an_interrupt_that_came_too_late_has_no_latency():
    seen = Everything()
    async with scripted(seen) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def serve():
            await server.accept_turn()
            asked = await server.expect("turn/interrupt")
            await server.end_turn()
            await asked.refuse("no active turn to interrupt")

        nursery.start_soon(serve)
        async with thread.turn("hello") as turn:
            await turn.interrupt()
    record = seen.one("turn_ended")
    assert record.interrupted_at is not None
    assert record.interrupt_latency is None


def test_stats_of_losses_and_quantiles():
    stats = StatsInstrument()
    stats.line_discarded(1, "not JSON", 5)
    stats.deltas_merged(1, "item/agentMessage/delta", 30)
    stats.buffer_overflowed(1, errors.SubscriptionOverflow(5, 5))
    stats.request_retried("thread/list", 1, 0.5)
    for seconds in range(1, 1001):
        stats._turn_durations.add(seconds)
    snapshot = stats.snapshot()
    assert (snapshot.lines_discarded, snapshot.deltas_merged, snapshot.overflows) == (1, 29, 1)
    assert snapshot.retries == 1
    latency = snapshot.turn_latency
    assert (latency.count, latency.total, latency.longest) == (1000, 500500, 1000)
    assert (latency.p50, latency.p95) == (745, 975)  # of the latest 512


async def test_the_log_shows_events_and_failures(caplog):
    caplog.set_level(logging.DEBUG, "trio_codex.activity")
    async with scripted(LogInstrument()) as (codex, server):
        thread = await codex.thread_start()
        for play in (play_turn, lambda server: refuse(server, "turn/start")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(play, server)
                with suppress(errors.RpcError):
                    await thread.run("hi")
        await server.send_line(b"no JSON")
        await server.ask(1, "attestation/generate", {})
        await server.answer_to(1)
        await server.hang_up()
        await codex.wait_closed()
    told = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "trio_codex.activity"
    ]

    def level_of(*words):
        [level] = {level for level, text in told if all(word in text for word in words)}
        return level

    assert level_of("opened", codex.metadata.server_version) == "INFO"
    assert level_of("thread/start", "answered") == "DEBUG"
    assert level_of("turn/start", "refused", "InvalidRequestError (-32600)") == "WARNING"
    assert level_of("turn turn-1", "completed") == "INFO"
    assert level_of("7 bytes", "not JSON") == "WARNING"
    assert level_of("attestation/generate", "refused") == "DEBUG"
    assert level_of("attestation/generate", "decided by default") == "INFO"
    assert level_of("ended", "ConnectionBroken") == "WARNING"


def test_log_messages_that_no_script_can_provoke(caplog):
    caplog.set_level(logging.INFO, "elsewhere")
    log = LogInstrument(logging.getLogger("elsewhere"))
    log.connection_ended(3, errors.ServerExited("gone", "running", 5, -9, "tail"))
    log.buffer_overflowed(3, errors.SubscriptionOverflow(8, 9))
    log.request_retried("thread/list", 2, 0.5)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]
    assert "SIGKILL" in caplog.text
    assert "tail" not in caplog.text


async def test_a_request_repeated_because_of_overload_is_reported_as_sent_once(autojump_clock):
    everything, stats = Everything(), StatsInstrument()
    with trio.fail_after(60):
        async with (
            fake_codex(instruments=[everything, stats]) as (codex, server),
            trio.open_nursery() as nursery,
        ):
            server.take_over("thread/list")

            async def serve():
                for _ in range(3):
                    await (await server.expect("thread/list")).refuse("overloaded", -32001)
                await (await server.expect("thread/list")).answer({"data": []})

            nursery.start_soon(serve)
            await codex.request("thread/list", {})
            now = stats.snapshot()
    assert (now.requests_waiting, now.requests_in_flight) == (0, 0)
    assert [request.method for request in everything.of("request_sent")].count("thread/list") == 1


async def test_lines_are_copied_only_for_instruments_that_receive_them(monkeypatch):
    class Discarded(Instrument):
        def line_discarded(self, connection, reason, size):
            pass

    emitted = []
    emit = Instruments.emit
    monkeypatch.setattr(
        Instruments, "emit", lambda self, hook, *args: emitted.append(hook) or emit(self, hook, *args)
    )
    async with scripted(Discarded()) as (codex, _):
        await codex.thread_start()
    assert "frame_received" not in emitted
