"""`trio-codex supervise` and `trio-codex journal`."""

import signal

import pytest
from cli_driver import COMMAND, on_terminal, read_until, rest, run_cli, started_cli

PROGRAM = """
import os, signal, sys
import trio

async def main(supervisor):
    async with supervisor.thread("a") as thread:
        print((await thread.run("one", key="1")).final_response, flush=True)

async def ended(supervisor):
    async with supervisor.thread("a") as thread:
        os.kill(os.getpid(), signal.SIGTERM)
        print((await thread.run("two", key="2")).final_response, flush=True)
        await thread.run("three", key="3")
        print("not reached")

async def unfinished(supervisor):
    import trio_codex.cli._supervise
    trio_codex.cli._supervise.DRAIN_SECONDS = 0.1
    async with supervisor.thread("a") as thread, thread.turn("one", key="1") as turn:
        async for _ in turn.text():
            os.kill(os.getpid(), signal.SIGTERM)

async def waiting(supervisor):
    async with supervisor.thread("a") as thread, thread.turn("one", key="1") as turn:
        async for text in turn.text():
            print(text, flush=True)

async def waiting_in_a_nursery(supervisor):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting, supervisor)

async def exiting(supervisor):
    sys.exit(7)

async def failing(supervisor):
    raise supervisor_error

from trio_codex import errors
supervisor_error = errors.LocalProtocolError('too odd to send')
nothing = 3
"""


@pytest.fixture
def program(home):
    (home.workspace / "agents.py").write_text(PROGRAM)
    return home


async def test_a_function_runs_under_a_supervisor_and_its_journal_is_shown(program, model):
    model.say("did it")
    journal = str(program.workspace / "agents.db")
    for _ in range(2):
        done = await run_cli("supervise", "agents:main", "--journal", journal, home=program)
        assert (done.status, done.out.strip()) == (0, "did it"), done.err
        assert "ready: generation 1, restarts: 0" in done.err
    shown = await run_cli("journal", journal, home=program)
    assert shown.status == 0
    assert "1 completed" in shown.out
    assert len(model.requests) == 1


async def test_a_program_prints_above_the_status_line_which_fits_a_narrow_terminal(program, model):
    model.say("did it")
    arguments = ("supervise", "agents:main", "--journal", program.workspace / "agents.db")
    async with on_terminal(*arguments, home=program, columns=50) as terminal:
        assert await terminal.end() == 0
    rows = [row.strip() for row in terminal.seen.replace("\r", "\n").split("\n")]
    assert "did it" in rows
    assert any(row.startswith("ready: generation 1") and row.endswith("…") for row in rows)
    assert max(map(len, rows)) <= 50


async def test_sigterm_lets_open_turns_end_and_admits_no_new_ones(program, model):
    model.say("did it", delay=0.5)
    journal = str(program.workspace / "agents.db")
    done = await run_cli("supervise", "agents:ended", "--journal", journal, home=program)
    assert (done.status, done.out.strip()) == (0, "did it"), done.err
    assert len(model.requests) == 1


async def test_a_turn_still_open_after_the_drain_continues_in_the_next_run(program, model):
    model.hang("half")
    model.say("the other half")
    journal = str(program.workspace / "agents.db")
    done = await run_cli("supervise", "agents:unfinished", "--journal", journal, home=program)
    assert done.status == 0, done.err
    assert "1 interrupted" not in (await run_cli("journal", journal, home=program)).out
    again = await run_cli("supervise", "agents:main", "--journal", journal, home=program)
    assert (again.status, again.out.strip()) == (0, "the other half"), again.err


@pytest.mark.parametrize("function", ["waiting", "waiting_in_a_nursery"])
async def test_ctrl_c_ends_the_program_quietly_and_the_next_run_continues_its_turn(program, model, function):
    model.hang("half")
    model.say("the other half")
    journal = str(program.workspace / "agents.db")
    async with started_cli("supervise", f"agents:{function}", "--journal", journal, home=program) as process:
        await read_until(process.stdout, "half")
        process.send_signal(signal.SIGINT)
        err = await rest(process.stderr)
    assert process.returncode == 130
    assert err.splitlines()[1:] == ["trio-codex: interrupted"]
    again = await run_cli("supervise", "agents:main", "--journal", journal, home=program)
    assert (again.status, again.out.strip()) == (0, "the other half"), again.err


async def test_the_exit_status_of_the_function_is_that_of_the_command(program):
    done = await run_cli(
        "supervise", "agents:exiting", "--journal", str(program.workspace / "j.db"), home=program
    )
    assert done.status == 7
    assert "Traceback" not in done.err


async def test_a_status_that_cannot_be_written_does_not_end_the_program(program, model):
    model.say("did it")
    command = ["/bin/sh", "-c", 'exec "$@" 2>/dev/full', "sh", *COMMAND]
    arguments = ("supervise", "agents:main", "--journal", str(program.workspace / "j.db"))
    done = await run_cli(*arguments, home=program, command=command)
    assert done.out.strip() == "did it"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("agents", "write MODULE:FUNCTION"),
        ("nowhere:main", "No module named 'nowhere'"),
        ("agents:missing", "has no attribute 'missing'"),
        ("agents:nothing", "is not a function"),
    ],
)
async def test_a_missing_function_is_an_error_before_anything_is_started(program, where, message):
    done = await run_cli("supervise", where, "--journal", str(program.workspace / "j.db"), home=program)
    assert done.status == 1
    assert message in done.err


async def test_a_file_that_is_not_a_journal_is_an_error(program):
    path = program.workspace / "agents.py"
    for command in (["journal", str(path)], ["supervise", "agents:main", "--journal", str(path)]):
        done = await run_cli(*command, home=program)
        assert done.status == 1
        assert "the journal" in done.err


async def test_an_error_from_the_function_is_reported_on_one_line(program):
    arguments = ("supervise", "agents:failing", "--journal", str(program.workspace / "j.db"))
    done = await run_cli(*arguments, home=program)
    assert done.status == 1
    assert "too odd to send" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
