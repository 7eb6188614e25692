"""``trio-codex demo``: its checks pass, and a check that fails is reported."""

import os
import re
import sys

import pytest
import trio
from cli_driver import processes_with, run_cli, script

from trio_codex.cli._demo import _started

pytestmark = pytest.mark.real


async def test_the_demo_passes_within_ten_seconds_and_leaves_nothing_behind(tmp_path):
    with trio.fail_after(10):
        ended = await run_cli("demo", TMPDIR=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.count("✓") >= 15
    assert "✗" not in ended.out
    assert "\x1b" not in ended.out
    assert processes_with(tmp_path) == []
    assert os.listdir(tmp_path) == []


async def test_a_failed_check_ends_the_demo_with_the_name_of_the_step(tmp_path):
    broken, temporary = tmp_path / "bin", tmp_path / "tmp"
    broken.mkdir()
    temporary.mkdir()
    script(broken / "touch", "exit 0")
    ended = await run_cli("demo", TMPDIR=temporary, PATH=f"{broken}:{os.environ['PATH']}")
    assert ended.status == 1
    assert "A policy decides what the agent may do" in ended.complaint
    assert "notes.txt exists" in ended.complaint
    assert processes_with(temporary) == []
    assert os.listdir(temporary) == []


async def test_the_demo_waits_for_a_command_that_starts_late(tmp_path, autojump_clock):
    path = tmp_path / "command.pid"

    async def write():
        for text in ("", "12", "1234\n"):
            await trio.sleep(1)
            path.write_text(text)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            assert await _started(path) == 1234


@pytest.mark.parametrize("package", ["click", "rich", "hypercorn"])
async def test_a_missing_extra_is_reported_on_one_line(package):
    without = f"import sys; sys.modules[{package!r}] = None; from trio_codex.cli import main; main()"
    ended = await run_cli("demo", command=[sys.executable, "-c", without])
    assert ended.status == 1
    assert re.search(r"pip install '[^ ]*\[cli", ended.complaint)
    assert ("testing" in ended.complaint) == (package == "hypercorn")


@pytest.mark.parametrize("command", ["run", "chat", "batch run"])
async def test_offline_without_the_testing_extra_is_reported_on_one_line(command, tmp_path):
    (tmp_path / "tasks.jsonl").write_text('{"id": "a", "prompt": "Hi."}\n')
    arguments = {
        "run": ["Hi."],
        "chat": [],
        "batch run": [str(tmp_path / "tasks.jsonl"), "--out", str(tmp_path / "out")],
    }
    without = "import sys; sys.modules['hypercorn'] = None; from trio_codex.cli import main; main()"
    ended = await run_cli(
        *command.split(), "--offline", *arguments[command], command=[sys.executable, "-c", without]
    )
    assert ended.status == 1
    assert "[cli,testing,runtime]'" in ended.complaint
