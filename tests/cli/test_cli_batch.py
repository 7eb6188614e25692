"""``trio-codex batch``: progress, exit statuses, Ctrl-C, and resuming."""

import csv
import io
import json
import re
import signal

import pytest
from cli_driver import on_terminal, processes_with, read_until, run_cli, started_cli

from trio_codex.testing import Response, Text

pytestmark = pytest.mark.real


@pytest.fixture
def tasks(home):
    path = home.workspace / "tasks.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"t{number}", "prompt": f"do t{number}"}) + "\n" for number in range(4))
    )
    return path


def batch_run(tasks, home, **more):
    return run_cli("batch", "run", tasks, "--out", "out", *more.pop("options", ()), home=home, **more)


async def test_all_tasks_are_run_and_shown_and_their_outcomes_printed(model, home, tasks):
    model.default = Response(Text("did it"))
    ended = await batch_run(tasks, home)
    assert (ended.status, len(ended.out.splitlines())) == (0, 4)
    shown = await run_cli("batch", "status", "out", home=home)
    assert shown.out == "4 of 4 done · 4 ok · 0 running · 60 tokens\n"
    printed = await run_cli("batch", "results", "out", home=home)
    assert {(row["id"], row["status"], row["value"]) for row in printed.events} == {
        (f"t{number}", "ok", "did it") for number in range(4)
    }
    printed = await run_cli("batch", "results", "out", "--format", "csv", home=home)
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert {(row["status"], row["value"], row["tokens"]) for row in rows} == {("ok", '"did it"', "15")}


async def test_the_status_is_three_if_some_tasks_are_not_ok(model, home, tasks):
    model.default = Response(Text("did it"))
    model.script("do t2").fail(400)
    ended = await batch_run(tasks, home)
    assert ended.status == 3
    assert "t2 failed after" in ended.out
    assert (await batch_run(tasks, home)).status == 3
    assert len(model.requests) == 4


async def test_ctrl_c_waits_for_running_tasks_and_the_next_run_resumes(model, home, tasks):
    model.default = Response(Text("did it"))
    script = model.script("do t1")
    gate = script.gate()
    script.say("late")
    async with started_cli("batch", "run", tasks, "--out", "out", "--turns", "1", home=home) as process:
        await read_until(process.stdout, "t0 ok")
        await model.wait_for_requests(2)
        process.send_signal(signal.SIGINT)
        said = await read_until(process.stderr, "again to interrupt")
        assert "waiting for the running task;" in said
        gate.open()
        assert "asked to stop" in await read_until(process.stderr, "to resume")
    assert process.returncode == 130
    assert (await batch_run(tasks, home)).status == 0
    assert len(model.requests) == 4


async def test_a_second_ctrl_c_interrupts_running_tasks_and_leaves_nothing_behind(model, home, tasks):
    model.default = Response(Text("did it"))
    model.script("do t1").hang("half")
    async with started_cli("batch", "run", tasks, "--out", "out", home=home, MARK="batch-twice") as process:
        await model.wait_for_requests(4)
        process.send_signal(signal.SIGINT)
        await read_until(process.stderr, "again to interrupt")
        process.send_signal(signal.SIGINT)
        assert "interrupted with" in await read_until(process.stderr, "to resume")
    assert process.returncode == 130
    assert processes_with("batch-twice") == []
    assert (await batch_run(tasks, home)).status == 0


async def test_a_terminal_shows_a_progress_bar_and_failed_tasks(model, home, tasks):
    model.default = Response(Text("did it"))
    model.script("do t2").fail(400)
    async with on_terminal("batch", "run", tasks, "--out", "out", home=home, columns=80) as terminal:
        await terminal.expect("t2 failed after")
        await terminal.expect("4/4")
        assert await terminal.end() == 3
    seen = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.seen)
    assert "1 failed · 3 ok · 0 running · 45 tokens" in seen
    # There is room for the echo of Ctrl-C, which would otherwise move the cursor to the next line.
    assert max(map(len, re.findall(r"━[^\r\n]*", seen))) <= 77


async def test_a_batch_runs_offline(home, tasks):
    ended = await batch_run(tasks, home, options=["--offline", "--turns", "4"])
    assert (ended.status, ended.err) == (0, "")


async def test_without_a_login_no_task_is_started(home, tasks, tmp_path):
    (tmp_path / "config.toml").write_text("")
    ended = await batch_run(tasks, home, CODEX_HOME=tmp_path)
    assert ended.status == 1
    assert "not logged in. Log in with: " in ended.complaint
    assert not (home.workspace / "out").exists()


