"""Every Python block in the README and the documentation runs as written, with a scripted model.

A block that calls ``trio.run`` is a complete program. Any other block is a fragment and may use ``await``. The
fragments of a page run in order and share their names; ``codex`` and ``thread`` are predefined. A comment before the
block scripts the model (``<!-- stand-in: model.say("hello") -->``) or names a server to attach to
(``serve("unix://codex.sock")``). A ``text`` block right after a Python block is its expected output.
"""

import ast
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest
import trio

import trio_codex
from shared_server import listening_server
from trio_codex import testing

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

BLOCK = re.compile(
    r"(?:^<!-- stand-in: (?P<script>[^\n]*) -->\n)?"
    r"^```python\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    path: Path
    line: int
    script: str
    code: str
    output: str | None

    @property
    def is_program(self) -> bool:
        return "trio.run(" in self.code

    def compiled(self) -> CodeType:
        """Compile the block so that tracebacks name the page and the line."""
        source = "\n" * (self.line - 1) + self.code
        return compile(source, str(self.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, match.start("code")) + 1,
            match["script"] or "",
            match["code"],
            match["output"],
        )
        for match in BLOCK.finditer(text)
    ]


BLOCKS = {page.relative_to(ROOT).as_posix(): blocks_of(page) for page in PAGES}
PROGRAMS = [
    pytest.param(block, id=f"{name}:{block.line}")
    for name, blocks in BLOCKS.items()
    for block in blocks
    if block.is_program
]
FRAGMENTS = [
    pytest.param(found, id=name)
    for name, blocks in BLOCKS.items()
    if (found := [block for block in blocks if not block.is_program])
]


def queue(block: Block, model: testing.MockModel) -> list[str]:
    """Queue the model's responses, and return the addresses of the servers that the block attaches to."""
    served: list[str] = []
    names = {name: getattr(testing, name) for name in testing.__all__}
    exec(block.script, {**names, "model": model, "serve": served.append})
    return served


def check_output(block: Block, printed: str) -> None:
    if block.output is not None:
        assert printed == block.output, f"{block.path}:{block.line}"


@pytest.fixture
async def model(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[testing.MockModel]:
    """Yield a scripted model, in an environment in which an unconfigured client talks to it."""
    async with testing.MockModel() as model:
        with testing.offline_home(model) as home:
            for name in os.environ:
                monkeypatch.delenv(name)
            for name, value in home.env.items():
                monkeypatch.setenv(name, value)
            monkeypatch.chdir(home.workspace)
            # Trio keeps the threads of to_thread.run_sync() for 10 s, to reuse them.
            monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.1)
            yield model
            with trio.fail_after(5):
                while any(  # noqa: ASYNC110  # there is no event for the end of a thread
                    thread.name.startswith("Trio thread") for thread in threading.enumerate()
                ):
                    await trio.sleep(0.05)
            monkeypatch.undo()


async def run(block: Block, names: dict[str, Any]) -> str:
    """Run a block, and return its output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), trio.fail_after(60):
        await trio.lowlevel.checkpoint()
        running = eval(block.compiled(), names)
        if inspect.iscoroutine(running):
            await running
        if block.is_program:
            await names["main"]()
    return printed.getvalue()


@pytest.mark.real
@pytest.mark.parametrize("block", PROGRAMS)
async def test_program_runs(block: Block, model: testing.MockModel, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(trio, "run", started.append)  # Trio is already running
    names: dict[str, Any] = {"__name__": "__main__"}
    async with contextlib.AsyncExitStack() as stack:
        for url in queue(block, model):
            await stack.enter_async_context(listening_server([url], dict(os.environ)))
        printed = await run(block, names)
    assert started == [names["main"]]
    check_output(block, printed)
    model.assert_all_used()


@pytest.mark.real
@pytest.mark.parametrize("blocks", FRAGMENTS)
async def test_fragments_run(blocks: list[Block], model: testing.MockModel) -> None:
    public = {name: getattr(trio_codex, name) for name in dir(trio_codex) if not name.startswith("_")}
    names: dict[str, Any] = {**public, "trio": trio}
    async with trio_codex.open_codex() as codex:
        for block in blocks:
            names |= {"codex": codex, "thread": await codex.thread_start()}
            assert queue(block, model) == []
            check_output(block, await run(block, names))
            model.assert_all_used()


def test_no_block_is_overlooked() -> None:
    """Check that the pattern matches every block, since other blocks would never run."""
    for name, blocks in BLOCKS.items():
        assert (ROOT / name).read_text().count("```python") == len(blocks), name


def test_the_readme_contains_one_program_of_fewer_than_20_lines() -> None:
    """Blank lines aside."""
    [block] = BLOCKS["README.md"]
    assert block.is_program
    assert len(list(filter(None, block.code.splitlines()))) < 20


def test_the_tutorial_lists_the_scripted_responses_of_each_program() -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text()
    table = page.partition("| Program | What the model says |")[2].partition("\n\n")[0]
    scripts = [row.partition("` |")[0] for row in table.split("| `")[1:]]
    assert scripts == [block.script for block in BLOCKS["docs/tutorial.md"]]


def test_every_guarantee_is_proven_by_tests_that_exist() -> None:
    path, named = None, 0
    for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines():
        if match := re.fullmatch(r"- `(.*)`", line):
            path = ROOT / match[1]
        elif match := re.fullmatch(r"  - `(.*)`", line):
            assert path is not None
            assert f"def {match[1]}(" in path.read_text(), f"{path}: {match[1]}"
            named += 1
    assert named > 50


def test_every_number_cited_in_the_source_is_explained() -> None:
    explained = "".join((ROOT / "docs" / name).read_text() for name in ("protocol.md", "guarantees.md"))
    rows = set(re.findall(r"^(?:\| |## )([QMG]\d+)", explained, re.MULTILINE))
    sources = [path.read_text() for path in (ROOT / "src").rglob("*.py")]
    cited = {number for source in sources for number in re.findall(r"\b[QMG]\d+\b", source)}
    assert cited - rows == set()


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", *map(str, (ROOT / "docs").rglob("*.md"))])
def test_relative_links_are_valid(path: str) -> None:
    page = ROOT / path
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_shell_commands_in_the_readme_are_valid() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "trio_codex.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in re.findall(r"trio-codex (\w+)", (ROOT / "README.md").read_text()):
        assert command in help_text
