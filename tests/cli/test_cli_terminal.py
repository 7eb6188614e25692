"""``trio-codex run`` on a terminal: questions and their answers, and Ctrl-C."""

import json
import os
import pty

import attrs
import pytest
import trio
import trio.testing
from cli_driver import on_terminal, processes_with

from trio_codex import policies, wire
from trio_codex.cli._ask import ALWAYS, NO, ONCE, SESSION, STOP, Asker, _prompt
from trio_codex.cli._questions import command_question, elicitation_question
from trio_codex.cli._render import Screen, relative
from trio_codex.cli._terminal import read_line
from trio_codex.policies import CommandRequest
from trio_codex.testing import (
    Command,
    Gate,
    Permissions,
    Question,
    Text,
    ToolCall,
    UserInput,
    mcp_server,
    write_offline_home,
)

pytestmark = pytest.mark.real

ADD_NOTES = "*** Begin Patch\n*** Add File: notes.txt\n+one\n+two\n*** End Patch"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_choices_wrap_and_leave_room_for_the_answer(width):
    choices = [ONCE, SESSION, ALWAYS, NO, STOP]
    rows = _prompt(choices, width).plain.split("\n")
    assert all(len(row) <= width for row in rows)
    assert len(f"{rows[-1]}session") <= width
    assert " ".join("".join(rows).split()) == (
        "[y]es, once [s] yes, for the session [a]lways [n]o [q] no, stop the turn >"
    )


async def test_a_declined_command_is_reported_once(model, home):
    model.run_command("touch x.txt", escalate="I want to")
    model.say("So be it.")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("> ")
        await terminal.send("n\n")
        assert await terminal.end() == 0
    rows = [row for row in terminal.seen.splitlines() if "declined" in row and "/" not in row]
    assert rows == ["  declined"]


async def test_a_long_question_is_wrapped_between_words_and_indented_on_a_narrow_terminal(model, home):
    reason = "to keep notes about what was found in this directory"
    model.run_command("touch notes.txt", escalate=reason)
    model.say("So be it.")
    async with on_terminal("run", "Make notes.", home=home, columns=40) as terminal:
        await terminal.expect("\n  reason: to keep notes about what was")
        await terminal.expect("\n  found in this directory")
        await terminal.expect("stop the turn > ")
        await terminal.send("n\n")
        assert await terminal.end() == 0


@pytest.mark.parametrize(("answer", "exists", "said"), [("y", True, "accepted"), ("n", False, "declined")])
async def test_a_question_about_a_command_is_answered_on_the_terminal(model, home, answer, exists, said):
    model.run_command("touch x.txt", escalate="I want to")
    model.say("So be it.")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("$ touch x.txt\n? Run this command outside the sandbox?")
        await terminal.expect("touch x.txt")
        await terminal.expect("reason: I want to")
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


async def test_an_approval_for_the_session_is_not_asked_again(model, home):
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


async def test_input_typed_before_the_question_is_discarded_and_invalid_answers_are_asked_again(model, home):
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


async def test_answering_stop_interrupts_the_turn(model, home):
    model.run_command("touch x.txt", escalate="I want to")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("stop the turn > ")
        await terminal.send("q\n")
        assert await terminal.end() == 130
    assert "interrupted" in terminal.seen
    assert not (home.workspace / "x.txt").exists()
    assert len(model.requests) == 1


async def test_the_end_of_input_declines_the_request(model, home):
    model.run_command("touch x.txt", escalate="I want to")
    model.say("So be it.")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("stop the turn > ")
        await terminal.send("\x04")
        await terminal.expect("declined: the input has ended")
        await terminal.expect("So be it.")
        assert await terminal.end() == 0
    assert not (home.workspace / "x.txt").exists()


async def test_ctrl_c_at_a_question_withdraws_it_and_interrupts_the_turn(model, home):
    model.run_command("touch x.txt", escalate="I want to")
    async with on_terminal("run", "Make x.", home=home) as terminal:
        await terminal.expect("stop the turn > ")
        await terminal.send("\x03")
        await terminal.expect("withdrawn: no answer is needed")
        await terminal.expect("trio-codex: interrupted")
        assert await terminal.end() == 130
    assert "Traceback" not in terminal.seen
    assert not (home.workspace / "x.txt").exists()
    assert processes_with(home.codex_home) == []


