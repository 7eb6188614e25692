"""The search for the binary, and its version."""

import os
from importlib.machinery import ModuleSpec

import pytest
import trio

from trio_codex._launch import _binary as _binary
from trio_codex._launch._binary import (
    TESTED,
    Binary,
    check_version,
    find_binary,
    find_others,
    read_version,
)
from trio_codex.errors import SpawnError

posix = pytest.mark.skipif(os.name != "posix", reason="creates executable files")


def program(path, text="#!/bin/sh\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(_binary.importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A fake package for the binary that does not contain the binary."""
    directory = tmp_path / "codex_cli_bin"
    directory.mkdir()
    spec = ModuleSpec("codex_cli_bin", None, origin=str(directory / "__init__.py"))
    monkeypatch.setattr(_binary.importlib.util, "find_spec", lambda name: spec)
    return directory


@posix
async def test_the_version_of_a_binary_that_cannot_be_started_is_unknown(monkeypatch):
    def refuse(*args, **options):
        raise SpawnError("no descriptors", phase="spawn")

    monkeypatch.setattr(_binary, "spawn_server", refuse)
    assert await read_version("/bin/true") is None


# -- the order -----------------------------------------------------------------------------------------------------


@posix
def test_an_explicit_path_comes_first(tmp_path, package):
    path = program(tmp_path / "mine")
    assert find_binary(path) == Binary(path, "explicit")
    assert find_binary(tmp_path / "mine") == Binary(path, "explicit")


@posix
def test_an_explicit_path_may_be_relative_or_in_the_home(tmp_path, monkeypatch):
    path = program(tmp_path / "bin" / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_binary("bin/mine").path == path
    assert find_binary("~/bin/mine").path == path


@posix
def test_an_explicit_name_is_looked_for_on_the_given_path(tmp_path):
    path = program(tmp_path / "mine")
    assert find_binary("mine", str(tmp_path)) == Binary(path, "explicit")


@posix
def test_the_package_comes_before_the_path(tmp_path, package):
    program(tmp_path / "bin" / "codex")
    path = program(package / "bin" / "codex")
    (package / "codex-package.json").write_text('{"version": "1.2.3"}')
    assert find_binary(env_path=str(tmp_path / "bin")) == Binary(path, "package", "1.2.3")


@posix
def test_the_path_comes_last(tmp_path, no_package):
    path = program(tmp_path / "codex")
    assert find_binary(env_path=f"/nowhere:{tmp_path}") == Binary(path, "path")


def test_the_path_of_this_process_is_used_if_none_is_given(tmp_path, no_package, monkeypatch):
    path = program(tmp_path / "codex")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == Binary(path, "path")


# -- what cannot be found ------------------------------------------------------------------------------------------


def test_a_missing_binary_raises_spawn_error_with_a_hint(no_package, tmp_path):
    with pytest.raises(SpawnError) as caught:
        find_binary(env_path=str(tmp_path))
    assert caught.value.phase == "find"
    assert "[runtime]'" in caught.value.hint


@posix
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.touch(0o644), "is not executable"),
    ],
)
def test_an_explicit_path_that_cannot_be_run_is_not_replaced_by_another(tmp_path, package, make, problem):
    program(package / "bin" / "codex")
    make(tmp_path / "mine")
    with pytest.raises(SpawnError) as caught:
        find_binary(tmp_path / "mine")
    assert (caught.value.phase, caught.value.binary) == ("find", str(tmp_path / "mine"))
    assert problem in caught.value.problem


def test_a_package_without_its_binary_is_not_replaced_by_another(package, tmp_path):
    program(tmp_path / "codex")
    with pytest.raises(SpawnError) as caught:
        find_binary(env_path=str(tmp_path))
    assert (caught.value.phase, caught.value.binary) == ("find", str(package / "bin" / "codex"))


@pytest.mark.parametrize("text", [None, "no json", "[]", "{}", '{"version": 3}'])
def test_a_package_without_metadata_has_no_version(package, text):
    program(package / "bin" / "codex")
    if text is not None:
        (package / "codex-package.json").write_text(text)
    assert find_binary().version is None


# -- shims ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "node_modules/.bin/"])
@pytest.mark.parametrize("suffix", [".cmd", ".CMD", ".ps1"])
def test_the_program_behind_a_shim_is_run_without_a_shell(tmp_path, prefix, suffix):
    shim = program(tmp_path / f"{prefix}codex{suffix}")
    inside = "vendor/x86_64-pc-windows-msvc/codex/codex.exe"
    exe = program(tmp_path / "node_modules" / "@openai" / "codex" / inside)
    assert find_binary(shim) == Binary(exe, "explicit")


