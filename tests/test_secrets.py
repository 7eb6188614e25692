"""Secrets planted wherever users keep them never leak into logs, reprs, errors, recordings or telemetry (G18)."""

import logging
import re
import traceback

import attrs
import pytest
import trio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from trio_codex import CodexConfig, Policy, errors, open_codex, policies, wire
from trio_codex.instruments import Instrument, LogInstrument, OpenTelemetryInstrument, StatsInstrument
from trio_codex.recording import Recorder
from trio_codex.testing import Command, Failed, Hang, MockModel, Text, fake_codex, offline_home

PROMPT = "prompt-sesame-1"
VARIABLE = "variable-sesame-2"
TOKEN = "token-sesame-3"
OUTPUT = "output-sesame-4"
ANSWER = "answer-sesame-5"
ARGUMENT = "argument-sesame-6"
STEER = "steer-sesame-7"
REASON = "reason-sesame-8"
CODE = 73917391
SECRET = "sesame"


class Reprs(Instrument):
    """Records the ``repr`` of everything that instruments receive, except the lines themselves."""

    def __init__(self):
        self.seen = []

    def _keep(self, *args):
        self.seen.append(" ".join(repr(arg) for arg in args if not isinstance(arg, bytes)))


for _hook in (name for name in vars(Instrument) if name.endswith(("ed", "made"))):
    setattr(Reprs, _hook, Reprs._keep)


class Watched:
    """All observers of a client, and their output."""

    def __init__(self, path, caplog):
        caplog.set_level(logging.DEBUG)
        self._caplog = caplog
        self._path = path
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.recorder = Recorder(path)
        self._stats, self._reprs = StatsInstrument(), Reprs()
        self.texts = []
        self.instruments = (
            LogInstrument(),
            OpenTelemetryInstrument(provider),
            self._stats,
            self._reprs,
            self.recorder,
        )

    def look_at(self, *things):
        """Record the representations of an object and, for an error, of its causes."""
        for thing in things:
            self.texts += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                self.texts += traceback.format_exception(thing)

    def said(self):
        recorded = self._path.read_text()
        assert recorded.count("\n") > 5
        assert self._caplog.records
        assert self._exporter.get_finished_spans()
        return {
            "logs": "\n".join(self._caplog.messages) + self._caplog.text,
            "recording": recorded,
            "spans": " ".join(span.to_json() for span in self._exporter.get_finished_spans()),
            "reprs of records": "\n".join(self._reprs.seen),
            "stats": repr(attrs.asdict(self._stats.snapshot())),
            "reprs and errors": "\n".join(map(str, self.texts)),
        }

    def assert_silent(self):
        for where, text in self.said().items():
            leaks = re.findall(f".{{0,80}}(?:{SECRET}|{CODE}).{{0,80}}", text)
            assert not leaks, where


@pytest.mark.real
async def test_secrets_of_a_session_on_the_real_server_do_not_leak(tmp_path, caplog):
    asked = []

    async def command(request):
        await trio.lowlevel.checkpoint()
        watched.look_at(request, request.params)
        asked.append(request.command)
        return policies.decline("not this one") if ARGUMENT in request.command else policies.accept()

    watched = Watched(tmp_path / "session.jsonl", caplog)
    with trio.fail_after(30), watched.recorder:
        async with MockModel() as model:
            model.respond(Command(f"echo {OUTPUT}", escalate=REASON))
            model.respond(Command(f"echo {ARGUMENT}", escalate=REASON))
            model.say(ANSWER)
            model.respond(Text(ANSWER), Hang())
            model.say(ANSWER)
            model.respond(Failed(ANSWER))
            with offline_home(model, approval_policy="on-request") as home:
                env = {**home.env, "MY_SECRET": VARIABLE, "OPENAI_API_KEY": TOKEN}
                config = CodexConfig(env=env, inherit_env=False, cwd=home.workspace)
                policy = Policy(command=command)
                watched.look_at(config)
                async with open_codex(config, policy=policy, instruments=watched.instruments) as codex:
                    thread = await codex.thread_start(developer_instructions=PROMPT)
                    watched.look_at(codex, thread, thread.info)
                    async with thread.turn(PROMPT) as turn:
                        async for event in turn:
                            watched.look_at(event, event.params)
                    watched.look_at(turn, turn.result)
                    assert turn.result.final_response == ANSWER
                    assert any(
                        OUTPUT in (getattr(item, "aggregated_output", "") or "") for item in turn.result.items
                    )
                    async with thread.turn(PROMPT) as turn:
                        async for event in turn:
                            watched.look_at(event.params)
                            if event.method == "item/agentMessage/delta" and event.params.delta == ANSWER:
                                await turn.steer(STEER)
                                break
                        await turn.wait()
                    watched.look_at(turn.result, *codex.decisions)
                    with pytest.raises(errors.InvalidRequestError) as refused:
                        await codex.request("thread/resume", {"threadId": "no-such", "path": None})
                    watched.look_at(refused.value)
    assert len(asked) == 2
    watched.assert_silent()


