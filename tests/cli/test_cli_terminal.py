"""``trio-codex run`` on a terminal: questions and their answers, and Ctrl-C."""

import os
import pty

import pytest
import trio
import trio.testing
from cli_driver import on_terminal, processes_with

from trio_codex import policies, wire
from trio_codex.cli._ask import Asker, read_line
from trio_codex.cli._render import Screen
from trio_codex.policies import CommandRequest
from trio_codex.testing import Command, Gate, Text

pytestmark = pytest.mark.real

ADD_NOTES = "*** Begin Patch\n*** Add File: notes.txt\n+one\n+two\n*** End Patch"


@pytest.mark.parametrize(("answer", "exists", "said"), [("y", True, "accepted"), ("n", False, "declined")])
async def test_a_question_about_a_command_is_answered_on_the_terminal(model, home, answer, exists, said):
    model.run_command("touch x.txt", escalate="I want to")
    model.say("So be it.")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("$ touch x.txt\n? Run this command outside the sandbox?")
        await terminal.expect("touch x.txt")
        await terminal.expect("because I want to")
        await terminal.expect("stop the turn > ")
        assert not (home.workspace / "x.txt").exists()
        await terminal.send(f"{answer}\n")
        await terminal.expect(said)
        await terminal.expect("\nSo be it.\n")
        assert await terminal.end() == 0
    assert (home.workspace / "x.txt").exists() == exists
    assert processes_with(home.codex_home) == []


@pytest.mark.parametrize(("answer", "exists"), [("yes", True), ("no", False)])
async def test_a_question_about_files_shows_the_diff(model, home, answer, exists):
    model.apply_patch(ADD_NOTES)
    model.say("So be it.")
    async with on_terminal("run", "Write notes.", home=home) as terminal:
        await terminal.expect("add notes.txt  +2 -0\n    +one\n    +two\n")
        await terminal.expect("stop the turn > ")
        await terminal.send(f"{answer}\n")
        await terminal.expect("So be it.")
        assert await terminal.end() == 0
    assert (home.workspace / "notes.txt").exists() == exists


async def test_for_the_session_is_not_asked_again(model, home):
    for _ in range(2):
        model.run_command("date >> x.txt", escalate="I want to")
    model.say("So be it.")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("stop the turn > ")
        await terminal.send("s\n")
        await terminal.expect("So be it.")
        assert await terminal.end() == 0
    assert terminal.seen.count("? Run this command") == 1
    assert len((home.workspace / "x.txt").read_text().splitlines()) == 2


async def test_what_was_typed_before_the_question_is_no_answer_and_nonsense_is_asked_again(model, home):
    gate = Gate()
    model.respond(Text("Wait."), gate, Command("touch x.txt", escalate="I want to"))
    model.say("So be it.")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("Wait.")
        await terminal.send("y\n")
        gate.open()
        await terminal.expect("stop the turn > ")
        await terminal.send("maybe\n")
        await terminal.expect("stop the turn > ")
        await terminal.send("n\n")
        await terminal.expect("So be it.")
        assert await terminal.end() == 0
    assert not (home.workspace / "x.txt").exists()


async def test_stop_interrupts_the_turn(model, home):
    model.run_command("touch x.txt", escalate="I want to")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("stop the turn > ")
        await terminal.send("q\n")
        assert await terminal.end() == 130
    assert "interrupted" in terminal.seen
    assert not (home.workspace / "x.txt").exists()
    assert len(model.requests) == 1


async def test_the_end_of_input_declines(model, home):
    model.run_command("touch x.txt", escalate="I want to")
    model.say("So be it.")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("stop the turn > ")
        await terminal.send("\x04")
        await terminal.expect("nobody to answer")
        await terminal.expect("So be it.")
        assert await terminal.end() == 0
    assert not (home.workspace / "x.txt").exists()


async def test_ctrl_c_at_a_question_takes_it_back_and_interrupts_the_turn(model, home):
    model.run_command("touch x.txt", escalate="I want to")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("stop the turn > ")
        await terminal.send("\x03")
        await terminal.expect("no longer asked")
        await terminal.expect("trio-codex: interrupted")
        assert await terminal.end() == 130
    assert "Traceback" not in terminal.seen
    assert not (home.workspace / "x.txt").exists()
    assert processes_with(home.codex_home) == []


async def test_ctrl_c_in_the_middle_of_the_answer_drops_the_stream_of_the_model(model, home):
    model.hang("Counting: ", "one")
    async with on_terminal("run", "Count.", home=home) as terminal:
        await terminal.expect("Counting: one")
        await terminal.send("\x03")
        await terminal.expect("\ntrio-codex: interrupted")
        assert await terminal.end() == 130
    await model.requests[0].closed.wait()
    assert not model.requests[0].completed


async def test_a_command_cannot_hide_behind_escape_sequences(model, home):
    model.run_command("touch x.txt #\x1b[2K\r\u202eecho harmless", escalate="I want to")
    model.say("So be it.")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("? Run this command")
        await terminal.expect("touch x.txt #\\x1b[2K\\x0d\\u202eecho harmless")
        await terminal.expect("stop the turn > ")
        await terminal.send("n\n")
        assert await terminal.end() == 0


@pytest.fixture
def asker():
    master, slave = pty.openpty()
    yield Asker(Screen(), slave, "/work"), master
    os.close(master)
    os.close(slave)


def request(command):
    params = wire.CommandExecutionRequestApprovalParams(
        item_id="i", started_at_ms=0, thread_id="t", turn_id="u"
    )
    return CommandRequest(
        thread_id="t", turn_id="u", item_id="i", command=command, cwd=None, reason=None, params=params
    )


async def test_a_withdrawn_request_cancels_its_question_and_the_next_one_is_asked(asker, capsys):
    asked, master = asker
    decisions = []

    async def ask(command, scope):
        with scope:
            decisions.append(await asked.policy.command(request(command)))

    first, second = trio.CancelScope(), trio.CancelScope()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first", first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, "second", second)
            await trio.testing.wait_all_tasks_blocked()
            assert "second" not in capsys.readouterr().err
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert "no longer asked" in (shown := capsys.readouterr().err)
            assert "second" in shown
            os.write(master, b"y\n")
    assert decisions == [policies.accept()]
    assert first.cancelled_caught


async def test_a_line_is_read_without_a_thread(asker):
    asked, master = asker
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(os_write_soon, master)
            assert await read_line(asked._terminal) == "wörd\n"


async def os_write_soon(master):
    await trio.lowlevel.checkpoint()
    os.write(master, "wörd\n".encode())
