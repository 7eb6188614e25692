"""The scope that runs the real server with a mock model and an offline home."""

import pytest
import trio

from trio_codex import CodexConfig, open_codex, policies, tool
from trio_codex.testing import Command, MockModel, ToolCall, offline_codex

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
async def bounded():
    with trio.fail_after(20):
        yield


async def test_offline_codex_yields_client_model_and_home_and_leaves_nothing_behind():
    async with offline_codex() as (codex, model, home):
        model.say("hello")
        thread = await codex.thread_start()
        assert (await thread.run("hi")).final_response == "hello"
        assert thread.info.cwd == str(home.workspace)
        model.assert_all_used()
    assert not home.codex_home.exists()


async def test_offline_codex_accepts_the_options_of_the_client_and_the_home():
    called = []

    @tool
    async def look(place: str) -> str:
        """Look somewhere."""
        called.append(place)
        return "nothing"

    async with offline_codex(
        CodexConfig(client_name="me", cwd="/"),
        policy=policies.accept_all,
        tools=[look],
        approval_policy="on-request",
        server_config='developer_instructions = "be brief"',
    ) as (codex, model, home):
        assert codex.metadata.user_agent.startswith("me/")
        made = home.workspace / "made"
        model.respond(Command(f"touch {made}", escalate="please"), ToolCall("look", {"place": "here"}))
        model.say("done")
        thread = await codex.thread_start()
        await thread.run("go")
        assert made.exists()
        assert called == ["here"]
        assert thread.info.cwd == "/"
        assert any("be brief" in text for text in model.requests[0].input_texts)


async def test_a_second_server_can_use_the_same_home_and_the_callers_model():
    async with MockModel() as model:
        async with offline_codex(model=model) as offline:
            assert offline.model is model
            model.say("first")
            first = await offline.codex.thread_start()
            await first.run("one")
            async with open_codex(offline.home.config()) as other:
                model.say("second")
                result = await (await other.thread_start()).run("two")
                assert result.final_response == "second"
                assert first.id in [entry.id for entry in (await other.thread_list()).data]
        model.assert_all_used()


async def test_an_exception_from_the_body_propagates_unchanged():
    with pytest.raises(ZeroDivisionError):
        async with offline_codex():
            raise ZeroDivisionError
