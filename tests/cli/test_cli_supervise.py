"""`trio-codex supervise` and `trio-codex journal`."""

import pytest
from cli_driver import on_terminal, run_cli

PROGRAM = """
import os, signal

async def main(supervisor):
    async with supervisor.thread("a") as thread:
        print((await thread.run("one", key="1")).final_response, flush=True)

async def ended(supervisor):
    async with supervisor.thread("a") as thread:
        os.kill(os.getpid(), signal.SIGTERM)
        print((await thread.run("two", key="2")).final_response, flush=True)
        await thread.run("three", key="3")
        print("not reached")

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


async def test_an_error_of_the_function_is_reported_on_one_line(program):
    arguments = ("supervise", "agents:failing", "--journal", str(program.workspace / "j.db"))
    done = await run_cli(*arguments, home=program)
    assert done.status == 1
    assert "too odd to send" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