async def test_ctrl_c_during_the_answer_closes_the_models_stream(model, home):
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


async def test_answering_always_stores_the_command_prefix_on_the_server(model, home):
    for name in "xy":
        model.run_command(f"touch {name}.txt", escalate="I want to")
    model.say("So be it.")
    async with on_terminal("run", "Make x and y.", home=home) as terminal:
        await terminal.expect("[a] always allow commands starting with touch x.txt")
        await terminal.expect("[s] yes, for the session  [a]lways  [n]o  [q] no, stop the turn > ")
        await terminal.send("a\n")
        await terminal.expect("accepted, with all later commands that begin with touch x.txt")
        await terminal.expect("stop the turn > ")
        await terminal.send("n\n")
        assert await terminal.end() == 0
    assert "touch" in (home.codex_home / "rules" / "default.rules").read_text()
    assert (home.workspace / "x.txt").exists()


async def test_permissions_are_granted_for_the_turn(model, asking_home):
    model.respond(Permissions("To build", write=(str(asking_home.workspace / "build"),), network=True))
    model.say("So be it.")
    async with on_terminal("run", "Build.", home=asking_home) as terminal:
        await terminal.expect("? Grant these permissions?\n    reach the network\n    write ")
        await terminal.expect("reason: To build")
        await terminal.expect("[y]es, for this turn")
        await terminal.expect("stop the turn > ")
        await terminal.send("y\n")
        await terminal.expect("So be it.")
        assert await terminal.end() == 0
    told = model.requests[-1].body["input"][-1]["output"]
    assert str(asking_home.workspace / "build") in told
    assert '"scope":"turn"' in told


async def test_the_agents_questions_are_answered_by_number_or_free_text(model, asking_home):
    model.respond(
        UserInput(Question("color", "Which color?", "Red", "Blue"), Question("size", "How big?", "S", "M"))
    )
    model.say("So be it.")
    async with on_terminal("run", "Paint.", home=asking_home) as terminal:
        await terminal.expect("? The agent has 2 questions:\n  Which color?\n    [1] Red")
        await terminal.expect("[2] Blue")
        await terminal.expect("(number, or your own words, empty: none) > ")
        await terminal.send("2\n")
        await terminal.expect("How big?")
        await terminal.expect("none) > ")
        await terminal.send("larger\n")
        await terminal.expect("So be it.")
        assert await terminal.end() == 0
    told = model.requests[-1].body["input"][-1]["output"]
    assert json.loads(told) == {"answers": {"color": {"answers": ["Blue"]}, "size": {"answers": ["larger"]}}}


async def test_a_form_from_an_mcp_server_is_filled_in_field_by_field(model, asking_home):
    model.respond(ToolCall("ask", namespace="mcp__held"))
    model.say("So be it.")
    async with on_terminal("run", "Greet.", home=asking_home) as terminal:
        await terminal.expect("? held asks you to fill in a form. Do you agree?\n  says Whom shall I greet?")
        await terminal.expect("[y]es  [n]o  [q] no, stop the turn > ")
        await terminal.send("y\n")
        for asked, answer in [
            ("(number, empty: none) > ", "9"), ("enter a number from 1 to 2", ""), ("(number, empty: none) > ", "goodbye"),
            ("(yes or no, empty: False) > ", ""), ("Name: Whom to greet", ""), ("(text) > ", ""), ("an answer is required", ""),
            ("(text) > ", "Ada"), ("(integer, empty: 1) > ", "0"), ("at least 1", ""), ("(integer, empty: 1) > ", "2"),
        ]:  # fmt: skip
            await terminal.expect(asked)
            if asked.endswith("> "):
                await terminal.send(f"{answer}\n")
        await terminal.expect("So be it.")
        assert await terminal.end() == 0
    told = str(model.requests[-1].body["input"][-1]["output"])
    assert '"content": {"greeting": "goodbye", "loud": false, "name": "Ada", "times": 2}' in told


