"""A program for the official SDK and its port to the blocking face print the same and hardly differ."""

import difflib
import os
import sys
from pathlib import Path

import pytest
import trio

from trio_codex.testing import MockModel, assert_nothing_left, offline_home

PORT = Path(__file__).parents[1] / "examples" / "port"

OUTPUT = """
['Mock']
A test suite.
Release 2
Red. 2
More of it.
It failed.
Docs.
['Review']
Bye.
"""

DIFFERENT = {
    "from": "an import",
    "    ApprovalMode,": "an import",
    "    CodexConfig,": "an import",
    "    ImageInput,": "an import",
    "    Sandbox,": "an import",
    "    TextInput,": "an import",
    "    errors,": "an import",
    "    open_codex,": "an import",
    "    retry_on_overload,": "an import",
    ")": "an import",
    '"""Review a directory': "the description",
    "    with Codex(": "construction",
    "    with open_codex(": "construction",
    "        turn = thread.turn(": "a turn is a scope",
    "        with thread.turn(": "a turn is a scope",
    "        for event in turn.stream():": "a turn is a scope",
    "            for event in turn:": "a turn is a scope",
    "            if isinstance(event.payload": "a turn is a scope, and payload is named params",
    "                if isinstance(event.params": "a turn is a scope, and payload is named params",
    "                print(event.payload.": "a turn is a scope, and payload is named params",
    "                    print(event.params.": "a turn is a scope, and payload is named params",
    "        except RuntimeError:": "a specific error class",
    "        except errors.TurnFailed:": "a specific error class",
}
"""The beginning of each line that may differ, and the reason."""


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Ignore Trio's worker thread, which outlives the start of a process by several seconds."""
    with assert_nothing_left(ignore=["thread * (Trio thread *)"]):
        yield


def script(model):
    model.say("A test suite.")
    model.say('{"title": "Release", "days": 2}')
    model.say("Red.")
    model.say("More ", "of it.")
    model.fail(400, message="no")
    model.say("Docs.")
    model.say("Bye.")


@pytest.mark.real
@pytest.mark.parametrize("name", ["official", "ported"])
async def test_both_programs_print_the_same(name, tmp_path):

    async with MockModel() as model:
        script(model)
        with offline_home(model) as home:
            done = await trio.run_process(
                [sys.executable, str(PORT / f"{name}.py"), str(tmp_path), "mock-model"],
                env={"PATH": os.environ["PATH"], **home.env},
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    assert done.stdout.decode().strip() == OUTPUT.strip(), done.stderr.decode()
    assert done.returncode == 0


def test_the_programs_differ_only_in_listed_lines():
    official, ported = ((PORT / f"{name}.py").read_text().splitlines() for name in ("official", "ported"))
    assert 45 <= len(official) <= 80
    changed = [line[2:] for line in difflib.ndiff(official, ported) if line[:2] in ("- ", "+ ")]
    assert changed
    for line in changed:
        assert any(line.startswith(start) for start in DIFFERENT), line
    unused = [start for start in DIFFERENT if not any(line.startswith(start) for line in changed)]
    assert not unused
