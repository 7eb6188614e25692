"""Clients on hosts with missing features: typed errors with a hint, and no leftovers."""

import errno
import os
import pwd
import sys

import pytest
import trio

from trio_codex import CodexConfig, errors, open_codex
from trio_codex._launch._binary import find_binary
from trio_codex._process import guard as _guard
from trio_codex._process import server as _process
from trio_codex._process.guarded import GuardedProcess
from trio_codex.testing import fake_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


async def fails_to_start(config):
    with trio.fail_after(10):
        with pytest.raises(errors.StartError) as caught:
            async with open_codex(config):
                pytest.fail("the body must not run")
    return caught.value


def nobody(monkeypatch):
    """Become a user without a home, as in a container with an arbitrary user id."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("CODEX_HOME", raising=False)


async def test_without_a_home_the_start_error_says_what_to_set(monkeypatch):
    nobody(monkeypatch)
    error = await fails_to_start(CodexConfig())
    assert type(error) is errors.SpawnError
    assert "no passwd entry" in error.problem
    assert "HOME" in error.hint
    assert "codex_home" in error.hint
    assert CodexConfig(codex_home="/somewhere").home().as_posix() == "/somewhere"


@pytest.mark.parametrize("value", [None, ""])
def test_without_home_variable_the_passwd_entry_is_used_as_by_the_server(monkeypatch, value):
    monkeypatch.setenv("HOME", "/of/this/program")
    home = CodexConfig(env={"HOME": value, "CODEX_HOME": None}).home()
    assert home.as_posix() == pwd.getpwuid(os.getuid()).pw_dir + "/.codex"


@pytest.fixture
def gone_directory(monkeypatch, tmp_path):
    directory = tmp_path / "gone"
    directory.mkdir()
    monkeypatch.chdir(directory)
    directory.rmdir()


@pytest.mark.usefixtures("gone_directory")
@pytest.mark.parametrize("codex_bin", ["no-such-codex", "./codex"])
async def test_a_relative_binary_in_a_deleted_directory_raises_spawn_error(codex_bin):
    error = await fails_to_start(CodexConfig(codex_bin=codex_bin))
    assert type(error) is errors.SpawnError
    assert (error.phase, error.binary) == ("find", codex_bin)
    assert "working directory" in error.problem
    assert error.hint


@pytest.mark.usefixtures("gone_directory")
def test_an_absolute_binary_is_found_from_a_deleted_directory():
    assert find_binary("/bin/cat").path == "/bin/cat"


async def test_a_start_without_free_descriptors_raises_spawn_error(monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("trio_codex._launch._binary.find_binary", refuse)
    error = await fails_to_start(CodexConfig())
    assert type(error) is errors.SpawnError
    assert "Too many open files" in error.problem
    assert error.__cause__.errno == errno.EMFILE


async def test_a_guard_interpreter_that_starts_nothing_is_named_in_the_error(tmp_path):
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o755)
    error = await fails_to_start(CodexConfig(codex_bin="/bin/cat", guard_python=hanging, start_timeout=0.3))
    assert type(error) is errors.StartTimeout
    assert str(hanging) in error.problem
    assert "guard" in error.problem
    with trio.fail_after(5):
        while _process.reap():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_guard_interpreter_that_exits_immediately_is_named_in_the_error(tmp_path):
    error = await fails_to_start(CodexConfig(codex_bin="/bin/cat", guard_python="/bin/true"))
    assert type(error) is errors.SpawnError
    assert "/bin/true" in error.hint
    assert "guard=False" in error.hint


async def test_a_client_can_do_without_a_guard(monkeypatch):
    async def run_here(function, **options):
        await trio.lowlevel.checkpoint()
        return function()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    with trio.fail_after(10):
        async with fake_process(CodexConfig(guard=False)) as (config, _), open_codex(config) as codex:
            assert _guard.look_up(codex.pid).parent == os.getpid()


async def test_a_process_tree_that_does_not_end_in_time_does_not_change_the_bodys_exception(monkeypatch):
    async def wait_in_vain(process):
        await trio.sleep_forever()

    monkeypatch.setattr(GuardedProcess, "_end_tree", wait_in_vain)
    monkeypatch.setattr(_process, "END_BOUND", 0.1)
    with trio.fail_after(10):
        async with fake_process(CodexConfig(stop_grace=0.1)) as (config, server):
            async with open_codex(config) as codex:
                await server.strike("stubborn")
                left = codex
            with pytest.raises(errors.ConnectionClosed):
                await left.models()
        while _process.reap():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_an_unusable_home_is_refused_without_waiting_for_other_starts():
    for home in ("/\0", "/\ud800", "/\udcff"):
        with pytest.raises(ValueError, match="an environment variable contains"):
            async with open_codex(CodexConfig(codex_home=home)):
                raise AssertionError("the server was started")


async def test_a_variable_that_is_not_utf8_is_refused_without_quoting_it():
    for variable in ({"A": "\udcff secret"}, {"\udcff secret": "1"}):
        with pytest.raises(ValueError, match="an environment variable contains") as caught:
            async with open_codex(CodexConfig(env=variable)):
                raise AssertionError("the server was started")
        assert "secret" not in repr(caught.value)