async def test_an_offline_batch_can_be_interrupted_resumed_and_reported(home, tasks):
    tasks.write_text("".join(tasks.read_text().splitlines(keepends=True)[:2]))
    async with started_cli(
        "batch", "run", tasks, "--out", "out", "--offline", "--turns", "1", home=home
    ) as process:
        await read_until(process.stdout, "t0 ok")
        process.send_signal(signal.SIGINT)
        await read_until(process.stderr, "again to interrupt")
        process.send_signal(signal.SIGINT)
        await read_until(process.stderr, "to resume")
    assert process.returncode == 130
    assert (await batch_run(tasks, home, options=["--offline", "--turns", "4"])).status == 0
    ended = await run_cli("batch", "report", "out", home=home)
    assert (ended.status, ended.out, ended.err) == (0, "out/report.html\n", "")
    page = (home.workspace / "out" / "report.html").read_text("utf-8")
    assert page.count("This answer comes from a scripted model on your machine.") >= 2
    assert '"missing":"' not in page


async def test_a_report_without_transcripts_starts_no_server(model, home, tasks):
    model.default = Response(Text("did it"))
    await batch_run(tasks, home)
    options = ["--no-transcripts", "--codex-bin", "/nowhere/codex", "--output", "page.html"]
    ended = await run_cli("batch", "report", "out", *options, home=home)
    assert (ended.status, ended.out) == (0, "page.html\n")
    assert "did it" in (home.workspace / "page.html").read_text("utf-8")
    ended = await run_cli("batch", "report", "out", "--output", "no/page.html", home=home)
    assert (ended.status, ended.out) == (1, "")
    assert "No such file or directory" in ended.err


async def test_shards_are_merged_and_other_batches_are_refused(model, home, tasks):
    model.default = Response(Text("did it"))
    for index in range(2):
        options = ["--shard", f"{index}/2"]
        ended = await run_cli("batch", "run", tasks, "--out", f"out-{index}", *options, home=home)
        assert ended.status == 0
    merged = await run_cli("batch", "merge", "out-0", "out-1", "--into", "all", home=home)
    assert (merged.status, merged.out) == (0, "4 of 4 done · 4 ok · 0 running · 60 tokens\n")
    printed = await run_cli("batch", "results", "all", home=home)
    assert sorted(row["id"] for row in printed.events) == ["t0", "t1", "t2", "t3"]
    await batch_run(tasks, home, options=["--keep", "none"])
    refused = await run_cli("batch", "merge", "all", "out", "--into", "both", home=home)
    assert refused.status == 1
    assert "out cannot be merged with the other shards" in refused.err
    assert not (home.workspace / "both").exists()


async def test_a_custom_solver_and_a_workspace(model, home, tasks):
    model.default = Response(Text("did it"))
    (home.workspace / "mine.py").write_text(
        "async def solve(ctx):\n    return [(await ctx.thread.run(ctx.task.prompt)).final_response,"
        " (ctx.workspace / 'a.txt').read_text()]\n"
    )
    (home.workspace / "tree").mkdir()
    (home.workspace / "tree" / "a.txt").write_text("A")
    options = ["--solve", "mine:solve", "--workspace", "copy:tree", "--shard", "0/1", "--model", "mock-model"]
    assert (await batch_run(tasks, home, options=options)).status == 0
    printed = await run_cli("batch", "results", "out", home=home)
    assert {tuple(row["value"]) for row in printed.events} == {("did it", "A")}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--solve", "nowhere:x"], "cannot be imported"),
        (["--solve", "json:nothing"], "cannot be imported"),
        (["--solve", "json:__name__"], "is not a function"),
        (["--workspace", "hg:x"], "is not empty, copy:DIRECTORY"),
        (["--workspace", "copy:.", "--offline"], "choose another out"),
        (["--shard", "3/3"], "is not INDEX/COUNT"),
        (["--turns", "0"], "--turns"),
    ],
)
async def test_a_bad_option_is_refused(home, tasks, options, problem):
    ended = await batch_run(tasks, home, options=options)
    assert (ended.status, ended.out) == (2, "")
    assert problem in ended.err


async def test_an_invalid_line_is_refused_with_its_number(home, tasks):
    with tasks.open("a") as file:
        file.write("{\n")
    ended = await batch_run(tasks, home)
    assert ended.status == 2
    assert "tasks.jsonl:5: is not JSON" in ended.err
    assert not (home.workspace / "out").exists()


async def test_a_directory_without_a_batch_is_reported(home, tasks):
    for command in ("status", "results", "report"):
        ended = await run_cli("batch", command, ".", home=home)
        assert ended.status == 1
        assert "batch.db does not exist" in ended.err


async def test_changed_settings_are_refused_unless_allowed(model, home, tasks):
    model.default = Response(Text("did it"))
    assert (await batch_run(tasks, home, options=("--servers", "2"))).status == 0
    ended = await batch_run(tasks, home, options=("--on-death", "continue"))
    assert ended.status == 1
    assert "on_death was fresh and is now continue" in ended.err
    ended = await batch_run(tasks, home, options=("--on-death", "continue", "--allow-changes"))
    assert ended.status == 0
    assert len(model.requests) == 4


async def test_an_invalid_number_of_servers_is_refused(home, tasks):
    for text in ("0", "many"):
        ended = await batch_run(tasks, home, options=("--servers", text))
        assert ended.status == 2
        assert f"--servers: '{text}' is neither a positive number nor per-task" in ended.err
