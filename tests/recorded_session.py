"""A session to be recorded and replayed. To record the golden files again, run:

uv run python tests/recorded_session.py
"""

from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from trio_codex import CodexConfig, Policy, open_codex, policies, tool
from trio_codex.recording import Recorder, Redaction
from trio_codex.testing import Command, Hang, MockModel, Text, ToolCall, offline_home

GOLDEN = Path(__file__).parent / "golden"
REDACTED = GOLDEN / "session.redacted.jsonl"
READABLE = GOLDEN / "session.readable.jsonl"

TEXTS = Redaction(keep={"aggregatedOutput", "arguments", "command", "delta", "reason", "text"})
"""Records this session without details of this machine."""

COMMAND = "echo granted"

PLANET = "a planet"
"""The arguments of the tool. Redaction does not change their length."""


@attrs.define
class Seen:
    """Everything that the caller of the client observes."""

    events: list = attrs.field(factory=list)
    texts: list = attrs.field(factory=list)
    results: list = attrs.field(factory=list)
    asked: list = attrs.field(factory=list)
    looked_up: list = attrs.field(factory=list)
    decisions: list = attrs.field(factory=list)


def policy_for(seen):
    async def command(request):
        await trio.lowlevel.checkpoint()
        seen.asked.append(request)
        return policies.accept("session")

    return Policy(command=command)


def tools_for(seen):
    # The parameter is named like a field of the protocol, because redaction removes other names.
    @tool
    async def look_up(query: str) -> str:
        """Look something up."""
        await trio.lowlevel.checkpoint()
        seen.looked_up.append(query)
        return f"all about {query}"

    return [look_up]


async def session(codex, seen):
    """Make a tool call, an approval, a steer and an interrupt, in a fixed order because each waits for an event."""
    thread = await codex.thread_start()
    for prompt, act in (("look it up", None), ("run it", None), ("talk", "steer"), ("talk on", "interrupt")):
        async with thread.turn(prompt) as turn:
            text = ""
            async for event in turn:
                seen.events.append((event.method, event.params))
                if event.method == "item/agentMessage/delta":
                    text += event.params.delta
                    if act == "steer":
                        await turn.steer("shorter")
                    elif act == "interrupt":
                        await turn.interrupt()
                    act = None
            seen.texts.append(text)
            seen.results.append(turn.result)
    seen.decisions.extend(
        (record.id, record.method, record.decided_by, record.decision, record.outcome)
        for record in codex.decisions
    )


@asynccontextmanager
async def recorded(*instruments):
    """Run the real server with a scripted model. Yield the client and the requests to its policy."""
    seen = Seen()
    async with MockModel() as model:
        model.respond(ToolCall("look_up", {"query": PLANET}))
        model.say("it is ", "there")
        model.respond(Command(COMMAND, escalate="it has to"))
        model.say("it is ", "done")
        model.respond(Text("a long"), Hang())
        model.say("short")
        model.respond(Text("on and"), Hang())
        with offline_home(model, approval_policy="on-request") as home:
            config = CodexConfig(env=home.env, inherit_env=False, cwd=home.workspace)
            async with open_codex(
                config, policy=policy_for(seen), tools=tools_for(seen), instruments=instruments
            ) as codex:
                yield codex, seen


async def record(path, redaction):
    with Recorder(path, redaction=redaction) as recorder:
        async with recorded(recorder) as (codex, seen):
            await session(codex, seen)


async def main():
    GOLDEN.mkdir(exist_ok=True)
    await record(REDACTED, Redaction())
    await record(READABLE, TEXTS)


if __name__ == "__main__":
    trio.run(main)
