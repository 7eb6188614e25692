"""Spans, metrics and the trace context of requests, with the in-memory exporters of the SDK."""

import json
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from trio.testing import wait_all_tasks_blocked

from trio_codex import CodexConfig, Policy, errors, open_codex, policies, retry_on_overload
from trio_codex.instruments import Instrument, OpenTelemetryInstrument
from trio_codex.testing import Command, MockModel, fake_codex, offline_home
from trio_codex.testing._serve import serve


class Telemetry:
    """An instrument, and its spans and metrics."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.tracer = self.provider.get_tracer("test")
        self.instrument = OpenTelemetryInstrument(self.provider, MeterProvider([self._reader]))

    def spans(self, name=None):
        return [span for span in self._exporter.get_finished_spans() if name in (None, span.name)]

    def span(self, name):
        [span] = self.spans(name)
        return span

    def metric(self, name):
        """Return a metric's value, or its count, by attribute values."""
        metrics = self._reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        [points] = [metric.data.data_points for metric in metrics if metric.name == name]
        return {
            tuple(point.attributes.values()): point.value if hasattr(point, "value") else point.count
            for point in points
        }


@asynccontextmanager
async def scripted(telemetry, *others, **options):
    with trio.fail_after(5):
        async with fake_codex(instruments=[telemetry.instrument, *others], **options) as both:
            yield both


class Lines(Instrument):
    def __init__(self):
        self.sent = []

    def frame_sent(self, connection, line):
        self.sent.append(json.loads(line))


def is_child(child, parent):
    return child.parent is not None and child.parent.span_id == parent.context.span_id


async def play_turn(server, *steps, status="completed"):
    await server.accept_turn()
    for step in steps:
        await step()
    await server.end_turn(status=status)


async def test_a_session_its_turns_and_their_requests_are_nested_spans():
    telemetry, lines = Telemetry(), Lines()
    async with scripted(telemetry, lines) as (codex, server):
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play_turn, server)
            await thread.run("hello")
    session, turn, start = map(telemetry.span, ("codex.session", "codex.turn", "turn/start"))
    assert session.parent is None
    assert is_child(turn, session)
    assert is_child(start, turn)
    assert is_child(telemetry.span("thread/start"), session)
    assert turn.attributes["codex.turn.status"] == "completed"
    assert turn.attributes["codex.thread.id"] == thread.id
    assert start.attributes["codex.outcome"] == "answered"
    assert session.attributes["codex.server.version"] == codex.metadata.server_version
    sent = {line["method"]: line.get("trace") for line in lines.sent}
    assert sent["initialized"] is None
    context = start.context
    assert sent["turn/start"]["traceparent"] == f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    assert telemetry.metric("codex.turn.duration") == {("completed",): 1}
    assert telemetry.metric("codex.requests.waiting") == {(): 0}
    assert telemetry.metric("codex.requests.in_flight") == {(): 0}


async def test_requests_are_children_of_the_callers_span():
    telemetry = Telemetry()
    async with scripted(telemetry) as (codex, server):
        thread = await codex.thread_start()
        with telemetry.tracer.start_as_current_span("mine"):
            server.give("model/list", {"data": []})
            await codex.models()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.accept_turn)
                async with thread.turn("hello") as turn:
                    for name in ("in the turn", None):
                        nursery.start_soon(accept, server, "turn/steer")
                        if name:
                            with telemetry.tracer.start_as_current_span(name):
                                await turn.steer("more")
                        else:
                            await turn.steer("more")
                    await server.end_turn()
                    await turn.wait()
    mine, turn_span = telemetry.span("mine"), telemetry.span("codex.turn")
    assert is_child(telemetry.span("model/list"), mine)
    assert is_child(turn_span, mine)
    first, second = telemetry.spans("turn/steer")
    assert is_child(first, telemetry.span("in the turn"))
    assert is_child(second, turn_span)


async def accept(server, method):
    await (await server.expect(method)).answer({"turnId": "turn-1"})


