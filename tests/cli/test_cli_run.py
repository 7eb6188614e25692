"""``trio-codex run`` with pipes: its streams, its exit status, and approvals."""

import json
import os
import signal
from pathlib import Path

import pytest
import trio
from cli_driver import COMMAND, processes_with, read_until, rest, run_cli, started_cli

from trio_codex.cli._offline_model import ANSWER
from trio_codex.testing import Command, Gate, Reasoning, Text, write_offline_home

pytestmark = pytest.mark.real

ADD_NOTES = "*** Begin Patch\n*** Add File: notes.txt\n+one\n+two\n*** End Patch"


async def test_the_answer_goes_to_stdout_and_everything_else_to_stderr(model, home):
    model.respond(Reasoning("**Looking**\n\naround"), Text("I will look.", phase="commentary"))
    ended = await run_cli("run", "Where is it?", home=home)
    assert (ended.status, ended.out) == (0, "")
    assert "Looking around" in ended.err
    assert "I will look." in ended.err
    assert processes_with(home.codex_home) == []


async def test_the_answer_is_written_to_a_pipe_while_the_turn_runs(model, home):
    gate = Gate()
    model.respond(Text("It is ", gate, "here."))
    async with started_cli("run", "Where is it?", home=home) as process:
        await process.stdin.aclose()
        assert await read_until(process.stdout, "It is ") == "It is "
        gate.open()
        assert await rest(process.stdout) == "here.\n"
    assert process.returncode == 0


async def test_messages_without_a_phase_are_written_to_stdout_as_paragraphs(model, home):
    model.respond(Text("Let me see."), Command("true"))
    model.say("It is ", "here.")
    ended = await run_cli("run", "Where is it?", home=home)
    assert (ended.status, ended.out) == (0, "Let me see.\n\nIt is here.\n")
    assert "Let me see." not in ended.err


async def test_the_final_option_shows_failed_commands_and_prints_only_the_last_message(model, home):
    model.respond(Text("Let me see."), Command("echo seen; exit 3"))
    model.say("It is ", "here.")
    ended = await run_cli("run", "--final", "Where is it?", home=home)
    assert (ended.status, ended.out) == (0, "It is here.\n")
    lines = ended.err.splitlines()
    assert "“ Let me see." in lines
    assert "$ echo seen; exit 3" in lines
    assert any(line.startswith("  ✗ exit 3") for line in lines)
    assert "  │ seen" in lines
    assert lines[-1].startswith("tokens: 20 in, 10 out")
    assert "\x1b" not in ended.err


async def test_the_final_answer_is_printed_even_if_other_messages_follow(model, home):
    model.respond(Text("So far."), Text("It is here.", phase="final_answer"), Text("By the way."))
    ended = await run_cli("run", "--final", "Where is it?", home=home)
    assert (ended.status, ended.out) == (0, "It is here.\n")
    assert [line for line in ended.err.splitlines() if line.startswith("“")] == ["“ So far.", "“ By the way."]


async def test_messages_after_the_final_answer_are_not_printed_as_part_of_it(model, home):
    model.respond(Text("It is here.", phase="final_answer"), Text("By the way."))
    ended = await run_cli("run", "Where is it?", home=home)
    assert (ended.status, ended.out) == (0, "It is here.\n")
    assert "“ By the way." in ended.err


async def test_json_output_has_one_line_per_event_and_ends_with_the_result(model, home):
    model.say("It is ", "here.")
    ended = await run_cli("run", "--json", "Where is it?", home=home)
    assert (ended.status, ended.err) == (0, "")
    *events, last = ended.events
    assert [set(event) for event in events] == [{"method", "params", "emittedAtMs"}] * len(events)
    assert [event["params"]["delta"] for event in events if event["method"] == "item/agentMessage/delta"] == [
        "It is ",
        "here.",
    ]
    assert events[-1]["method"] == "turn/completed"
    assert events[-1]["emittedAtMs"] > 1e12
    assert last["result"]["status"] == "completed"
    assert last["result"]["finalResponse"] == "It is here."
    assert last["result"]["usage"]["total"]["inputTokens"] == 10


