"""Every example runs offline and prints what it is meant to show.

The default run includes a sample; a step of ``.ci/run`` runs the others.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

STALL = re.compile(r"the event loop was blocked for \S+ s; every pending timeout is extended by that time\n")
"""What an example reports on a machine that is busy for more than a second."""

UUID = r"[0-9a-f]{8}-[0-9a-f-]{27}"

OUTPUT = {
    "blocking/first_thread": r"""
        Hello from a thread\.
    """,
    "blocking/run": r"""
        completed: A repository\.
        completed: Code\.
        tokens: 30
    """,
    "blocking/stream_events": r"""
        Once upon a time\.
        The turn is completed\.
    """,
    "blocking/models_and_metadata": r"""
        codex 0\.163\.0 on linux
        mock-model: The mock model of trio-codex
    """,
    "blocking/existing_thread": r"""
        The number was 42\.
    """,
    "blocking/lifecycle_and_controls": r"""
        \['Colors'\]
        Blue\.
        interrupted
        interrupted
        \['Colors'\]
    """,
    "blocking/image_and_text": r"""
        Red\.
    """,
    "blocking/local_image_and_text": r"""
        Red\.
    """,
    "blocking/asyncio_parity": r"""
        Hello\. Hello\.
    """,
    "blocking/errors_and_retry": r"""
        failed: failed
        Here I am\.
        threads: 1
        refused: -32600
    """,
    "blocking/chat": r"""
        > My name is Ada\.
        Hello Ada\.
        > What is my name\?
        It is Ada\.
    """,
    "blocking/all_turn_options": r"""
        \{"files": 0\}
    """,
    "blocking/choosing_a_model": r"""
        Mock, with effort low: I am\.
    """,
    "agents": r"""
        agent 1: There are 3\.
        3 files\. \(1 agent\)
        tokens: \d+
    """,
    "all_turn_options": r"""
        {"summary": "It is empty\.", "files": 0}
        Nothing\.
    """,
    "image_input": r"""
        Red\.
        Blue\.
    """,
    "login": r"""
        not logged in
        open https://auth\.openai\.com/oauth/authorize
        no user completed the login; it ended: .+
        not logged in
    """,
    "mcp_servers": r"""
        notes is connected: ask, ask_url, plain, safe
        broken is failed: MCP startup failed: No such file or directory \(os error 2\)
        called: {"page": 7}
        read: hello
    """,
    "models_and_metadata": r"""
        codex 0\.163\.0 on linux, pid \d+
        mock-model: The mock model of trio-codex \(efforts: low, medium\)
        Mock, with effort low: I am\.
    """,
    "threads": r"""
        the thread:
        > Pick a color\.
        < Red\.
        > Pick another one\.
        < Blue\.
        its fork:
        > Pick a color\.
        < Red\.
        > Pick another one\.
        < Blue\.
        > Mix the two\.
        < Violet\.
        with its second turn rolled back:
        > Pick a color\.
        < Red\.
        archived: \['Colors'\]; unarchived: Colors
    """,
    "usage_and_budgets": r"""
        the turn used 25 tokens, the thread 25 tokens
        the turn used 35 tokens, the thread 60 tokens
        the turn used 150 tokens; its budget is 100; it is interrupted
        the client used 210 tokens
    """,
    "chat": r"""
        > My name is Ada\.
        Hello Ada\.
        > What is my name\?
        It is Ada\.
    """,
    "supervised": r"""
        Count the files\. -> There are 4\.
        count: completed, 1 turns
        Sort them\. -> Half of them are sorted\.
        Sort them\. -> The rest is sorted, too\.
        sort: completed, 2 turns
        Report\. -> 4 files, sorted\.
        report: completed, 1 turns
        generation 1: the server exited: killed by SIGKILL
        generation 2: running
    """,
    "durable": r"""
        Plan the release notes\. \(unknown\) -> First the fixes\.
        the program has ended
        Plan the release notes\. \(completed\) -> First the fixes\.
        Write them\. \(running\) -> The fixes are written\.
        Check them\. \(unknown\) -> All is well\.
    """,
    "approvals": r"""
        Accept by allow_git: log
        Accept by allow_commands: df -h
        Decline by decline_all
        Two of the three were allowed\.
    """,
    "attach": r"""
        their turn: Done\.
        they have left; ours is waiting for: model
        our turn: interrupted
        the server has both threads: \['Be quick\.', 'Take your time\.'\]
    """,
    "deadlines": r"""
        Out of time after 2 s; the turn is interrupted\.
        (It ran .*: half of the work is done)?
    """,  # on a slow machine the command may not run at all
    "elicitation": r"""
        FormElicitation of held: Accept
        UrlElicitation of held: Decline
        McpToolApproval of held: Accept
        Ada was greeted\.
    """,
    "error_handling": r"""
        failed: the model's provider refused, HTTP 429
        answer: Here I am again\.
        lost: the server exited: killed by SIGKILL
        closed: return code -9
    """,
    "exec_scope": r"""
        \['apple', 'pear'\] -> exit status 0
        tick
        left -> exit status 137
    """,
    "goal": r"""
        Two tests fail\.
        Now all of them pass\.
        -> complete after 2 turns
        I begin with the tutorial\.
        -> paused
    """,
    "inbox": r"""
        accepted: bash -c ls
        One of the two was allowed\.
        too late: RequestWithdrawn
    """,
    "batch": r"""
        first run: attrs ok, resumed False: attrs is small\.
        first run: cattrs ok, resumed False: cattrs is small\.
        first run: trio ok, resumed False: trio is small\.
        second run: attrs ok, resumed True: attrs is small\.
        second run: cattrs ok, resumed True: cattrs is small\.
        second run: trio ok, resumed True: trio is small\.
    """,
    "harness": r"""
        ended after 10 of 20 outcomes
        20 outcomes, \d+ of them from earlier runs
        failed: 1
        ok: 19
        right: 18
        attempts: [23]\d
        square-7: TurnFailed: .*
    """,
    "letters": r"""
        the program ends after generation 2
        the program ends after generation 1
        1: Dear Ada, at nine\.
        2: Dear Grace, we do\.
        3: Dear Ada, never\.
    """,
    "many_agents": r"""
        docs: The docs look fine\.
        tests: The tests look fine\.
        types: The types look fine\.
    """,
    "quickstart": r"""
        It is a Trio client for Codex\. A turn is a scope\. Leaving it ends it\.
        \(15 tokens\)
        Fixed: the test passes now\.
        The turn is completed\.
    """,
    "resume": rf"""
        server \d+: thread {UUID}
        server \d+: The number was 42\.
    """,
    "retry": r"""
        parser\.py: try again later: the turn failed: .*429.*
        parser\.py: try again later: the turn failed: .*503.*
        parser\.py: Two bugs\.
        secrets\.py: failed for good: the turn failed: .*401.*
        secrets\.py: given up
    """,
    "structured_output": r"""
        Fix the leak
        20 minutes: Find it\.
        60 minutes: Fix it\.
        no plan: Here is your plan: first find it, then fix it\.
    """,
    "review": r"""
        No mistakes found\.
        The thread is compacted \(completed\)\.
    """,
    "stream_events": r"""
        (?s:.*)\$ .*ls.?
        completed, exit code 0
        (?s:.*)\[final_answer\] Nothing to see here\.
        (?s:.*)
        completed after \d+ ms
    """,
    "tools": r"""
        find completed: \[\{"shelf":"B","number":12\}\]
        find failed: Invalid arguments: text: is missing; word: is not a known field
        borrow completed: B12 is yours for 3 days\.
        The spool is yours for three days\.
        borrowed: B12
    """,
    "turn_controls": r"""
        Once upon a time (there was )?In short: a fox\.
        -> completed: In short: a fox\.
        Chapter one\.
        -> interrupted
    """,
    "user_input": r"""
        Which color\? \(Red, Blue\) -> Blue
        Which size\? \(Small, Large\) -> Large
        A large blue fence it is\.
    """,
    "web_service": r"""
        data: "Here "
        data: "it is\."
        event: end
        data: completed
        -> the turn is completed
        data: "Once upon a time "
        (data: "there was "
        )?-> the turn is interrupted
        data: "Long ago "
        event: error
        data: TurnLost
        data: "A new one\."
        event: end
        data: completed
        -> servers: 2
    """,
    "watch_files": r"""
        changed: notes\.txt todo\.txt
    """,
}

ARGUMENTS = {"harness": ["--tasks", "20"]}


def lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def test_every_example_has_an_expected_output() -> None:
    names = [*EXAMPLES.glob("[!_]*.py"), *EXAMPLES.glob("blocking/[!_]*.py")]
    assert {path.relative_to(EXAMPLES).with_suffix("").as_posix() for path in names} == set(OUTPUT)


def test_every_example_is_listed_once_on_its_page() -> None:
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    listed = re.findall(r"^\| `([\w/]+)\.py` \| [A-Z].+\. \|$", page, re.MULTILINE)
    assert sorted(listed) == sorted(OUTPUT)


@pytest.mark.real
@pytest.mark.parametrize(
    "example",
    [
        pytest.param(example, marks=[] if number % 6 == 0 else [pytest.mark.long])
        for number, example in enumerate(sorted(OUTPUT))
    ],
)
def test_example_prints_the_expected_output(example: str, tmp_path: Path) -> None:
    # With an empty home, an example that needs an account or a configuration fails.
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            str(EXAMPLES / f"{example}.py"),
            "--offline",
            *ARGUMENTS.get(example, ()),
        ],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert STALL.sub("", run.stderr) == ""
    assert re.fullmatch(lines(OUTPUT[example]), lines(run.stdout)), run.stdout
    assert run.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
@pytest.mark.long
def test_the_harness_runs_200_tasks_and_resumes(tmp_path):
    command = [sys.executable, "-W", "error", str(EXAMPLES / "harness.py"), "--offline"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    first, second, *rest = done.stdout.splitlines()
    assert first == "ended after 100 of 200 outcomes"
    assert 100 <= int(re.fullmatch(r"200 outcomes, (\d+) of them from earlier runs", second)[1]) < 200
    assert rest[:3] == ["failed: 1", "ok: 199", "right: 198"]


@pytest.mark.real
def test_the_tests_of_the_example_project_pass(tmp_path):
    project = shutil.copytree(EXAMPLES / "agent_project", tmp_path / "agent_project")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout
