"""Every request that the real server can be made to send, how to provoke it, and the effect of each decision."""

import json
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from trio_codex import Codex, CodexConfig, Thread, open_codex, policies, wire
from trio_codex.testing import (
    Command,
    MockModel,
    Patch,
    Permissions,
    Question,
    Step,
    ToolCall,
    UserInput,
    write_offline_home,
)

MCP_SERVER = Path(__file__).with_name("mcp_server.py")
CALL = "the-call"
"""Id of the model's call that provokes the request."""

LOOKUP = wire.FunctionDynamicToolSpec(name="lookup", description="looks up", input_schema={"type": "object"})
FEATURES = {"default_mode_request_user_input": True, "request_permissions_tool": True}


@attrs.define(eq=False)
class World:
    """A client of the real server, and everything that a decision may change outside it.

    Attributes:
        sent: What the client wrote, line by line.
    """

    directory: Path
    codex: Codex
    model: MockModel
    thread: Thread
    sent: list

    @property
    def made(self):
        """The file that commands and patches would create."""
        return self.directory / "workspace" / "made.txt"

    @property
    def granted(self):
        """A directory outside of the sandbox."""
        return str(self.directory / "granted")

    @property
    def marks(self):
        """What the MCP server did."""
        path = self.directory / "marks"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def replies(self):
        """The client's responses to server requests."""
        return [line.get("result", line.get("error")) for line in self.sent if "method" not in line]

    @property
    def told(self):
        """The result of the call, as reported to the model; ``None`` if nothing was reported."""
        outputs = [request.function_outputs for request in self.model.requests]
        return next((output[CALL] for output in outputs if CALL in output), None)

    @property
    def decisions(self):
        """The records of the audit, abbreviated."""
        return [
            (record.outcome, str(record.decided_by), record.decision, record.reason)
            for record in self.codex.decisions
        ]

    def lead_to(self, scenario):
        """Make the model provoke the request, and end the turn once it has the result."""
        self.model.respond(scenario.step(self))
        self.model.say("done")


@attrs.frozen(kw_only=True)
class Scenario:
    """A request and its decisions.

    Attributes:
        name: Its name in the ids of tests.
        callback: The policy's callback.
        step: What the model does.
        accept: The decision that allows the action.
        accepted: The response on the wire after that decision.
        denied: The response on the wire if the request is declined or the callback fails.
        cancelled: The response on the wire if it is cancelled; by default the same as if declined.
        happened: Returns whether the action took place.
        told_accepted: A part of the report to the model if the action took place.
        told_denied: A part of the report to the model if the action did not take place.
        lasts: Whether accepting it for the session answers later requests, too.
        fails_turn: Whether a failing callback fails the turn.
        mcp: Whether the MCP server is needed.
    """

    name: str
    callback: str
    step: Callable[[World], Step]
    accept: policies.AnyDecision
    accepted: Callable[[World], wire.JSON]
    denied: wire.JSON
    cancelled: wire.JSON = attrs.Factory(lambda self: self.denied, takes_self=True)
    happened: Callable[[World], bool]
    told_accepted: str
    told_denied: str
    lasts: bool = False
    fails_turn: bool = True
    mcp: bool = False

    def __str__(self):
        return self.name


def was_answered(world, action):
    return any(answer.get("action") == action for what, answer in world.marks if what == "answered")