async def test_the_prompt_can_come_from_stdin_and_must_not_be_empty(model, home):
    model.say("Yes.")
    ended = await run_cli("run", "-", home=home, stdin="Wörks?\n".encode())
    assert (ended.status, ended.out) == (0, "Yes.\n")
    assert model.requests[0].last_user_text == "Wörks?\n"
    ended = await run_cli("run", "-", home=home, stdin=b" \n")
    assert ended.status == 2
    assert "empty" in ended.complaint


async def test_model_and_overrides_reach_the_server(model, home):
    model.say("Yes.")
    ended = await run_cli(
        "run", "-m", "other-model", "-c", "model_reasoning_effort=low", "-C", home.home, "Hi.", home=home
    )
    assert ended.status == 0
    assert model.requests[0].model == "other-model"
    assert model.requests[0].body["reasoning"]["effort"] == "low"
    assert str(home.home) in "".join(model.requests[0].input_texts)


@pytest.mark.parametrize("mode", ["--json", None])
async def test_a_failed_turn_exits_with_status_1_and_the_reason_on_one_line(model, home, mode):
    model.fail(429, message="slow down")
    ended = await run_cli("run", "Hi.", *filter(None, [mode]), home=home)
    assert ended.status == 1
    complaint = ended.err.splitlines()[-1]
    assert complaint.startswith("trio-codex: the turn failed: ")
    assert "429" in complaint
    if mode:
        assert ended.err.splitlines() == [complaint]
        assert ended.events[-1]["result"]["status"] == "failed"
        assert "429" in ended.events[-1]["result"]["error"]["message"]
    else:
        assert ended.out == ""
        assert len(ended.err.splitlines()) == 2  # the thread id, and the reason


async def test_a_thread_is_resumed(model, home):
    model.say("First.")
    model.say("Second.")
    ended = await run_cli("run", "--json", "Hello.", home=home)
    thread_id = ended.events[-1]["result"]["threadId"]
    ended = await run_cli("run", "--resume", thread_id, "Go on.", home=home)
    assert (ended.status, ended.out) == (0, "Second.\n")
    assert f"thread {thread_id}" in ended.err
    assert "First." in "".join(model.requests[1].input_texts)
    ended = await run_cli("run", "--resume", f"{thread_id[:-4]}0000", "Go on.", home=home)
    assert ended.status == 1
    assert f"{thread_id[:-4]}0000" in ended.complaint


@pytest.mark.parametrize("mode", [[], ["--json"]])
async def test_a_turn_that_runs_out_of_time_is_interrupted(model, home, mode):
    model.hang("Half of ", "it.")
    ended = await run_cli("run", "--timeout", "1.5", *mode, "Take your time.", home=home)
    assert ended.status == 124
    assert ended.err.splitlines()[-1] == "trio-codex: timed out after 1.5 s: the turn was interrupted"
    if mode:
        assert ended.events[-1]["result"]["status"] == "interrupted"
    else:
        assert ended.out == "Half of it.\n"
    assert model.requests[0].closed.is_set()


@pytest.mark.parametrize("command", [["run", "Hi."], ["chat"]])
async def test_without_a_login_no_turn_is_started(command, tmp_path):
    (tmp_path / "config.toml").write_text("")
    ended = await run_cli(*command, CODEX_HOME=tmp_path, stdin=b"Hi.\n")
    assert ended.status == 1
    assert "not logged in. Log in with: " in ended.complaint
    assert "--offline" in ended.complaint


@pytest.mark.parametrize(
    "command", [["run", "Hi."], ["chat"], ["batch", "run", "tasks.csv", "--out", "out"]], ids=str
)
async def test_without_a_network_an_unattended_command_ends(command, tmp_path):
    # With the user's own configuration, the server would wait for the network.
    unreachable = "http://127.0.0.1:9/v1"
    home = write_offline_home(tmp_path, unreachable, features={"unbounded_connection_retries": True})
    (home.workspace / "tasks.csv").write_text("id,prompt\na,Hi.\n")
    options = ["--attempts", "1"] if "batch" in command else []
    ended = await run_cli(*command, *options, home=home, stdin=b"Hi.\n")
    assert ended.status == (3 if "batch" in command else 1)
    assert "Connection failed" in ended.out + ended.err


