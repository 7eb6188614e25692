"""Workspaces: the content of an attempt's directory, and its removal."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import trio
from batches import some, stage

from trio_codex.batch import CopyTree, EmptyDirectory, GitWorktree, Task, open_batch


@pytest.fixture
def repository(tmp_path, needs_git):
    path = tmp_path / "repository"
    git(tmp_path, "init", "-q", str(path))
    (path / "code.py").write_text("old")
    git(path, "add", ".")
    git(path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    return path


def git(path, *arguments):
    return subprocess.run(
        ["git", "-C", path, *arguments], check=True, capture_output=True, text=True, timeout=30
    ).stdout


async def create_all(workspace, paths):
    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(workspace.create, path)


async def test_a_failed_command_is_noticed_although_the_program_ignores_sigchld(repository, tmp_path):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        await GitWorktree(repository).create(tmp_path / "w")
        assert (tmp_path / "w" / "code.py").read_text() == "old"
        with pytest.raises(OSError, match=r"git failed: fatal: .*no-such"):
            await GitWorktree(repository, revision="no-such").create(tmp_path / "x")
        with pytest.raises(OSError, match=r"cp failed: cp: .*missing"):
            await CopyTree(tmp_path / "missing").create(tmp_path / "y")
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_a_frozen_program_that_ignores_sigchld_runs_no_command(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.frozen", True, raising=False)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match="cp may fail unnoticed"):
            await CopyTree(tmp_path).create(tmp_path / "y")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not (tmp_path / "y").exists()


async def test_many_worktrees_are_added_and_removed_at_once(repository, tmp_path):
    paths = [tmp_path / f"w{number}" for number in range(12)]
    await create_all(GitWorktree(repository), paths)
    assert {(path / "code.py").read_text() for path in paths} == {"old"}
    (paths[0] / "more").write_text("x")
    assert len(git(repository, "worktree", "list").splitlines()) == 13
    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(GitWorktree(repository).remove, path)
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert not any(path.exists() for path in paths)


async def test_git_does_not_start_its_fsmonitor_daemon_which_would_hold_the_lock(repository, tmp_path):
    monitor, started = tmp_path / "monitor", tmp_path / "started"
    monitor.write_text(f"#!/bin/sh\ntouch {started}\n")
    monitor.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(monitor))
    await GitWorktree(repository).create(tmp_path / "w")
    await GitWorktree(repository).remove(tmp_path / "w")
    assert not started.exists()
    git(repository, "status")
    assert started.exists()


async def test_a_program_in_a_hook_of_another_repository_changes_only_its_own(
    repository, tmp_path, monkeypatch
):
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(repository), str(other))
    (other / "code.py").write_text("new")
    git(other, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "second")
    with monkeypatch.context() as hook:
        hook.setenv("GIT_DIR", str(other / ".git"))
        hook.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
        await GitWorktree(repository).create(tmp_path / "w")
        assert (tmp_path / "w" / "code.py").read_text() == "old"
        await GitWorktree(repository).remove(tmp_path / "w")
    assert git(other, "status", "--porcelain") == ""
    assert git(repository, "worktree", "list").count("\n") == 1


async def test_a_partly_added_worktree_is_removed(repository, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "half").touch()
    workspace = GitWorktree(repository)
    await workspace.remove(tmp_path / "w")
    await workspace.create(tmp_path / "w")
    assert (tmp_path / "w" / "code.py").exists()
    await workspace.remove(tmp_path / "w")
    await workspace.remove(tmp_path / "w")


async def test_a_workspace_that_cannot_be_created_reports_the_reason(repository, tmp_path):
    for workspace, problem in (
        (GitWorktree(repository, "nowhere"), "git failed: .*nowhere"),
        (GitWorktree(tmp_path), "git failed: .*not a git repository"),
        (CopyTree(tmp_path / "missing"), "cp failed: .*No such file"),
        (CopyTree(repository / "code.py"), "cp failed: .*Not a directory"),
    ):
        with pytest.raises(OSError, match=problem):
            await workspace.create(tmp_path / "w")


async def test_a_copy_is_independent_of_its_source(tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("a")
    await CopyTree(source).create(tmp_path / "copy")
    (tmp_path / "copy" / "sub" / "file").write_text("b")
    assert (source / "sub" / "file").read_text() == "a"
    await CopyTree(source).remove(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


async def test_a_link_to_a_directory_is_copied_as_that_directory(tmp_path):
    source, link = tmp_path / "releases", tmp_path / "current"
    source.mkdir()
    (source / "file").write_text("a")
    link.symlink_to(source.name)
    await CopyTree(link).create(tmp_path / "copy")
    (tmp_path / "copy" / "file").write_text("b")
    assert not (tmp_path / "copy").is_symlink()
    assert (source / "file").read_text() == "a"


async def test_a_batch_in_the_directory_that_it_would_copy_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for out in ("runs/1", "link/runs/1", "."):
        with pytest.raises(ValueError, match="choose another out"):
            async with open_batch([], out=tmp_path / out, workspace=CopyTree(tmp_path)):
                pytest.fail("the body must not run")
    assert os.listdir(tmp_path) == ["link"]


async def test_each_attempt_has_its_own_directory_even_if_ids_look_alike(repository):
    tasks = [Task(name, "x") for name in ("a/b", "a%2Fb", "..", "x" * 200, "x" * 199, "ä ö")]
    seen = []

    async def solve(ctx):
        seen.append(ctx.workspace)
        assert (ctx.workspace / "code.py").read_text() == "old"
        (ctx.workspace / "code.py").write_text("new")
        await trio.lowlevel.checkpoint()

    async with stage() as on:
        outcomes = await on.run(tasks, solve, workspace=GitWorktree(repository), turns=3)
        assert {outcome.status for outcome in outcomes.values()} == {"ok"}
        assert len(set(seen)) == len(tasks)
        assert {path.parent for path in seen} == {on.out / "workspaces"}
        assert not any(path.exists() for path in seen)
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(("keep", "kept"), [("failed", {"t1-1"}), ("all", {"t0-1", "t1-1"}), ("none", set())])
async def test_workspaces_are_kept_as_configured(keep, kept):
    async def solve(ctx):
        await trio.lowlevel.checkpoint()
        (ctx.workspace / "note").touch()
        if ctx.task.id == "t1":
            raise ValueError("no")

    async with stage() as on:
        await on.run(some(2), solve, keep=keep, workspace=EmptyDirectory())
        assert {path.name for path in (on.out / "workspaces").iterdir()} == kept


async def test_the_agent_works_in_the_workspace_of_its_attempt():
    async with stage(sandbox_mode="workspace-write") as on:
        on.model.run_command("pwd > where.txt")

        async def solve(ctx):
            await ctx.thread.run(ctx.task.prompt)
            return (ctx.workspace / "where.txt").read_text().strip()

        outcomes = await on.run(some(1), solve)
        assert outcomes["t0"].value == str(on.out / "workspaces" / "t0-1")


# -- git processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_hook(repository, tmp_path):
    """Add a slow hook to the repository. Return the files that it creates at its start and at its end."""
    started, ended = tmp_path / "started", tmp_path / "ended"
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {started}\nsleep 0.5\ntouch {ended}\n")
    hook.chmod(0o755)
    return started, ended


async def appears(path):
    with trio.fail_after(20):
        while not path.exists():  # noqa: ASYNC110  # another process creates it
            await trio.sleep(0.01)


async def test_a_command_is_in_its_own_session_so_ctrl_c_does_not_reach_it(repository, tmp_path):
    """Ctrl-C lets the running tasks of a batch finish, so it must not interrupt the commands for their workspaces."""
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ncut -d' ' -f6 /proc/self/stat > {tmp_path / 'session'}\n")
    hook.chmod(0o755)
    await GitWorktree(repository).create(tmp_path / "w")
    assert int((tmp_path / "session").read_text()) != os.getsid(0)


async def test_a_cancelled_command_ends_with_its_child_processes(repository, slow_hook, tmp_path):
    started, ended = slow_hook
    async with trio.open_nursery() as nursery:
        nursery.start_soon(GitWorktree(repository).create, tmp_path / "w")
        await appears(started)
        nursery.cancel_scope.cancel()
    await trio.sleep(0.7)
    assert not ended.exists()


async def test_a_process_forked_while_a_repository_is_locked_does_not_keep_it_locked(
    repository, slow_hook, tmp_path
):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(GitWorktree(repository).create, tmp_path / "w")
        await appears(slow_hook[0])
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        with trio.fail_after(10):
            await GitWorktree(repository).remove(tmp_path / "w")
    finally:
        worker.kill()
        worker.join()
