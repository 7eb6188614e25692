"""A running session imports nothing from disk: all its modules are loaded before the first line is sent."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trio_codex

ROOT = Path(trio_codex.__file__).parent

SESSION = Path(__file__).with_name("imports_of_a_session.py")
PROGRAM = Path(__file__).with_name("session_without_descriptors.py")

HELD_MODULES_RUN = """
import sys
import trio_codex
from trio_codex._api.loading import HELD, load
load()
class Refusing:
    def find_spec(self, name, path=None, target=None):
        raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Refusing())
for name in HELD:
    sys.modules[name].__doc__
"""

LOADED = """
import sys
import trio_codex
from trio_codex._api.loading import load
load()
print(*(name for name in {names} if name not in sys.modules))
"""

STARTING = {
    "_api/attach.py",
    "_api/lifecycle.py",
    "_process/server.py",
    "_process/spawn.py",
    "_process/guarded.py",
    "_process/guard.py",
    "_process/start_gate.py",
}
"""Modules that import while a server is started, before the session."""

AT_THE_START = {"fcntl", "pwd", "resource"}
"""Standard modules that are imported only to start a server or a supervisor."""

SOMEBODY_ELSES = {"cli", "testing", "recording", "instruments"}
"""Not part of a session: separate programs, and modules used before it."""


def run(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments, "-c", code], capture_output=True, text=True, timeout=60, **options
    )


def test_a_session_of_every_kind_imports_nothing():
    done = subprocess.run([sys.executable, SESSION], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_preloaded_modules_import_nothing_at_run_time():
    done = run(HELD_MODULES_RUN)
    assert done.returncode == 0, done.stderr


def imports_in_functions():
    """Return the modules of this package that functions used in a session import."""
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts[0] in SOMEBODY_ELSES or relative.as_posix() in STARTING:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.ImportFrom):
                        assert node.module is not None
                        yield node.module
                    elif isinstance(node, ast.Import):
                        yield from (alias.name for alias in node.names)


def test_all_modules_imported_by_functions_are_preloaded():
    names = sorted({*imports_in_functions()} - AT_THE_START)
    assert "trio_codex._tools.output" in names
    done = run(LOADED.format(names=names))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.fixture
def copied(tmp_path):
    """Return a copy of the package, as if installed, and an environment that imports it."""
    shutil.copytree(ROOT, tmp_path / "trio_codex", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path)}


REPLACED = """
import shutil, sys
import trio_codex
from trio_codex._api.loading import HELD, load
load()
shutil.rmtree({root!r})
from trio_codex import wire
from trio_codex._api import generated as _generated
assert wire.McpServerStatus.__module__ == "trio_codex.wire._mcp"
assert wire.__file__.startswith({root!r})
assert all(sys.modules[name].__doc__ for name in HELD)
"""


@pytest.mark.parametrize("compiled", ["not", "currently", "earlier"])
def test_removing_the_package_breaks_nothing_and_writes_nothing(copied, compiled):
    directory, environment = copied
    root = directory / "trio_codex"
    if compiled != "not":
        subprocess.run([sys.executable, "-m", "compileall", "-q", root], check=True, timeout=60)
    if compiled == "earlier":
        for path in root.rglob("*.py"):
            path.write_text(f"{path.read_text()}\n# changed since\n")
    done = run(REPLACED.format(root=str(root)), env=environment)
    assert done.returncode == 0, done.stderr
    assert not root.exists()


# -- no free descriptor ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on file descriptors")
@pytest.mark.parametrize("how", ["leave", "die"])
def test_without_a_free_descriptor_a_session_continues_and_ends_as_usual(how):
    done = subprocess.run([sys.executable, PROGRAM, how], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