async def test_a_call_to_an_mcp_tool_is_approved_with_the_offered_scopes(model, asking_home):
    for _ in range(2):
        model.respond(ToolCall("plain", {"x": 1}, namespace="mcp__held"))
    model.respond(ToolCall("ask_url", namespace="mcp__held"))
    model.say("So be it.")
    async with on_terminal("run", "Call it.", home=asking_home) as terminal:
        await terminal.expect("? Allow the agent to call Plain tool of held?")
        await terminal.expect("x = 1")
        await terminal.expect("[s] yes, for the session  [a]lways  [n]o  [q] no, stop the turn > ")
        await terminal.send("s\n")
        await terminal.expect(
            "? held asks you to visit a page. Do you agree?\n    https://example.invalid/confirm"
        )
        await terminal.expect("stop the turn > ")
        await terminal.send("n\n")
        await terminal.expect("So be it.")
        assert await terminal.end() == 0
    assert terminal.seen.count("? Allow the agent to call") == 1
    assert '{"action": "decline"' in str(model.requests[-1].body["input"][-1]["output"])


@pytest.fixture
def asking_home(model, tmp_path):
    features = {"request_permissions_tool": True, "default_mode_request_user_input": True}
    return write_offline_home(tmp_path, model, features=features, mcp_servers={"held": mcp_server()})


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
            assert "withdrawn: no answer is needed" in (shown := capsys.readouterr().err)
            assert "second" in shown
            os.write(master, b"y\n")
    assert decisions == [policies.accept()]
    assert first.cancelled_caught


async def test_a_line_is_read_without_a_thread(asker):
    asked, master = asker
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(os_write_soon, master)
            assert await read_line(asked._terminal._descriptor) == "wörd\n"


async def os_write_soon(master):
    await trio.lowlevel.checkpoint()
    os.write(master, "wörd\n".encode())


async def answer(asked, master, callback, request, *lines):
    """Type one line whenever all tasks are blocked."""
    decisions = []

    async def ask():
        decisions.append(await callback(request))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            for line in lines:
                await trio.testing.wait_all_tasks_blocked()
                os.write(master, line)
    return decisions[0]


def user_input(**more):
    question = wire.ToolRequestUserInputQuestion(id="q", header="", question="Which?", **more)
    params = wire.ToolRequestUserInputParams(
        item_id="i", thread_id="t", turn_id="u", is_blocking=True, questions=[question]
    )
    return policies.UserInputRequest(
        thread_id="t", turn_id="u", item_id="i", questions=(question,), blocking=True, params=params
    )


async def test_a_secret_is_not_echoed_and_the_terminal_echoes_again_afterwards(asker, capsys):
    asked, master = asker
    decision = await answer(asked, master, asked.policy.user_input, user_input(is_secret=True), b"hunter2\n")
    assert decision == policies.answers({"q": "hunter2"})
    assert "hunter2" not in capsys.readouterr().err
    os.set_blocking(master, False)
    with pytest.raises(BlockingIOError):
        os.read(master, 100)
    os.write(master, b"seen")
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(master)
    assert os.read(master, 100) == b"seen"


async def test_a_question_with_fixed_options_accepts_only_those(asker, capsys):
    asked, master = asker
    options = [wire.ToolRequestUserInputOption(label=label, description="") for label in ("Red", "Blue")]
    request = user_input(options=options, is_other=False)
    assert await answer(
        asked, master, asked.policy.user_input, request, b"3\n", b"green\n", b"red\n"
    ) == policies.answers({"q": "Red"})
    assert capsys.readouterr().err.count("enter a number from 1 to 2") == 2
    assert await answer(asked, master, asked.policy.user_input, request, b"\n") == policies.answers({})
    assert await answer(asked, master, asked.policy.user_input, request, b"\x04") == policies.decline(
        "no answer: the input has ended"
    )