async def test_secrets_planted_by_a_scripted_server_do_not_leak(tmp_path, caplog):
    """Cover tool arguments, tokens in responses and errors, junk, invalid messages, and a broken connection."""
    watched = Watched(tmp_path / "script.jsonl", caplog)
    config = CodexConfig(env={"MY_SECRET": VARIABLE}, max_line_bytes=100_000)
    of_turn = {"threadId": "thread-1", "turnId": "turn-1"}
    call = {
        **of_turn,
        "callId": "c",
        "tool": "lookup",
        "arguments": {SECRET: ARGUMENT, "id": TOKEN, "pin": CODE},
    }
    approval = {**of_turn, "itemId": "i", "startedAtMs": 0, "command": f"curl {TOKEN}", "cwd": f"/{VARIABLE}"}

    async def raise_it(request):
        await trio.lowlevel.checkpoint()
        raise RuntimeError("the policy's own words")

    async def script(server):
        await server.accept_turn()
        await server.ask(1, "item/tool/call", call)
        await server.answer_to(1)
        await server.ask(
            2, "account/chatgptAuthTokens/refresh", {"reason": TOKEN, "previousAccountId": TOKEN}
        )
        await server.answer_to(2)
        await server.ask(3, f"unknown/{SECRET.upper()}", {"token": TOKEN})
        await server.answer_to(3)
        await server.send_line(TOKEN.encode())
        await server.notify("configWarning", {"summary": TOKEN * 10_000})
        await server.notify("item/completed", {**of_turn, "item": {"type": "unheardOf", "token": TOKEN}})
        await server.notify("turn/diff/updated", {**of_turn, "diff": {"no": TOKEN}})
        await server.delta(ANSWER)
        await server.ask(4, "item/commandExecution/requestApproval", approval)

    with trio.fail_after(10), watched.recorder:
        policy = Policy(command=raise_it)
        async with fake_codex(config, policy=policy, instruments=watched.instruments) as (codex, server):
            server.give("account/login/start", {"type": "apiKey", "accessToken": TOKEN})
            watched.look_at(codex, config)
            await codex.request("account/login/start", {"type": "apiKey", "apiKey": TOKEN})
            thread = await codex.thread_start(base_instructions=PROMPT, config={SECRET: CODE})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(refuse, server)
                with pytest.raises(errors.RpcError) as refused:
                    await thread.run(PROMPT)
            watched.look_at(refused.value)
            async with codex.events() as events, trio.open_nursery() as nursery:
                nursery.start_soon(script, server)
                with pytest.raises(errors.PolicyError) as failed:
                    async with thread.turn(PROMPT) as turn:
                        nursery.start_soon(end_it, server)
                        await turn.wait()
                watched.look_at(failed.value, turn, turn.result)
                await server.hang_up()
                with pytest.raises(errors.ConnectionBroken) as broken:
                    async for event in events:
                        watched.look_at(event, event.params)
                watched.look_at(broken.value)
    watched.assert_silent()


async def test_the_error_of_a_turn_does_not_show_configured_values_in_results_or_history():
    said = f"unexpected status 401 Unauthorized: Incorrect API key provided: {TOKEN}."
    error = {"message": said, "additionalDetails": f"the key {TOKEN}", "codexErrorInfo": "unauthorized"}
    shown = {**error, "message": said.replace(TOKEN, "<MY_KEY>"), "additionalDetails": "the key <MY_KEY>"}
    config = CodexConfig(env={"MY_KEY": TOKEN})
    with trio.fail_after(10):
        async with fake_codex(config) as (codex, server):
            thread = await codex.thread_start()

            async def script():
                await server.accept_turn()
                await server.end_turn(status="failed", error=error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(script)
                with pytest.raises(errors.TurnFailed) as failed:
                    await thread.run(PROMPT)
            assert str(failed.value) == f"the turn failed: {shown['message']}"
            assert wire.encode(failed.value.result.error) == shown
            stored = {"id": "turn-1", "items": [], "status": "failed", "error": error}
            server.give("thread/turns/list", {"data": [stored], "nextCursor": None})
            [turn] = [turn async for turn in thread.turns()]
            assert wire.encode(turn.error) == shown


async def refuse(server):
    await (await server.expect("turn/start")).refuse("not now")


async def end_it(server):
    await (await server.expect("turn/interrupt")).answer({})
    await server.end_turn(status="interrupted")
