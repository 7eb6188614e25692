"""Find the ``codex`` binary to run, and its version.

Defines the search order (an explicit path, the ``codex_cli_bin`` package of ``trio-codex[runtime]``, ``PATH``) and the
range of versions that this release was tested with.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final, Literal

import attrs
import trio

from trio_codex._process.server import END_BOUND
from trio_codex._process.spawn import spawn_server
from trio_codex.errors import SpawnError, StartError
from trio_codex.wire._registry import VERSION

TESTED: Final[tuple[str, str]] = ("0.156.0", VERSION)
"""The oldest and the newest version on which every feature of the server works.

This is verified by running the integration tests against both. The wire types are generated from the newer one.
"""

VERSION_SECONDS: Final = 10.0
"""Timeout of ``codex --version``, which takes 30 ms, or 250 ms from a cold disk."""

PACKAGE: Final = "codex_cli_bin"

_HINT: Final = (
    "Put codex on PATH, pass its path as codex_bin, or install the runtime extra: "
    "pip install '.[runtime]' in the checkout of trio-codex"
)
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)(-[0-9A-Za-z.-]+)?")

Source = Literal["explicit", "package", "path"]
VersionStatus = Literal["tested", "older", "newer", "unknown"]


@attrs.frozen
class Binary:
    """A ``codex`` binary.

    Attributes:
        path: Its absolute path.
        source: Where it was found: ``"explicit"``, ``"package"`` or ``"path"``.
        version: Its version, if known without running it.
    """

    path: str
    source: Source
    version: str | None = None


def find_binary(codex_bin: str | os.PathLike[str] | None = None, env_path: str | None = None) -> Binary:
    """Find the binary to run.

    Args:
        codex_bin: An explicit path, or a bare name to search for on ``env_path``.
        env_path: The ``PATH`` to search; ``None`` for that of this process.

    Raises:
        SpawnError: There is no binary, or the explicit one cannot be run (phase ``"find"``).
    """
    if codex_bin is not None:
        return _explicit(os.fspath(codex_bin), env_path)
    found = _packaged() or _on_path("codex", env_path)
    if found is None:
        raise SpawnError(
            "no codex binary found: neither a package nor PATH has one", phase="find", hint=_HINT
        )
    return found


def find_others(chosen: Binary, env_path: str | None = None) -> list[Binary]:
    """Find the binaries that a search without an explicit path would find, other than the chosen one."""
    try:
        packaged = _packaged()
    except SpawnError:
        packaged = None
    found = (packaged, _on_path("codex", env_path))
    return [binary for binary in found if binary is not None and binary.path != chosen.path]


def check_version(version: str | None, tested: tuple[str, str] = TESTED) -> VersionStatus:
    """Compare ``version`` with a range, by default the tested one. A pre-release counts as older than its release."""
    key = _key(version)
    oldest, newest = _key(tested[0]), _key(tested[1])
    if key is None or oldest is None or newest is None:
        return "unknown"
    if key < oldest:
        return "older"
    return "newer" if key > newest else "tested"


async def read_version(path: str | os.PathLike[str]) -> str | None:
    """Run the binary to find out its version, for at most ``VERSION_SECONDS``.

    This starts a process, so it is meant for the ``doctor`` command and for errors, not for every start. If it is
    cancelled, it leaves nothing behind.

    Returns:
        The version, or ``None`` if the binary cannot be run or prints nothing that looks like a version.
    """
    await trio.lowlevel.checkpoint()
    output = bytearray()
    try:
        process = spawn_server([os.fspath(path), "--version"], env=os.environ)
    except SpawnError:  # for example, no file descriptor is free
        return None
    try:
        with trio.move_on_after(VERSION_SECONDS):
            await process.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.drain_stderr)
                while len(output) < 4096 and (chunk := await process.stdout.receive_some()):
                    output += chunk
                await process.kill_tree()
    except StartError:
        return None
    finally:
        with trio.move_on_after(2 * END_BOUND, shield=True):
            await process.kill_tree()
    match = _VERSION.search(output.decode("utf-8", "replace"))
    return None if match is None else match.group()


def _explicit(name: str, env_path: str | None) -> Binary:
    if not os.path.dirname(name):
        found = _on_path(name, env_path)
        if found is not None:
            return attrs.evolve(found, source="explicit")
    path = _absolute(os.path.expanduser(name))
    problem = None
    if not os.path.exists(path):
        problem = "codex_bin does not exist"
    elif os.path.isdir(path):
        problem = "codex_bin is a directory"
    elif not os.access(path, os.X_OK):
        problem = "codex_bin is not executable"
    if problem is not None:
        raise SpawnError(problem, phase="find", hint=_HINT, binary=path)
    return _behind_launcher(path, "explicit")


def _on_path(name: str, env_path: str | None) -> Binary | None:
    found = shutil.which(name, path=env_path)
    return None if found is None else _behind_launcher(_absolute(found), "path")


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise SpawnError(
            f"cannot resolve a relative path: the working directory was deleted ({error.strerror})",
            phase="find",
            hint="Change to a directory that exists, or pass an absolute path as codex_bin.",
            binary=path,
        ) from error


def _packaged() -> Binary | None:
    """Search the binary's package without importing it, because the import may fail if it is only half installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).resolve().parent
    path = package / "bin" / ("codex.exe" if sys.platform == "win32" else "codex")
    if not path.is_file():
        raise SpawnError(
            f"the package {PACKAGE} does not contain a binary",
            phase="find",
            hint="Install openai-codex-cli-bin again.",
            binary=str(path),
        )
    return Binary(str(path), "package", _packaged_version(package))


def _packaged_version(package: Path) -> str | None:
    """Read the version from the metadata beside the binary: importing ``importlib.metadata`` takes 20 ms."""
    try:
        version = json.loads((package / "codex-package.json").read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, str) else None


def _behind_launcher(path: str, source: Source) -> Binary:
    """Return the program that npm's launcher at ``path`` runs, or ``path`` itself if it is not a launcher.

    npm installs a script, which would add a process between the client and the server: one of Node, or on Windows a
    shell with its own quoting rules.
    """
    launcher = Path(path)
    if launcher.suffix.lower() in {".cmd", ".bat", ".ps1"}:
        scopes = (launcher.parent / "node_modules" / "@openai", launcher.parent.parent / "@openai")
        pattern = "codex*/**/codex.exe"
    else:
        package = Path(os.path.realpath(path)).parent.parent
        if not os.path.realpath(path).endswith(".js"):
            return Binary(path, source, _packaged_version(package))
        scopes = (package / "node_modules" / "@openai", package.parent)
        pattern = "codex-*/vendor/*/bin/codex"
    for scope in scopes:
        for program in sorted(scope.glob(pattern)):
            return Binary(str(program), source, _packaged_version(program.parent.parent))
    return Binary(path, source)


def _key(version: str | None) -> tuple[int, int, int, bool] | None:
    match = _VERSION.fullmatch(version or "")
    if match is None:
        return None
    major, minor, patch, pre = match.groups()
    return int(major), int(minor), int(patch), pre is None
