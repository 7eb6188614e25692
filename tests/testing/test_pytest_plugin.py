"""The pytest plugin, in separate projects."""

import pytest

pytest_plugins = ["pytester"]

POLICY_AND_TOOL = """
import pytest
from trio_codex import policies, tool

@tool
async def look(place: str) -> str:
    "Look somewhere."
    return f"nothing {place}"

@pytest.mark.codex(tools=[look], policy=policies.accept_all)
async def test_it(fake_codex):
    codex, server = fake_codex
    await codex.thread_start()
    call = {"threadId": "thread-1", "turnId": "t", "callId": "c", "tool": "look", "arguments": {"place": "here"}}
    await server.ask(1, "item/tool/call", call)
    answer = await server.answer_to(1)
    assert answer["contentItems"] == [{"type": "inputText", "text": "nothing here"}]
"""


@pytest.fixture
def project(pytester):
    pytester.makeini("[pytest]\ntrio_mode = true\naddopts = --strict-markers\nfilterwarnings = error")
    return pytester


def test_a_policy_and_a_tool_can_be_tested_without_a_process(project):
    project.makepyfile(POLICY_AND_TOOL)
    project.runpytest().assert_outcomes(passed=1)


def test_the_scripted_server_can_be_a_process(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.codex(process=True)
        async def test_it(fake_codex):
            codex, server = fake_codex
            assert codex.pid
            await server.strike("exit", 3)
            assert (await codex.wait_closed()).returncode == 3
        """
    )
    project.runpytest().assert_outcomes(passed=1)


def test_the_closest_marker_takes_precedence_and_the_others_are_merged(project):
    project.makepyfile(
        """
        import pytest
        from trio_codex import CodexConfig
        from trio_codex.instruments import Instrument

        class Hearing(Instrument):
            def frame_sent(self, connection, line):
                heard.append(line)

        heard = []
        pytestmark = pytest.mark.codex(version="0.1.2", instruments=[Hearing()])

        async def test_far(fake_codex):
            codex, _ = fake_codex
            assert codex.metadata.server_version == "0.1.2"
            assert heard

        @pytest.mark.codex(version="0.2.0")
        async def test_close(fake_codex):
            codex, _ = fake_codex
            assert codex.metadata.server_version == "0.2.0"
        """
    )
    project.runpytest().assert_outcomes(passed=2)


def test_a_failed_test_shows_the_last_frames(project):
    project.makepyfile(
        """
        async def test_fails(fake_codex):
            codex, server = fake_codex
            await codex.thread_start()
            await server.notify("x" * 1000, {})
            assert False, "on purpose"
        """
    )
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*on purpose*",
            "*codex: the last frames on the wire*",
            '* → {*"method":"initialize"*',
            '* ← {"id":*',
            '* → {*"method":"thread/start"*',
        ]
    )


def test_no_frames_are_shown_for_a_passing_test_or_one_without_a_client(project):
    project.makepyfile(
        """
        async def test_passes(fake_codex):
            pass

        def test_fails():
            assert False
        """
    )
    result = project.runpytest("-rA")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*on the wire*")


def test_an_unexpected_request_fails_only_a_test_that_would_otherwise_pass(project):
    project.makepyfile(
        """
        import pytest
        import trio, trio.testing

        async def ask(codex):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(codex.models)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

        async def test_passes(fake_codex):
            await ask(fake_codex[0])

        async def test_fails(fake_codex):
            await ask(fake_codex[0])
            assert False, "on purpose"

        @pytest.mark.codex(strict=False)
        async def test_lenient(fake_codex):
            await ask(fake_codex[0])
        """
    )
    result = project.runpytest()
    result.assert_outcomes(passed=1, failed=2)
    raised = [line for line in result.outlines if line.startswith("E ") and "unexpected requests" in line]
    assert len(raised) == 1


def test_positional_arguments_of_the_marker_are_rejected(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.codex(5)
        async def test_it(fake_codex):
            pass
        """
    )
    result = project.runpytest()
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*takes only keyword arguments*"])


def test_the_package_is_not_imported_in_a_project_that_does_not_use_it(project):
    project.makeini("")
    project.makepyfile(
        """
        import sys

        def test_it():
            assert "pytest_trio_codex" in sys.modules
            assert not [name for name in sys.modules if name.startswith("trio_codex")]
        """
    )
    project.runpytest_subprocess("-p", "no:trio").assert_outcomes(passed=1)


@pytest.mark.real
def test_the_fixtures_of_the_real_server_and_its_model_are_connected(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.codex(approval_policy="on-request")
        async def test_it(offline_codex, mock_model):
            mock_model.say("hello")
            codex, model, home = offline_codex
            assert model is mock_model
            thread = await codex.thread_start()
            assert (await thread.run("hi")).final_response == "hello"
            assert 'approval_policy = "on-request"' in (home.codex_home / "config.toml").read_text()
        """
    )
    project.runpytest().assert_outcomes(passed=1)


@pytest.mark.parametrize("fixture", ["fake_codex", "offline_codex", "mock_model"])
@pytest.mark.parametrize("test", ["async def test_it({}): pass", "def test_it({}): pass"])
def test_a_fixture_outside_trio_fails_with_a_hint_on_the_configuration(pytester, test, fixture):
    pytester.makepyfile(test.format(fixture))
    result = pytester.runpytest("-p", "no:warnings")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [f"*fixture {fixture} needs an async test that runs in Trio:*trio_mode = true*"]
    )