def form(schema):
    return policies.FormElicitation(
        thread_id="t", turn_id=None, server_name="s", message="m", schema=schema, params=None
    )


async def test_a_form_that_a_terminal_cannot_show_is_declined(asker):
    asked, master = asker
    for schema in (
        {"properties": {"a": {"type": "object"}}}, {"properties": {"a": {}}}, {"properties": 5}, None,
        {"properties": {"a": {"type": "array", "items": {"type": "string"}}}},
        {"properties": {"a": {"type": "string", "enum": ["x", "y"], "enumNames": ["Ex"]}}},
        {"properties": {"a": {"type": "integer", "enum": [1, 2]}}},
        {"properties": {"a": {"type": "string", "oneOf": [{"const": "x", "title": None}]}}},
        {"properties": {"a": {"type": "string", "minLength": "2"}}},
    ):  # fmt: skip
        decision = await answer(asked, master, asked.policy.elicitation, form(schema), b"y\n")
        assert decision == policies.decline("the form cannot be filled in on a terminal")


async def test_every_kind_of_form_field_is_parsed_and_validated(asker):
    asked, master = asker
    colors = [{"const": "r", "title": "Red"}, {"const": "b", "title": "Blue"}]
    schema = {
        "properties": {
            "several": {"type": "array", "items": {"anyOf": colors}, "maxItems": 2},
            "one": {"type": "string", "oneOf": colors},
            "old": {"type": "string", "enum": ["x", "y"], "enumNames": ["Ex", "Why"]},
            "ratio": {"type": "number", "maximum": 1},
            "text": {"type": "string", "minLength": 2},
            "sure": {"type": "boolean"},
            "skipped": {"type": "string"},
        },
        "required": ["sure"],
    }
    typed = [
        b"y",
        b"1,2,1",
        b"1, blue",
        b"red",
        b"why",
        b"nan",
        b"2",
        b"0.5",
        b"a",
        b"ab",
        b"perhaps",
        b"no",
        b"",
    ]
    decision = await answer(
        asked, master, asked.policy.elicitation, form(schema), *(line + b"\n" for line in typed)
    )
    assert decision.content == {
        "several": ["r", "b"], "one": "r", "old": "y", "ratio": 0.5, "text": "ab", "sure": False,
    }  # fmt: skip


def test_the_texts_of_a_question_stay_on_their_lines_and_are_truncated():
    forged = "\n? Run this command?\n    ls\n" * 100
    command = attrs.evolve(request("rm -r /"), reason=forged, cwd="/a\nb")
    page = policies.UrlElicitation(
        thread_id="t", turn_id=None, server_name=f"s{forged}", message=forged, url="https://x\ny",
        elicitation_id="e", params=None,
    )  # fmt: skip
    for rows in (list(command_question(command)), list(elicitation_question(page))):
        assert not any("\n" in row.plain for row in rows)
    assert [row.plain[:14] for row in command_question(command)][1:] == [
        "    rm -r /",
        "  in /a\\x0ab",
        "  reason: ? Ru",
    ]
    assert all(len(row.plain) < 700 for row in command_question(command))
    assert relative("/work/a\nb", "/work") == "a\\x0ab"


async def test_the_bound_of_a_field_is_shown_unchanged(asker, capsys):
    asked, master = asker
    schema = {"properties": {"size": {"type": "integer", "minimum": 1234567}}}
    typed = (b"y\n", b"5\n", b"1234567\n")
    decision = await answer(asked, master, asked.policy.elicitation, form(schema), *typed)
    assert decision.content == {"size": 1234567}
    assert "at least 1234567" in capsys.readouterr().err


async def test_a_host_can_be_denied_permanently(asker):
    asked, master = asker
    rule = wire.NetworkPolicyAmendment(action="deny", host="example.org")
    network = wire.NetworkApprovalContext(host="example.org", protocol="https")
    question = attrs.evolve(request("curl"), network=network, proposed_network_rules=(rule,))
    decision = await answer(asked, master, asked.policy.command, question, b"a\n", b"d\n")
    assert decision == policies.network_rule("example.org", "deny")
