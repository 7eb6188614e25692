"""Shared code that runs each example without an account and without a network.

With ``--offline``, the real ``codex`` binary runs in a temporary home and talks to a scripted model. Without it, an
example uses your own login and configuration. Set ``CODEX_BIN`` in the environment to use another binary.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from trio_codex import CodexConfig
from trio_codex.policies import git_command
from trio_codex.testing import (
    Command,
    Gate,
    HTTPFailure,
    MockModel,
    Pause,
    Question,
    Response,
    Text,
    ToolCall,
    Usage,
    UserInput,
    offline_home,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@asynccontextmanager
async def example_config(example: str, *, offline: bool | None = None) -> AsyncGenerator[CodexConfig]:
    """Provide the configuration for an example.

    Args:
        example: The name of the example, which selects the script of the model.
        offline: Whether to use the scripted model; by default this depends on ``--offline`` in the command line.
    """
    codex_bin = os.environ.get("CODEX_BIN")
    if not ("--offline" in sys.argv if offline is None else offline):
        yield CodexConfig(codex_bin=codex_bin)
        return
    async with MockModel() as model:
        _write_script(example, model)
        with offline_home(model) as home:
            yield home.config(CodexConfig(codex_bin=codex_bin))


@attrs.frozen
class _Open(Pause):
    """Opens a gate, so that another response continues."""

    gate: Gate

    async def take(self) -> None:
        await trio.lowlevel.checkpoint()
        self.gate.open()


def _write_script(example: str, model: MockModel) -> None:
    match example:
        case "quickstart":
            model.say("It is a Trio client for Codex. ", "A turn is a scope. ", "Leaving it ends it.")
            model.say("Fixed: ", "the test ", "passes now.")
        case "attach":
            model.hang("Once upon a time ")
            model.say("Done.")
        case "stream_events":
            model.respond(Text("I look first. ", phase="commentary"), Command("ls"))
            model.say("Nothing ", "to ", "see ", "here.", phase="final_answer")
        case "approvals":
            model.run_command(git_command("log", "-3"), escalate="to see what changed")
            model.run_command("df -h", escalate="to see how much space is left")
            model.run_command("rm -rf build", escalate="to start from scratch")
            model.say("Two of the three were allowed.")
        case "inbox":
            model.run_command("ls", escalate="to see what is here")
            model.run_command("rm -rf build", escalate="to clean up")
            model.say("One of the two was allowed.")
        case "user_input":
            questions = (
                Question("color", "Which color?", "Red", "Blue"),
                Question("size", "Which size?", "Small", "Large"),
            )
            model.respond(UserInput(*questions))
            model.say("A large blue fence it is.")
        case "elicitation":
            for tool in ("ask", "ask_url", "plain"):
                model.respond(ToolCall(tool, {"name": "Ada"}, namespace="mcp__held"))
            model.say("Ada was greeted.")
        case "turn_controls":
            model.hang("Once upon a time ", "there was ")
            model.say("In short: a fox.")
            model.hang("Chapter one. ")
        case "deadlines":
            model.run_command("echo half of the work is done")
            model.hang("The other half ")
        case "many_agents":
            for topic in ("tests", "docs", "types"):
                model.script(topic).say(f"The {topic} ", "look fine.")
        case "batch":
            for name in ("trio", "attrs", "cattrs"):
                model.script(f" {name} ").say(f"{name} is ", "small.")
        case "harness":
            for number in range(1, 1001):
                # The default answers every attempt: one that is interrupted sends its prompt again.
                square = Text(f'{{"number": {0 if number == 5 else number**2}}}')
                default = Response(HTTPFailure(400, message="no") if number == 7 else square)
                script = model.script(f"What is {number} squared?", default=default)
                if number == 3:
                    script.fail(429, message="slow down")
        case "letters":
            model.say("Dear Ada, at nine.")
            model.hang("Dear Grace, ")
            model.say("Dear Grace, we do.")
            model.fail(429, message="slow down")
            model.say("Dear Ada, never.")
        case "resume":
            model.say("I will remember the number 42.")
            model.say("The number was 42.")
        case "error_handling":
            model.fail(429, message="slow down")
            model.say("Here I am again.")
            model.hang("Working ")
        case "web_service":
            model.say("Here ", "it is.")
            model.hang("Once upon a time ", "there was ")
            model.hang("Long ago ")
            model.say("A new one.")
        case "retry":
            model.fail(429, message="slow down")
            model.fail(503, message="down for a moment")
            model.say("Two bugs.")
            model.fail(401, message="who are you?")
        case "threads":
            for answer in ("Red.", "Blue.", "Violet."):
                model.say(answer)
        case "login":
            pass
        case "usage_and_budgets":
            model.respond(Text("Fine."), Usage(20, 5))
            model.respond(Text("Still fine."), Usage(30, 5))
            for _ in range(10):
                model.respond(Command("true"), Usage(40, 10))
        case "models_and_metadata":
            model.say("I am.")
        case "image_input":
            model.say("Red.")
            model.say("Blue.")
        case "all_turn_options":
            model.say('{"summary": "It is empty.", "files": 0}')
            model.say("Nothing.")
        case "agents":
            counted = Gate()
            model.script("Count the files.").respond(Text("There are ", "3.", delay=0.5), _Open(counted))
            # The server may report the end of the agent to the open turn, and then send the model another request.
            turn = model.script("Let an agent count", default=Response(Text("3 files.")))
            turn.respond(ToolCall("spawn_agent", {"message": "Count the files."}, namespace="multi_agent_v1"))
            turn.respond(counted, Text("3 files."))
        case "tools":
            model.respond(ToolCall("find", {"text": "spool"}), ToolCall("find", {"word": "spool"}))
            model.call_tool("borrow", {"part": {"shelf": "B", "number": 12}, "days": 3}, namespace="shop")
            model.say("The spool is yours for three days.")
        case "structured_output":
            model.say(
                '{"title": "Fix the leak", "steps": [{"what": "Find it.", "minutes": 20},',
                ' {"what": "Fix it.", "minutes": null}]}',
            )
            model.say("Here is your plan: first find it, then fix it.")
        case "chat":
            model.say("Hello ", "Ada.")
            model.say("It is Ada.")
        case "supervised":
            model.say("There are 4.")
            model.hang("Half of them are sorted.")
            model.say("The rest is sorted, too.")
            model.say("4 files, sorted.")
        case "durable":
            model.say("First the fixes.")
            model.hang("They are")
            model.say("The fixes are written.")
            model.say("All is well.")
        case "exec_scope" | "watch_files" | "mcp_servers":
            pass
        case "review":
            model.say("No mistakes found.")
            model.say("In short: a review without findings.")
        case "goal":
            model.say("Two tests fail.")
            model.respond(ToolCall("update_goal", {"status": "complete"}))
            model.say("Now all of them pass.")
            model.hang("I begin with the tutorial.")
        case "blocking/first_thread":
            model.say("Hello from a thread.")
        case "blocking/run":
            model.say("A repository.")
            model.say("Code.")
        case "blocking/stream_events":
            model.say("Once ", "upon ", "a time.")
        case "blocking/models_and_metadata":
            pass
        case "blocking/existing_thread":
            model.say("I will remember it.")
            model.say("The number was 42.")
        case "blocking/lifecycle_and_controls":
            model.say("Red.")
            model.say("Blue.")
            model.hang("1 ")
            model.hang("1 ")
        case "blocking/image_and_text":
            model.say("Red.")
        case "blocking/local_image_and_text":
            model.say("Red.")
        case "blocking/asyncio_parity":
            model.say("Hello.")
            model.say("Hello.")
        case "blocking/errors_and_retry":
            model.fail(400, message="no")
            model.say("Here I am.")
        case "blocking/chat":
            model.say("Hello ", "Ada.")
            model.say("It is Ada.")
        case "blocking/all_turn_options":
            model.say('{"files": 0}')
        case "blocking/choosing_a_model":
            model.say("I am.")
        case _:
            raise ValueError(f"there is no script for {example!r}")