async def test_approvals_and_tool_calls_are_child_spans_of_their_turn_with_an_outcome():
    telemetry = Telemetry()
    asked = {"threadId": "thread-1", "turnId": "turn-1", "itemId": "i", "startedAtMs": 0}
    command = {"type": "commandExecution", "id": "i", "command": "secret", "status": "inProgress"}
    mcp = {"type": "mcpToolCall", "id": "m", "server": "held", "tool": "look", "status": "inProgress"}
    left = {"type": "webSearch", "id": "w", "query": "secret"}
    steps = [
        lambda: server.item("started", command),
        lambda: server.ask(1, "item/commandExecution/requestApproval", asked),
        lambda: server.answer_to(1),
        lambda: server.item("completed", {**command, "status": "completed"}),
        lambda: server.item("started", mcp),
        lambda: server.item("completed", {**mcp, "status": "failed"}),
        lambda: server.item("started", left),
        lambda: server.item("started", {"type": "plan", "id": "p"}),
        lambda: server.ask(2, "item/tool/call", {**asked, "callId": "c", "tool": "lookup", "arguments": {}}),
        lambda: server.answer_to(2),
        lambda: server.ask(3, "attestation/generate", {}),
        lambda: server.answer_to(3),
    ]
    async with scripted(telemetry, policy=Policy(command=accept_it)) as (codex, server):
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: play_turn(server, *steps))
            await thread.run("hello")
    turn, session = telemetry.span("codex.turn"), telemetry.span("codex.session")
    approval = telemetry.span("codex.approval")
    assert is_child(approval, turn)
    assert approval.attributes["codex.outcome"] == "answered"
    decided = [event.attributes for event in turn.events]
    assert [each["codex.decision"] for each in decided] == ["accept", "answered"]
    assert decided[0]["codex.decided_by"] == "client"
    calls = telemetry.spans("codex.tool_call")
    assert all(is_child(call, turn) for call in calls)
    assert [call.attributes.get("codex.item.type", call.attributes.get("codex.tool")) for call in calls] == [
        "commandExecution",
        "mcpToolCall",
        "lookup",
        "webSearch",
    ]
    assert calls[1].attributes["codex.server"] == "held"
    assert [call.status.status_code for call in calls] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
        StatusCode.UNSET,
        StatusCode.UNSET,
    ]
    assert is_child(telemetry.span("codex.server_request"), session)
    assert "secret" not in " ".join(span.to_json() for span in telemetry.spans())


async def accept_it(_):
    return policies.accept()


async def test_failures_set_the_error_status_of_their_span():
    telemetry = Telemetry()
    async with scripted(telemetry) as (codex, server):
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: play_turn(server, status="failed"))
            with pytest.raises(errors.TurnFailed):
                await thread.run("hello")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse, server)
            with pytest.raises(errors.ServerBusyError):
                await codex.models()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse_once, server)
            await retry_on_overload(codex.thread_list, initial_delay=0)
        await server.send_line(b"no JSON")
        await wait_all_tasks_blocked()
        await server.hang_up()
        await codex.wait_closed()
    turn, refused, session = map(telemetry.span, ("codex.turn", "model/list", "codex.session"))
    assert {span.status.status_code for span in (turn, refused, session)} == {StatusCode.ERROR}
    assert refused.attributes["rpc.jsonrpc.error_code"] == -32001
    assert refused.attributes["error.type"] == "RetryLimitExceededError"
    assert session.attributes["error.type"] == "ConnectionBroken"
    assert telemetry.metric("codex.lines.discarded") == {("not JSON",): 1}
    instrument = telemetry.instrument
    instrument.deltas_merged(1, "item/agentMessage/delta", 5)
    instrument.buffer_overflowed(1, errors.SubscriptionOverflow(1, 1))
    assert telemetry.metric("codex.request.retries") == {("thread/list",): 1}
    assert telemetry.metric("codex.deltas.merged") == {("item/agentMessage/delta",): 4}
    assert telemetry.metric("codex.buffer.overflows") == {(): 1}
    assert not instrument._requests
    assert not instrument._server_requests
    assert not instrument._turns
    assert not instrument._sessions