COMMAND = Scenario(
    name="command",
    callback="command",
    step=lambda world: Command("touch made.txt", escalate="may I?", call_id=CALL),
    accept=policies.accept(),
    accepted=lambda world: {"decision": "accept"},
    denied={"decision": "decline"},
    cancelled={"decision": "cancel"},
    happened=lambda world: world.made.exists(),
    told_accepted="exited with code 0",
    told_denied="rejected by user",
    lasts=True,
)
PATCH = Scenario(
    name="patch",
    callback="file_change",
    step=lambda world: Patch(
        "*** Begin Patch\n*** Add File: made.txt\n+new line\n*** End Patch\n", call_id=CALL
    ),
    accept=policies.accept(),
    accepted=lambda world: {"decision": "accept"},
    denied={"decision": "decline"},
    cancelled={"decision": "cancel"},
    happened=lambda world: world.made.exists(),
    told_accepted="Success",
    told_denied="rejected by user",
    lasts=True,
)
PERMISSIONS = Scenario(
    name="permissions",
    callback="permissions",
    step=lambda world: Permissions("why", write=(world.granted,), call_id=CALL),
    accept=policies.accept(),
    accepted=lambda world: {"permissions": wanted(world), "scope": "turn"},
    denied={"permissions": {}, "scope": "turn"},
    happened=lambda world: f'"write":["{world.granted}"]' in (world.told or ""),
    told_accepted='"file_system":{',
    told_denied='"file_system":null',
)
USER_INPUT = Scenario(
    name="user-input",
    callback="user_input",
    step=lambda world: UserInput(Question("colour", "Which?", "Blue", "Red"), call_id=CALL),
    accept=policies.answers({"colour": "Blue"}),
    accepted=lambda world: {"answers": {"colour": {"answers": ["Blue"]}}},
    denied={"answers": {}},
    happened=lambda world: "Blue" in (world.told or ""),
    told_accepted='{"answers":{"colour":{"answers":["Blue"]}}}',
    told_denied='{"answers":{}}',
)
DYNAMIC_TOOL = Scenario(
    name="dynamic-tool",
    callback="tool_call",
    step=lambda world: ToolCall("lookup", call_id=CALL),
    accept=policies.ToolResult.of_text("sunny"),
    accepted=lambda world: {
        "contentItems": [{"type": "inputText", "text": "sunny"}],
        "success": True,
    },
    denied={
        "contentItems": [{"type": "inputText", "text": "declined by the client"}],
        "success": False,
    },
    happened=lambda world: "sunny" in (world.told or ""),
    told_accepted="sunny",
    told_denied="declined by the client",
    fails_turn=False,
)
FORM = Scenario(
    name="form",
    callback="elicitation",
    step=lambda world: ToolCall("form", namespace="mcp__marks", call_id=CALL),
    accept=policies.accept(content={"ok": True}),
    accepted=lambda world: {"action": "accept", "content": {"ok": True}},
    denied={"action": "decline"},
    cancelled={"action": "cancel"},
    happened=lambda world: was_answered(world, "accept"),
    told_accepted='{"action": "accept", "content": {"ok": true}}',
    told_denied='{"action": "decline"}',
    mcp=True,
)
LINK = Scenario(
    name="link",
    callback="elicitation",
    step=lambda world: ToolCall("link", namespace="mcp__marks", call_id=CALL),
    accept=policies.accept(),
    accepted=lambda world: {"action": "accept"},
    denied={"action": "decline"},
    cancelled={"action": "cancel"},
    happened=lambda world: was_answered(world, "accept"),
    told_accepted='{"action": "accept"',
    told_denied='{"action": "decline"}',
    mcp=True,
)
MCP_TOOL = Scenario(
    name="mcp-tool",
    callback="elicitation",
    step=lambda world: ToolCall("write", {"word": "hello"}, namespace="mcp__marks", call_id=CALL),
    accept=policies.accept(),
    accepted=lambda world: {"action": "accept", "content": {}},
    denied={"action": "decline"},
    cancelled={"action": "cancel"},
    happened=lambda world: ["called", "write"] in world.marks,
    told_accepted="wrote hello",
    told_denied="user rejected MCP tool call",
    lasts=True,
    mcp=True,
)

SCENARIOS = [COMMAND, PATCH, PERMISSIONS, USER_INPUT, DYNAMIC_TOOL, FORM, LINK, MCP_TOOL]


def wanted(world):
    return {
        "fileSystem": {
            "write": [world.granted],
            "entries": [{"access": "write", "path": {"type": "path", "path": world.granted}}],
        }
    }


@asynccontextmanager
async def running(scenario, directory, sent):
    """Start the real server for a scenario.

    The world can still be inspected after the scope, when the server and everything it started have ended.
    """
    directory = directory.resolve()
    (directory / "granted").mkdir()
    server = {"command": sys.executable, "args": ["-S", "-E", str(MCP_SERVER), str(directory / "marks")]}
    with trio.fail_after(20):
        async with MockModel() as model:
            home = write_offline_home(
                directory,
                model,
                approval_policy="on-request",
                features=FEATURES,
                mcp_servers={"marks": server} if scenario.mcp else None,
            )
            config = CodexConfig(env=home.env, inherit_env=False, cwd=home.workspace)
            async with open_codex(config) as codex:
                thread = await codex.thread_start(dynamic_tools=[LOOKUP])
                yield World(directory, codex, model, thread, sent)