@pytest.mark.parametrize("command", [["run", "Hi.", "--offline"], ["chat", "--offline"]])
async def test_offline_a_scripted_model_answers_and_nothing_is_stored(command, tmp_path):
    ended = await run_cli(*command, HOME=tmp_path, TMPDIR=tmp_path, stdin=b"Hi.\n")
    assert (ended.status, ended.out) == (0, f"{ANSWER}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [["--attach", "unix://"], ["--codex-home", "/tmp"], ["--resume", "0"]],
    ids=lambda option: option[0],
)
async def test_offline_and_codex_home_exclude_each_other(option):
    ended = await run_cli("run", "Hi.", "--offline", *option)
    assert ended.status == 2
    assert f"it cannot be combined with {option[0]}" in ended.complaint


@pytest.mark.parametrize(
    ("args", "exists", "said"),
    [
        ([], False, ""),
        (["--approve", "never"], False, ""),
        (["--approve", "ask"], False, "declined, because there is no terminal to ask on: touch x.txt"),
        (["--approve", "always"], True, "WARNING: --approve always accepts every request"),
    ],
)
async def test_without_a_terminal_requests_are_declined_unless_all_are_accepted(
    model, home, args, exists, said
):
    model.run_command("touch x.txt", escalate="I want to")
    model.say("So be it.")
    ended = await run_cli("run", *args, "Make x.", home=home)
    assert (ended.status, ended.out) == (0, "So be it.\n")
    assert (home.workspace / "x.txt").exists() == exists
    assert said in ended.err


async def test_without_a_terminal_file_changes_are_declined_by_name(model, home):
    model.apply_patch(ADD_NOTES)
    model.say("So be it.")
    ended = await run_cli("run", "--approve", "ask", "Write notes.", home=home)
    assert ended.status == 0
    assert "notes.txt" in ended.err.partition("declined, because there is no terminal")[2].splitlines()[0]
    assert not (home.workspace / "notes.txt").exists()


async def test_the_sandbox_can_be_chosen(model, home):
    model.run_command("touch x.txt")
    model.say("Done.")
    ended = await run_cli("run", "--sandbox", "danger-full-access", "Make x.", home=home)
    assert ended.status == 0
    assert (home.workspace / "x.txt").exists()


@pytest.mark.parametrize("mode", [["--json"], []])
async def test_ctrl_c_interrupts_the_turn_on_the_server(model, home, mode):
    model.hang("Counting: ", "one")
    async with started_cli("run", *mode, "Count.", home=home) as process:
        if mode:
            await read_until(process.stdout, '"delta": "one"')
        else:
            [request] = await model.wait_for_requests(1)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(10):
            request = model.requests[0]
            await request.closed.wait()
            out, err = await rest(process.stdout), await rest(process.stderr)
    assert process.returncode == 130
    assert not request.completed
    assert err.splitlines()[-1].startswith("trio-codex: interrupted")
    assert "Traceback" not in err
    if mode:
        assert '"status": "interrupted"' in out.splitlines()[-1]
    assert processes_with(home.codex_home) == []


@pytest.mark.parametrize("mode", [["--json"], []])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_that_ends_the_command_interrupts_the_turn_on_the_server(model, home, number, mode):
    model.hang("Counting: ", "one")
    async with started_cli("run", *mode, "Count.", home=home) as process:
        [request] = await model.wait_for_requests(1)
        process.send_signal(number)
        process.send_signal(number)  # as `timeout` does, and a terminal that closes
        await request.closed.wait()
        err = await rest(process.stderr)
    assert process.returncode == -number
    assert "Traceback" not in err
    [rollout] = (home.codex_home / "sessions").rglob("*.jsonl")
    assert "turn_aborted" in rollout.read_text()
    assert processes_with(home.codex_home) == []


async def test_a_signal_that_the_command_inherits_as_ignored_does_not_end_it(model, home):
    gate = Gate()
    model.respond(Text("Counting: ", gate, "one"))
    nohup = ["sh", "-c", 'trap "" HUP TERM; exec "$@"', "sh", *COMMAND]
    async with started_cli("run", "Count.", home=home, command=nohup) as process:
        await model.wait_for_requests(1)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        gate.open()
        out = await rest(process.stdout)
    assert (process.returncode, out) == (0, "Counting: one\n")