def test_a_shim_without_a_target_is_run_directly(tmp_path):
    shim = program(tmp_path / "codex.cmd")
    assert find_binary(shim).path == shim


@pytest.fixture
def installed_by_npm(tmp_path):
    """Create npm's layout: a link to a script, and the program in a package for this platform."""
    package = tmp_path / "lib" / "node_modules" / "@openai" / "codex"
    script = program(package / "bin" / "codex.js", "#!/usr/bin/env node\n")
    link = tmp_path / "bin" / "codex"
    link.parent.mkdir()
    link.symlink_to(script)
    return link, package


@posix
@pytest.mark.parametrize("nested", [True, False])
def test_the_program_behind_the_launcher_of_npm_is_run_without_node(installed_by_npm, nested, no_package):
    link, package = installed_by_npm
    inside = package / "node_modules" / "@openai" if nested else package.parent
    files = inside / "codex-linux-x64" / "vendor" / "x86_64-unknown-linux-musl"
    path = program(files / "bin" / "codex")
    (files / "codex-package.json").write_text('{"version": "1.2.3"}')
    assert find_binary(link) == Binary(path, "explicit", "1.2.3")
    assert find_binary(env_path=str(link.parent)) == Binary(path, "path", "1.2.3")


@posix
def test_a_launcher_without_a_target_is_run_directly(installed_by_npm):
    link, _ = installed_by_npm
    assert find_binary(link) == Binary(str(link), "explicit")


# -- other binaries -------------------------------------------------------------------------------------


@posix
def test_the_other_binaries_are_those_found_after_the_chosen_one(tmp_path, package):
    packaged = Binary(program(package / "bin" / "codex"), "package")
    on_path = Binary(program(tmp_path / "bin" / "codex"), "path")
    explicit = find_binary(program(tmp_path / "mine"))
    env_path = str(tmp_path / "bin")
    assert find_others(explicit, env_path) == [packaged, on_path]
    assert find_others(packaged, env_path) == [on_path]
    assert find_others(on_path, env_path) == [packaged]
    assert find_others(packaged, "/nowhere") == []


@posix
def test_a_package_without_its_binary_is_not_listed(tmp_path, package):
    assert find_others(find_binary(program(tmp_path / "mine")), "/nowhere") == []


# -- versions ------------------------------------------------------------------------------------------------------


NEWEST = [*map(int, TESTED[1].split("."))]


def beside(version, minor, patch=0, pre=""):
    """Return the version that is this many minor versions and patches later."""
    return f"{version[0]}.{version[1] + minor}.{version[2] + patch}{pre}"


@pytest.mark.parametrize(
    ("version", "standing"),
    [
        (TESTED[0], "tested"),
        (TESTED[1], "tested"),
        (beside(NEWEST, -1, 99), "tested"),
        (f"{TESTED[1]}-alpha.1", "tested"),
        (f"{TESTED[0]}-alpha.1", "older"),
        ("0.99.0", "older"),
        (beside(NEWEST, 0, 1), "newer"),
        (beside(NEWEST, 1, pre="-alpha.1"), "newer"),
        ("1.0.0", "newer"),
        (None, "unknown"),
        ("", "unknown"),
        ("0.163", "unknown"),
        ("main", "unknown"),
    ],
)
def test_a_version_is_compared_with_the_tested_range(version, standing):
    assert check_version(version) == standing


@posix
@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("echo codex-cli 0.163.0", "0.163.0"),
        ("echo codex-cli 0.164.0-alpha.2; exit 1", "0.164.0-alpha.2"),
        ("echo what?", None),
        ("exit 1", None),
        ("yes", None),
        ("printf '\\377 1.2.3'; exec sleep 1000 >&-", "1.2.3"),
    ],
)
async def test_a_binary_reports_its_version(tmp_path, text, version):
    with trio.fail_after(10):
        assert await read_version(program(tmp_path / "codex", f"#!/bin/sh\n{text}\n")) == version


async def test_a_binary_that_cannot_be_run_has_no_version(tmp_path):
    with trio.fail_after(10):
        assert await read_version(tmp_path / "missing") is None


@posix
async def test_a_binary_that_does_not_answer_has_no_version(tmp_path, monkeypatch):
    monkeypatch.setattr(_binary, "VERSION_SECONDS", 0.1)
    with trio.fail_after(10):
        assert await read_version(program(tmp_path / "codex", "#!/bin/sh\nexec sleep 1000\n")) is None


@pytest.mark.real
async def test_the_real_binary_is_found_in_its_package_and_is_the_tested_one():
    binary = find_binary()
    assert binary.source == "package"
    assert os.access(binary.path, os.X_OK)
    assert check_version(binary.version) == "tested"
    with trio.fail_after(10):
        assert await read_version(binary.path) == binary.version
