"""``trio-codex chat``: turns, steering, Ctrl-C, commands and questions on a terminal; lines of stdin without one."""

import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest
import trio
from cli_driver import COMMAND, on_terminal, processes_with, rest, run_cli, started_cli
from test_cli_run import ADD_NOTES, is_server

from trio_codex import CodexConfig, errors
from trio_codex.cli._chat import Chat
from trio_codex.cli._render import Screen
from trio_codex.testing import Command, Gate, Patch, Text, fake_codex

pytestmark = pytest.mark.real

PROMPT = "»  "
TYPE = "type to steer, Ctrl-C interrupts"


@asynccontextmanager
async def chatting(home, *args):
    """Start a chat on a terminal, and wait for its prompt."""
    async with on_terminal("chat", *args, home=home) as terminal:
        await terminal.expect(PROMPT)
        yield terminal


async def begin_to_count(terminal):
    """Start a turn that runs until it is interrupted or steered. The model must hang after ``Counting``."""
    await terminal.send("Count.\n")
    await terminal.expect("Counting")
    await terminal.expect(TYPE)


async def test_answers_are_markdown_and_output_diffs_and_tokens_are_shown(model, home):
    model.respond(
        Text("# Plan\n\nI will *lo", "ok*.\n"), Command("printf 'a\\nbb\\n'; exit 3"), Patch(ADD_NOTES)
    )
    model.say("- one\n- two\n\n[there](https://example.org) \x1b]0;title\x07")
    model.say("Again.")
    async with on_terminal("chat", "-s", "workspace-write", home=home) as terminal:
        await terminal.expect("/help lists the commands")
        await terminal.send("Look.\r")
        await terminal.expect("» Look.\n")
        await terminal.expect("Plan\n")
        await terminal.expect("I will look.\n")
        await terminal.expect("$ printf 'a\\nbb\\n'; exit 3\n")
        for line in (
            "  │ a\n", "  │ bb\n", "  ✗ exit 3", "± add notes.txt  +2 -0\n", "  +one\n", "  +two\n",
            " • one\n • two\n", "there (https://example.org) \\x1b]0;title\\x07\n",
        ):  # fmt: skip
            await terminal.expect(line)
        await terminal.expect("tokens: 20 in, 10 out · ")
        await terminal.send("And again.\n")
        await terminal.expect("Again.\n")
        await terminal.expect("tokens: 10 in, 5 out · in total: 30 in, 15 out")
        await terminal.send("\x04")
        await terminal.expect("To continue later: trio-codex chat --resume ")
        assert await terminal.end() == 0
    assert processes_with(home.codex_home) == []


async def test_a_line_typed_during_a_turn_steers_it_and_only_some_commands_are_available(model, home):
    model.hang("Counting")
    model.say("Blue it is.")
    async with chatting(home) as terminal:
        await begin_to_count(terminal)
        await terminal.send("/status\n")
        await terminal.expect("waiting for: model; last event ")
        await terminal.send("/fork\n")
        await terminal.expect("not available while a turn is running")
        await terminal.send("In green\x17blue.\n")
        await terminal.expect("» In blue.\n")
        await terminal.expect("↪ sent to the running turn", "Blue it is.")
        await terminal.expect("tokens: ")
        await terminal.send("/quit\n")
        assert await terminal.end() == 0
    assert model.requests[1].last_user_text == "In blue."
    assert len(model.requests) == 2


async def test_ctrl_c_interrupts_the_turn_then_clears_the_line_then_quits(model, home):
    model.hang("Counting")
    async with chatting(home) as terminal:
        await begin_to_count(terminal)
        await terminal.send("typed ")
        await terminal.expect("» typed")
        await terminal.send("\x03")
        await terminal.expect("interrupted after ")
        await model.requests[0].closed.wait()
        await terminal.expect("» typed")
        await terminal.send("\x03")
        await terminal.expect("»  ")
        await terminal.send("\x03")
        await terminal.expect("press Ctrl-C again or Ctrl-D to quit")
        await terminal.send("\x03")
        assert await terminal.end() == 0
        assert terminal.is_normal()
    assert "Traceback" not in terminal.seen
    assert processes_with(home.codex_home) == []


async def test_ctrl_z_gives_the_terminal_to_the_shell_and_the_chat_continues_where_it_was(model, home):
    model.say("hello")
    shell = ["/bin/sh", "-c", 'set -m; "$@"; echo stopped; read -r line; fg', "sh", *COMMAND]
    async with on_terminal("chat", home=home, command=shell) as terminal:
        await terminal.expect(PROMPT)
        await terminal.send("Say ")
        await terminal.expect("» Say")
        await terminal.send("\x1a")
        await terminal.expect("stopped\n")
        assert terminal.is_normal()
        await terminal.send("\n")
        await terminal.expect("» Say")
        assert not terminal.is_normal()
        await terminal.send("hello.\n")
        await terminal.expect("tokens: ")
        await terminal.send("\x04")
        assert await terminal.end() == 0
        assert terminal.is_normal()
    assert model.requests[0].last_user_text == "Say hello."