async def test_a_later_signal_ends_a_command_whose_output_is_not_read(model, home):
    model.say(*(["x" * 4096] * 64))
    async with started_cli("run", "--json", "Fill the pipe.", home=home) as process:
        await read_until(process.stdout, "item/agentMessage/delta")
        await trio.sleep(1)  # noqa: ASYNC110  # nothing reports that the command is blocked
        process.send_signal(signal.SIGTERM)
        await trio.sleep(1.1)  # a later one
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM


async def test_a_server_crash_during_a_turn_is_reported_on_one_line_with_a_lost_result(model, home):
    model.hang("one")
    async with started_cli("run", "--json", "Count.", home=home) as process:
        await read_until(process.stdout, '"delta": "one"')
        [server] = [pid for pid in processes_with(home.codex_home) if is_server(pid)]
        os.kill(server, signal.SIGKILL)
        out, err = await rest(process.stdout), await rest(process.stderr)
    assert process.returncode == 1
    [complaint] = err.splitlines()
    assert "SIGKILL" in complaint
    assert json.loads(out.splitlines()[-1])["result"]["status"] == "lost"
    assert processes_with(home.codex_home) == []


def is_server(pid):
    """Return whether a process is the real binary, rather than the program that started it."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # the process has exited
        return False
    return command.split(b"\0")[0].endswith(b"/bin/codex")


async def test_a_broken_output_pipe_ends_the_turn_silently(model, home):
    gate = Gate()
    model.hang("one", gate, "two")
    async with started_cli("run", "--json", "Count.", home=home) as process:
        await read_until(process.stdout, '"delta": "one"')
        await process.stdout.aclose()
        gate.open()
        err = await rest(process.stderr)
    assert (process.returncode, err) == (1, "")
    assert not model.requests[0].completed
    assert processes_with(home.codex_home) == []


async def test_an_invalid_configuration_is_reported_on_one_line_with_a_hint(model, home):
    (home.codex_home / "config.toml").write_text("model = 3\n")
    ended = await run_cli("run", "Hi.", home=home)
    assert ended.status == 1
    assert "invalid type" in ended.complaint
    assert "Correct config.toml" in ended.complaint
    assert processes_with(home.codex_home) == []


async def test_a_missing_home_is_reported_on_one_line_with_a_hint(home):
    ended = await run_cli("run", "--codex-home", "/nonexistent/home", "Hi.", home=home)
    assert ended.status == 1
    assert "/nonexistent/home" in ended.complaint
    assert "--codex-home" in ended.complaint


BAD_USAGE = [
    ["--no-such-option"],
    ["no-such-command"],
    ["run"],
    ["run", "--approve", "maybe", "Hi."],
    ["run", "--cwd", "/nonexistent", "Hi."],
    ["run", "-c", "nonsense", "Hi."],
    ["run", "--start-timeout", "0", "Hi."],
    ["run", "--start-timeout", "nan", "Hi."],
    ["run", "--timeout", "nan", "Hi."],
    ["replay", "--speed", "nan", __file__],
    ["batch", "run", "--task-seconds", "NaN", "--out", "/nonexistent", __file__],
    ["doctor", "extra"],
    ["demo", "--json"],
]


async def test_a_usage_error_is_reported_on_one_line_that_points_to_the_help():
    async def use(args):
        ended = await run_cli(*args)
        assert (ended.status, ended.out) == (2, ""), args
        assert "--help" in ended.complaint

    async with trio.open_nursery() as nursery:
        for args in BAD_USAGE:
            nursery.start_soon(use, args)


async def test_help_lists_the_commands_and_version_shows_the_version():
    ended = await run_cli()
    assert (ended.status, ended.err) == (0, "")
    for command in ("demo", "run", "doctor"):
        assert command in ended.out
        told = await run_cli(command, "--help")
        assert (told.status, told.err) == (0, "")
        assert "\\b" not in told.out
        assert "\b" not in told.out
    ended = await run_cli("--version")
    assert (ended.status, ended.out.split()[0]) == (0, "trio-codex")
