"""Batches whose server and program are killed repeatedly, and batches with many failures."""

import collections
import json
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from batches import processes_of, run_program, some, stage, texts_of

from trio_codex.batch import BatchBudget, Retry, Task, read_outcomes
from trio_codex.batch._journal import Journal
from trio_codex.supervision._journal import Journal as ThreadJournal
from trio_codex.testing import HTTPFailure, Response, Text, Usage

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

QUICK = Retry(first=0.01, maximum=0.05)

PROGRAM = Path(__file__).with_name("batch_program.py")


def git(path, *arguments):
    return subprocess.run(["git", "-C", path, *arguments], check=True, capture_output=True, timeout=30).stdout


@pytest.mark.usefixtures("needs_git")
@pytest.mark.parametrize("on_death", ["fresh", "continue"])
@pytest.mark.parametrize(
    ("count", "turns", "kills"), [(16, 4, 2), pytest.param(300, 16, 5, marks=pytest.mark.long)]
)
async def test_a_batch_continues_after_its_server_and_its_program_are_killed(count, turns, kills, on_death):
    rng = random.Random(3)
    async with stage(110 if kills == 2 else 1500) as on:
        git(on.home.workspace, "init", "-q")
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        git(on.home.workspace, *author, "commit", "-q", "--allow-empty", "-m", "first")
        on.model.default = Response(Text("did ", "it", delay=0.1))
        arguments = [json.dumps(dict(on.home.env)), on.home.workspace, on.out, count, turns, on_death]
        command = [sys.executable, PROGRAM, *arguments]
        done, programs, servers = set(), 0, 0
        for number in range(kills):
            seeded = [*map(str, command), str(number)]
            status, output = await run_program(seeded, rng.uniform(0, 1.5), after="killed")
            assert status in (-9, 0)  # on a fast machine the batch ends before the last kill
            programs += status == -9
            servers += output.count("killed")
            if (on.out / "batch.db").exists():
                now = {outcome.task.id for outcome in read_outcomes(on.out)}
                assert done <= now
                done = now
        assert programs
        assert servers
        if kills > 2:
            assert (programs, servers) == (kills, kills)
        finished = on.requests_with()
        status, output = await run_program([*map(str, command)], 1200)
        assert status == 0
        lines = [line.split() for line in output]
        assert sorted(line[0] for line in lines) == sorted(task.id for task in some(count))
        assert {(line[1], " ".join(line[2:-1])) for line in lines} == {("ok", "did it")}
        assert {line[0] for line in lines if line[-1] == "True"} == done
        # Tasks with an outcome were not run again.
        again = on.requests_with()
        assert all(again[f"do {name}"] == finished[f"do {name}"] > 0 for name in done)
        # No context contains a prompt twice; with "continue", there is one thread for each prompt.
        contexts = collections.defaultdict(set)
        for request in on.model.requests:
            prompts = [text for text in texts_of(request) if text.startswith("do ")]
            assert len(prompts) == len({*prompts}) == 1
            contexts[prompts[0]].add(request.thread_id)
        if on_death == "continue":
            assert {len(threads) for threads in contexts.values()} == {1}
        assert [*processes_of(on.home)] == []
        assert list((on.out / "workspaces").iterdir()) == []
        assert len(git(on.home.workspace, "worktree", "list").splitlines()) == 1
        # Nobody holds a lock.
        with closing(Journal(on.out, writes=True)), closing(ThreadJournal(on.out / "threads.db")):
            pass


TOO_MANY = Usage(input_tokens=5000, output_tokens=5000)

WRONG = {
    "hangs": ("timed_out", 1),
    "limited twice": ("ok", 3),
    "invalid": ("failed", 1),
    "too many tokens": ("over_budget", 1),
    "too slow": ("timed_out", 1),
}


def make_wrong(model, prompt, how):
    script = model.script(f"{prompt}.")
    match how:
        case "hangs":
            script.hang("half")
        case "limited twice":
            script.respond(HTTPFailure(429))
            script.respond(HTTPFailure(429))
        case "invalid":
            script.respond(HTTPFailure(400))
        case "too many tokens":
            script.respond(Text("a lot"), TOO_MANY)
        case "too slow":
            script.say(*["word "] * 1000, delay=0.1)


@pytest.mark.parametrize(("each", "seconds"), [(1, 8), pytest.param(10, 20, marks=pytest.mark.long)])
async def test_each_of_many_tasks_has_the_expected_outcome(each, seconds):
    hows = [how for how in WRONG for _ in range(each)]
    tasks = [Task(f"t{number}", f"do t{number}.") for number in range(10 * each)]
    async with stage(60 + 10 * each) as on:
        for task, how in zip(tasks, hows, strict=False):
            make_wrong(on.model, f"do {task.id}", how)
        budget = BatchBudget(task_seconds=seconds, task_tokens=1000)
        outcomes = await on.run(tasks, turns=16, retry=QUICK, budget=budget)
        found = {name: (outcome.status, outcome.attempts) for name, outcome in outcomes.items()}
        wanted = {task.id: ("ok", 1) for task in tasks}
        assert found == wanted | {task.id: WRONG[how] for task, how in zip(tasks, hows, strict=False)}
        kept = {path.name for path in (on.out / "workspaces").iterdir()}
        assert kept == {f"{name}-{attempts}" for name, (status, attempts) in found.items() if status != "ok"}