async def test_ctrl_z_is_ignored_where_no_shell_could_continue_the_chat(home):
    async with chatting(home) as terminal:
        await terminal.send("\x1a")
        await terminal.send("typed")
        await terminal.expect("» typed")


async def test_ctrl_z_at_a_question_leaves_the_terminal_as_it_is(model, home):
    model.run_command("touch x.txt", escalate="I want to")
    model.say("So be it.")
    async with chatting(home) as terminal:
        await terminal.send("Make x.\n")
        await terminal.expect("stop the turn > ")
        await terminal.send("\x1an\n")
        await terminal.expect("So be it.")
        await terminal.send("\x04")
        assert await terminal.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_that_ends_the_chat_restores_the_terminal(model, home, number):
    model.hang("Counting")
    async with chatting(home) as terminal:
        await begin_to_count(terminal)
        terminal.process.send_signal(number)
        assert await terminal.end() == -number
        assert terminal.is_normal()
    await model.requests[0].closed.wait()
    assert "Traceback" not in terminal.seen


async def test_the_end_of_input_during_a_turn_interrupts_it_and_quits(model, home):
    model.hang("Counting")
    async with chatting(home) as terminal:
        await begin_to_count(terminal)
        await terminal.send("\x04")
        await terminal.expect("interrupted after ")
        assert await terminal.end() == 0
    await model.requests[0].closed.wait()


async def test_a_question_takes_over_the_terminal_and_restores_the_typed_line(model, home):
    gate = Gate()
    model.respond(Text("Wait."), gate, Command("touch x.txt", escalate="I want to"), Patch(ADD_NOTES))
    model.hang("So be it.")
    async with chatting(home, "-s", "read-only") as terminal:
        await terminal.send("Make x.\n")
        await terminal.expect("Wait.")
        await terminal.send("for later")
        await terminal.expect("» for later")
        gate.open()
        await terminal.expect("? Run this command outside the sandbox?")
        await terminal.expect("stop the turn > ")
        await terminal.send("y\n")
        await terminal.expect("accepted\n")
        await terminal.expect("add notes.txt  +2 -0\n    +one\n    +two\n")
        await terminal.expect("stop the turn > ")
        await terminal.send("y\n")
        await terminal.expect("± add notes.txt")
        await terminal.expect("So be it.")
        await terminal.expect(f"{TYPE}\n» for later")
        await terminal.send("\x15/quit\n")
        assert await terminal.end() == 0
    assert (home.workspace / "x.txt").exists()
    assert terminal.seen.count("+one") == 1


async def test_ctrl_c_at_a_question_withdraws_it_and_interrupts_only_the_turn(model, home):
    model.run_command("touch x.txt", escalate="I want to")
    async with chatting(home) as terminal:
        await terminal.send("Make x.\n")
        await terminal.expect("stop the turn > ")
        await terminal.send("\x03")
        await terminal.expect("withdrawn: no answer is needed")
        await terminal.expect("interrupted after ")
        await terminal.expect(PROMPT)
        await terminal.send("\x04")
        assert await terminal.end() == 0
    assert not (home.workspace / "x.txt").exists()


async def test_commands_change_the_model_and_the_thread(model, home):
    for answer in ("First.", "Second.", "Third."):
        model.say(answer)
    async with on_terminal("chat", home=home) as terminal:
        await terminal.expect("thread ")
        await terminal.send("/fork\n")
        await terminal.expect("✗ ")
        await terminal.send("/nonsense\n")
        await terminal.expect("unknown command /nonsense")
        await terminal.send("/help\n")
        await terminal.expect("/resume [ID]   resume a stored thread")
        await terminal.send("/status\n")
        await terminal.expect("none is running")
        await terminal.send("/model other-model\n")
        await terminal.expect("later turns will use other-model")
        await terminal.send("/model\n")
        await terminal.expect("not listed by the server")
        await terminal.send("/etc/hosts says what?\n")
        await terminal.expect("First.\n")
        await terminal.expect("tokens: ")
        await terminal.send("/fork\n")
        await terminal.expect("forked from ")
        await terminal.expect(PROMPT)
        await terminal.send("In the fork.\n")
        await terminal.expect("Second.\n")
        await terminal.expect("tokens: ")
        await terminal.send("/resume\n")
        await terminal.expect("[2]  ")
        await terminal.expect("number, or Enter to stay » ")
        await terminal.send("3\n")
        await terminal.expect("enter a number from 1 to 2")
        await terminal.expect("number, or Enter to stay » ")
        await terminal.send("2\n")
        for line in ("last turn:\n", "  » /etc/hosts says what?\n", "  “ First.\n"):
            await terminal.expect(line)
        await terminal.send("Back here.\n")
        await terminal.expect("Third.\n")
        await terminal.expect("tokens: ")
        await terminal.send("/quit\n")
        assert await terminal.end() == 0
    assert [request.model for request in model.requests] == ["other-model"] * 3
    texts = [" ".join(request.input_texts) for request in model.requests]
    assert "In the fork." in texts[1]
    assert "First." in texts[2]
    assert "In the fork." not in texts[2]


