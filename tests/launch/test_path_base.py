"""Leading tildes and relative paths."""

import os

import pytest

from trio_codex import Attachment, CodexConfig, batch
from trio_codex._link.dial import parse_address
from trio_codex._values.paths import PathBase, expand
from trio_codex.batch._journal import directory_of
from trio_codex.recording import Recorder, read_recording
from trio_codex.supervision import read_journal
from trio_codex.supervision._generations import with_absolute_socket
from trio_codex.supervision._journal import Journal


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~", "/h"),
        ("~/a", "/h/a"),
        ("a/~", "a/~"),
        ("./~x", "./~x"),
        ("", ""),
        ("/~", "/~"),
        ("~root", "/root"),
    ],
)
def test_only_a_leading_tilde_is_a_home_directory(given, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    assert expand(given) == expected
    monkeypatch.setenv("HOME", "/other")
    assert expand(given, "/h") == expected


def test_an_unknown_home_directory_is_an_error_with_a_hint():
    with pytest.raises(ValueError, match=r"'\./~no-such-user/x' for a file of that name"):
        expand("~no-such-user/x")


def test_the_directories_of_a_configuration_may_be_below_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    config = CodexConfig(cwd="~/work", codex_home="~/.codex-2", guard_python="~/bin/python3")
    monkeypatch.setenv("HOME", "/other")
    assert (config.cwd, config.codex_home) == ("/h/work", "/h/.codex-2")
    assert config.guard_python == "/h/bin/python3"
    assert str(config.home()) == "/h/.codex-2"


def test_the_files_of_a_program_may_be_below_its_home_directory(tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    with Recorder("~/session.jsonl"):
        pass
    assert read_recording("~/session.jsonl").entries == ()
    Journal("~/journal.db").close()
    assert read_journal("~/journal.db") == ()
    (home / "tasks.jsonl").write_text('{"id": "a", "prompt": "b"}')
    assert [task.id for task in batch.read_tasks("~/tasks.jsonl")] == ["a"]
    assert directory_of("~/runs/1") == home / "runs/1"
    assert batch.CopyTree("~/tree") == batch.CopyTree(home / "tree")
    assert batch.GitWorktree("~/repository") == batch.GitWorktree(home / "repository")
    socket = parse_address("unix://~/codex.sock", codex_home=None, insecure=False)
    assert socket.path == f"{home}/codex.sock"
    assert with_absolute_socket(Attachment("unix://~/codex.sock")).url == f"unix://{home}/codex.sock"
    assert list(here.iterdir()) == []


def test_relative_paths_keep_their_meaning_when_the_process_changes_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, below = PathBase.now(None, "/h"), PathBase.now("sub", None)
    monkeypatch.chdir("/")
    assert base.absolute("a/../b") == f"{tmp_path}/b"
    assert base.absolute("~/a") == "/h/a"
    assert base.absolute("/a/./b") == "/a/b"
    assert below.absolute("a") == f"{tmp_path}/sub/a"


def test_in_a_deleted_directory_only_absolute_paths_mean_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for base in (PathBase.now(None, "/h"), PathBase.now("sub", "/h")):
        assert base.absolute("/a") == "/a"
        assert base.absolute("~") == "/h"
        with pytest.raises(ValueError, match="has been deleted: pass an absolute path"):
            base.absolute("a")
    assert PathBase.now("/srv", None).absolute("a") == os.path.join("/srv", "a")
