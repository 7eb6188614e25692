"""Mutations that each break a guarantee, with the test that must fail: the proof that guarantees are tested.

A mutation names a function and an operation (``mutation_operations.py``), so it survives formatting and moved lines.
If its function is renamed or moved, ``tests/test_mutations.py`` suggests the new place.

Run all with ``python tests/mutations.py``, or some with the numbers of guarantees (``G3 G8``). Each mutation is made
in a copy of the tree. An import hook would not suffice: the guard runs with ``-I -S``, which ignores hooks, and some
tests read the source. Mutations whose tests need Ray or Inspect are skipped if that is not installed.
"""

import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import trio

from client_mutations import CLIENT_MUTATIONS
from trio_codex._process.spawn import spawn_server
from upper_floor_mutations import UPPER_FLOOR_MUTATIONS

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "docs", "examples", "pyproject.toml", "README.md")

TEST_SECONDS = 240
"""Timeout of a test. It and its fixture may each wait a minute for what the mutation prevents."""

FAILED = 1
"""The exit status of pytest for "some tests failed". Any other status means that they could not be run."""

MUTATIONS = [*CLIENT_MUTATIONS, *UPPER_FLOOR_MUTATIONS]


def copy_tree(to):
    """Copy to ``to`` everything that the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        else:
            shutil.copy(source, to / name)


async def run_tests(root, *tests):
    """Run tests of the tree at ``root``. Return pytest's exit status and output, and leave no process behind."""
    argv = [
        sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not long", "--tb=line", *tests
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    process = spawn_server(argv, env=env, cwd=root)
    output = bytearray()
    try:
        with trio.fail_after(TEST_SECONDS):
            await process.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.drain_stderr)
                async for chunk in process.stdout:
                    output += chunk
                status = await process.wait()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # bounded inside
            await process.kill_tree()
    return status, output.decode(errors="replace")


async def try_mutation(mutation):
    """Apply one mutation to a copy. Return the status of its test and pytest's output."""
    with tempfile.TemporaryDirectory(prefix="trio-codex-mutation-") as directory:
        root = Path(directory)
        copy_tree(root)
        mutation.apply(root)
        return await run_tests(root, mutation.test)


async def main(*guarantees):
    survived = 0
    for mutation in MUTATIONS:
        if not guarantees or mutation.guarantee in guarantees:
            if mutation.needs is not None and find_spec(mutation.needs) is None:
                sys.stdout.write(f"skipped   {mutation.guarantee:3}  {mutation.what}: no {mutation.needs}\n")
                continue
            status, output = await try_mutation(mutation)
            verdict = "killed" if status == FAILED else "SURVIVED"
            survived += status != FAILED
            sys.stdout.write(f"{verdict:8}  {mutation.guarantee:3}  {mutation.what}\n")
            if status != FAILED:
                sys.stdout.write(output)
            sys.stdout.flush()
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(trio.run(main, *sys.argv[1:]))