@pytest.mark.parametrize("is_idle", [False, True])
async def test_a_server_crash_ends_the_chat_with_the_cause_and_how_to_continue(model, home, is_idle):
    model.say("Yes.")
    model.hang("Counting")
    async with chatting(home) as terminal:
        await terminal.send("Yes?\n")
        await terminal.expect("tokens: ")
        if not is_idle:
            await begin_to_count(terminal)
        [server] = [pid for pid in processes_with(home.codex_home) if is_server(pid)]
        os.kill(server, signal.SIGKILL)
        await terminal.expect("trio-codex: ")
        await terminal.expect("SIGKILL")
        await terminal.expect("To continue: trio-codex chat --resume ")
        assert await terminal.end() == 1
    assert "Traceback" not in terminal.seen
    assert processes_with(home.codex_home) == []


async def test_without_a_terminal_each_line_is_a_turn_and_a_failed_one_is_status_1(model, home):
    model.say("It is ", "*here*.")
    model.respond(Command("echo seen"))
    model.say("Nothing.")
    model.fail(429, message="slow down")
    ended = await run_cli("chat", home=home, stdin=b"Where?\n\nRun it.\n/resume\nWhat else?")
    assert ended.status == 1
    assert ended.out == "It is *here*.\nNothing.\n"
    assert "  │ seen\n" in ended.err
    assert "there is no terminal to choose on: use /resume ID" in ended.err
    assert "429" in ended.err.splitlines()[-1]
    assert "\x1b" not in ended.err
    assert [request.last_user_text for request in model.requests[:2]] == ["Where?", "Run it."]


async def test_a_stored_thread_is_resumed_and_a_missing_one_is_reported_on_one_line(model, home):
    model.say("First.")
    model.say("Second.")
    ended = await run_cli("chat", home=home, stdin=b"Hello.\n")
    assert ended.status == 0
    thread_id = ended.err.split("thread ")[1].split()[0]
    ended = await run_cli("chat", "--resume", thread_id, home=home, stdin=b"Go on.\n")
    assert (ended.status, ended.out) == (0, "Second.\n")
    assert "  “ First.\n" in ended.err
    assert "First." in "".join(model.requests[1].input_texts)
    missing = f"{thread_id[:-4]}0000"
    ended = await run_cli("chat", "--resume", missing, home=home)
    assert ended.status == 1
    assert missing in ended.complaint


async def test_without_a_terminal_ctrl_c_interrupts_the_turn_and_ends_the_chat(model, home):
    model.hang("Counting")
    async with started_cli("chat", home=home) as process:
        await process.stdin.send_all(b"Count.\nAnd again.\n")
        await model.wait_for_requests(1)
        process.send_signal(signal.SIGINT)
        err = await rest(process.stderr)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "trio-codex: interrupted"
    await model.requests[0].closed.wait()
    assert len(model.requests) == 1


async def test_lines_that_an_interrupted_turn_did_not_receive_are_listed(model, home):
    model.run_command("sleep 60")
    async with chatting(home, "-s", "danger-full-access") as terminal:
        await terminal.send("Sleep.\n")
        await terminal.expect("a tool is running")
        await terminal.send("Wake up.\n")
        await terminal.expect("↪ sent to the running turn")
        await terminal.send("\x03")
        await terminal.expect("interrupted after ")
        await terminal.expect("not delivered before the turn ended: Wake up.")
        await terminal.expect(PROMPT)
        await terminal.send("\x04")
        assert await terminal.end() == 0
    assert len(model.requests) == 1
    assert processes_with(home.codex_home) == []


@pytest.fixture
def no_input(monkeypatch):
    with open(os.devnull) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield


async def test_the_chat_does_not_wait_for_input_after_the_connection_has_ended(no_input):
    with trio.fail_after(5):
        async with fake_codex() as (codex, server):
            chat = Chat(codex, Screen(), {}, "/", (), CodexConfig())
            await server.hang_up()
            # The connection ends before the chat waits for input, so there is nothing to cancel.
            await chat._heed_the_end()
            with pytest.raises(errors.ConnectionBroken):
                await chat._step(trio.sleep_forever)
