"""Fetch a release of the binary from PyPI, or from npm, which has newer releases."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wiregen import WiregenError

if TYPE_CHECKING:
    from collections.abc import Generator

PYPI: Final = "openai-codex-cli-bin"
NPM: Final = "@openai/codex"
PACKAGE: Final = "codex_cli_bin"
"""The import name of the package on PyPI. A release from npm is unpacked into the same layout."""

_ARCHITECTURES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


@contextmanager
def opened(source: str) -> Generator[Path]:
    """Provide the binary of a release, or the one at a path.

    A release takes up to 500 MB in the temporary directory, which is removed at the end.

    Raises:
        WiregenError: No registry has the release for this platform.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+[\w.-]*", source):
        yield Path(source).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="trio-codex-binary-") as scratch:
        programs = fetch(source, Path(scratch)) / PACKAGE / "bin"
        yield programs / ("codex.exe" if sys.platform == "win32" else "codex")


def fetch(version: str, directory: Path) -> Path:
    """Install a release into a directory that can precede others on ``PYTHONPATH``, and return it.

    Raises:
        WiregenError: No registry has the release for this platform.
    """
    target = directory / "package"
    problems: list[str] = []
    for install in (_from_pypi, _from_npm):
        problem = install(version, target)
        if problem is None:
            return target
        problems.append(problem)
    raise WiregenError(f"cannot fetch codex {version}: {'; '.join(problems)}")


def _from_pypi(version: str, target: Path) -> str | None:
    return _run("uv", "pip", "install", "--quiet", "--no-deps", "--target", target, f"{PYPI}=={version}")


def _from_npm(version: str, target: Path) -> str | None:
    """Install a release from npm. Its ``vendor`` directory contains the same files as the package on PyPI."""
    release = f"{NPM}@{version}-{sys.platform}-{_ARCHITECTURES.get(platform.machine().lower())}"
    unpacked = target.parent / "npm"
    unpacked.mkdir()
    problem = _run("npm", "pack", "--silent", "--pack-destination", unpacked, release)
    if problem is not None:
        return problem
    (archive,) = unpacked.glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(unpacked, filter="data")
    archive.unlink()
    (files,) = (unpacked / "package" / "vendor").iterdir()
    shutil.copytree(files, target / PACKAGE, copy_function=shutil.move)
    (target / PACKAGE / "__init__.py").touch()
    shutil.rmtree(unpacked)
    return None


def _run(*command: str | Path) -> str | None:
    """Run a command; if it fails, return the last line of its output."""
    if shutil.which(str(command[0])) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return None if done.returncode == 0 else lines[-1] if lines else f"{command[0]} failed"