async def test_tokens_and_interrupt_latency_are_metrics():
    telemetry = Telemetry()
    spent = {"inputTokens": 30, "cachedInputTokens": 10, "outputTokens": 4, "totalTokens": 34}
    usage = {**spent, "reasoningOutputTokens": 0, "cacheWriteInputTokens": 0}
    ids = {"threadId": "thread-1", "turnId": "turn-1"}
    reported = {**ids, "tokenUsage": {"total": usage, "last": usage}}
    async with scripted(telemetry) as (codex, server):
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:

            async def serve():
                await server.accept_turn()
                await server.notify("thread/tokenUsage/updated", reported)
                await (await server.expect("turn/interrupt")).answer()
                await server.end_turn(status="interrupted")
                await play_turn(server)  # a turn without usage and without an interrupt

            nursery.start_soon(serve)
            async with thread.turn("hello") as turn:
                await turn.interrupt()
                await turn.wait()
            await thread.run("hello")
    interrupted, completed = telemetry.spans("codex.turn")
    assert interrupted.attributes["codex.tokens.input"] == 30
    assert interrupted.attributes["codex.tokens.output"] == 4
    assert "codex.tokens.input" not in completed.attributes
    assert telemetry.metric("codex.tokens") == {("input",): 30, ("output",): 4}
    assert telemetry.metric("codex.turn.interrupt.duration") == {(): 1}


async def refuse_once(server):
    await (await server.expect("thread/list")).refuse("the retry limit was reached", -32001)
    await (await server.expect("thread/list")).answer(data=[])


async def refuse(server):
    await (await server.expect("model/list")).refuse("the retry limit was reached", -32001)


async def test_an_unknown_server_request_has_a_span_too():
    telemetry = Telemetry()
    async with scripted(telemetry) as (_, server):
        await server.ask(1, "item/tool/call", {"threadId": 5, "tool": 7})
        await server.ask(2, "item/tool/call", "nothing")
        await server.send_line(b'{"id":3,"method":"item/tool/call","params":{"tool":"\xff"}}')
        for request_id in (1, 2, 3):
            await server.answer_to(request_id)
    assert [span.attributes["codex.tool"] for span in telemetry.spans("codex.tool_call")] == ["", "", ""]


def test_opentelemetry_is_imported_when_the_instrument_is_created():
    code = (
        "import sys, trio_codex.instruments as i; i.OpenTelemetryInstrument;"
        "assert 'opentelemetry' not in sys.modules; i.OpenTelemetryInstrument(); assert 'opentelemetry' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


@pytest.mark.real
async def test_the_spans_of_the_real_server_join_the_trace():
    """Check them as the server exports them, over HTTP as JSON."""
    posted = []

    async def collect(scope, receive, send):
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        posted.append(json.loads(body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    telemetry = Telemetry()
    with trio.fail_after(30):
        async with MockModel() as model, serve(collect) as port:
            endpoint = f"http://127.0.0.1:{port}/v1/traces"
            exporter = {"otlp-http": {"endpoint": endpoint, "protocol": "json"}}
            with offline_home(
                model, config={"otel": {"trace_exporter": exporter}}, approval_policy="on-request"
            ) as home:
                model.respond(Command("echo hi", escalate="why not"))
                model.say("done")
                config = CodexConfig(env=home.env, inherit_env=False, cwd=home.workspace)
                policy = Policy(command=accept_it)
                async with open_codex(config, policy=policy, instruments=[telemetry.instrument]) as codex:
                    thread = await codex.thread_start()
                    await thread.run("hi")
    theirs = [
        span
        for batch in posted
        for resource in batch["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    for name in ("thread/start", "turn/start"):
        mine = telemetry.span(name)
        [of_server] = [span for span in theirs if span["name"] == name]
        assert of_server["traceId"] == f"{mine.context.trace_id:032x}"
        assert of_server["parentSpanId"] == f"{mine.context.span_id:016x}"
    assert telemetry.span("codex.approval")
    [call] = telemetry.spans("codex.tool_call")
    assert call.attributes["codex.item.type"] == "commandExecution"


async def test_without_an_sdk_no_trace_context_is_sent_and_nothing_fails(caplog):
    lines = Lines()
    with trio.fail_after(5):
        async with fake_codex(instruments=[OpenTelemetryInstrument(), lines]) as (codex, server):
            thread = await codex.thread_start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: play_turn(server))
                await thread.run("hello")
    assert not any("trace" in line for line in lines.sent)
    assert not caplog.records
