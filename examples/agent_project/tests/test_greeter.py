"""Test the policy and the tool without a process, and the whole agent on the real server with a scripted model."""

import pytest
from greeter import POLICY, greet, language

from trio_codex import Codex
from trio_codex.testing import Command, FakeServer, OfflineCodex, Text, ToolCall


@pytest.mark.codex(policy=POLICY)
@pytest.mark.parametrize(
    ("command", "decision"),
    [("echo hi", "accept"), ("/bin/bash -c 'echo hi'", "accept"), ("echo hi; rm -rf /", "decline")],
)
async def test_it_may_greet_and_nothing_else(
    fake_codex: tuple[Codex, FakeServer], command: str, decision: str
) -> None:
    codex, server = fake_codex
    await codex.thread_start()
    await server.ask(1, "item/commandExecution/requestApproval", command=command)
    assert await server.answer_to(1) == {"decision": decision}


@pytest.mark.codex(tools=[language])
async def test_the_agent_can_look_up_a_language(fake_codex: tuple[Codex, FakeServer]) -> None:
    codex, server = fake_codex
    await codex.thread_start()
    await server.ask(1, "item/tool/call", tool="language", arguments={"name": "Sophie"})
    assert (await server.answer_to(1))["contentItems"] == [{"type": "inputText", "text": "French"}]


@pytest.mark.codex(policy=POLICY, tools=[language], approval_policy="on-request")
async def test_the_whole_agent_greets(offline_codex: OfflineCodex) -> None:
    codex, model, _ = offline_codex
    model.respond(ToolCall("language", {"name": "Sophie"}))
    model.respond(Command("echo Bonjour", escalate="to greet"))
    model.respond(Text("Bonjour, Sophie!"))
    assert await greet(codex, "Sophie") == "Bonjour, Sophie!"
    looked_up, printed = model.requests[-1].function_outputs.values()
    assert looked_up == "French"
    assert "Bonjour" in printed  # so the command ran
    model.assert_all_used()
