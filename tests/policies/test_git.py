"""Git in a hostile repository: plain git runs its programs, and an accepted command runs none of them."""

import os
import shlex
import subprocess

import asked
import pytest
import trio

from trio_codex.policies import Abstain, Accept, allow_git, git_command

EVERY = ("log", "show", "diff-tree", "ls-tree", "rev-parse")

needs_git = pytest.mark.usefixtures("needs_git")


def accepts(policy, line, **more):
    async def decide():
        with trio.fail_after(5):
            return await policy.command(asked.command(line, **more))

    decision = trio.run(decide)
    assert isinstance(decision, Accept | Abstain)
    return isinstance(decision, Accept)


# -- the hostile repository ----------------------------------------------------------------------------------------


class Repository:
    """A repository whose configuration can name programs. Each program records in a file that it ran."""

    def __init__(self, root):
        self.root = root / "repository"
        self.mark = root / "ran"
        self.root.mkdir()
        self.git("init", "-q")
        (self.root / "file").write_text("one\n")
        (self.root / ".gitattributes").write_text("file diff=mine filter=mine\n")
        self.submodule = self.root / "sub"
        self.submodule.mkdir()
        self.git("init", "-q", cwd=self.submodule)
        for text in ("one", "two"):
            (self.submodule / "inside").write_text(text)
            (self.root / "file").write_text(f"{text}\n")
            self.git("add", ".", cwd=self.submodule)
            self.git("commit", "-qm", text, cwd=self.submodule)
            self.git("add", ".")
            self.git("commit", "-qm", text)

    def git(self, *argv, cwd=None):
        person = {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        env = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "GIT_CONFIG_NOSYSTEM": "1", **person}
        return subprocess.run(
            ["git", *argv], cwd=cwd or self.root, env=env, check=True, capture_output=True, text=True
        ).stdout.strip()

    def program(self, name="program"):
        path = self.root / name
        path.write_text(f"#!/bin/sh\necho ran >>{shlex.quote(str(self.mark))}\nexit 1\n")
        path.chmod(0o755)
        return str(path)

    def set(self, key, value=None, cwd=None):
        self.git("config", key, self.program() if value is None else value, cwd=cwd)

    def runs_a_program(self, line):
        """Run a line as the server does, and return whether a program of the repository ran."""
        self.mark.unlink(missing_ok=True)
        env = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run(
            ["/bin/sh", "-c", line], cwd=self.root, env=env, check=False, capture_output=True, timeout=20
        )
        return self.mark.exists()


def monitor(repository):
    repository.set("core.fsmonitor")


def hooks(repository):
    hook = repository.program("post-index-change")
    repository.set("core.hooksPath", os.path.dirname(hook))
    os.utime(repository.root / "file", (0, 0))


def external_diff(repository):
    repository.set("diff.external")


def diff_driver(repository):
    repository.set("diff.mine.command")


def text_conversion(repository):
    repository.set("diff.mine.textconv")


def signed(repository):
    commit = repository.git("cat-file", "commit", "HEAD").split("\n\n")[0]
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----"
    path = repository.root / "commit"
    path.write_text(f"{commit}\n{signature}\n\nsigned\n")
    repository.git("update-ref", "HEAD", repository.git("hash-object", "-t", "commit", "-w", str(path)))
    repository.set("gpg.program")


def signatures_shown(repository):
    signed(repository)
    repository.set("log.showSignature", "true")


def signatures_in_a_format(repository):
    signed(repository)
    repository.set("format.pretty", "mine")
    repository.set("pretty.mine", "%G?")


def submodule(repository):
    repository.set("diff.submodule", "diff")
    repository.set("diff.external", cwd=repository.submodule)


def missing_object(repository, url):
    blob = repository.git("rev-parse", "HEAD:file")
    (repository.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for key, value in {
        "core.repositoryformatversion": "1", "extensions.partialClone": "origin", "remote.origin.promisor": "true",
        "remote.origin.url": url, "protocol.allow": "always", "protocol.ext.allow": "always", "protocol.ssh.allow": "always",
    }.items():  # fmt: skip
        repository.set(key, value)


def fetch_from_a_directory(repository):
    missing_object(repository, str(repository.root))
    repository.set("remote.origin.uploadpack")


def fetch_by_a_command(repository):
    missing_object(repository, f"ext::{repository.program()}")


def fetch_by_ssh(repository):
    missing_object(repository, "ssh://host/path")
    repository.set("core.sshCommand")


@needs_git
@pytest.mark.parametrize(
    ("prepare", "plain"),
    [
        (monitor, "git log -p"), (hooks, "git status"), (external_diff, "git diff HEAD~1 HEAD"), (diff_driver, "git diff HEAD~1 HEAD"),
        (text_conversion, "git log -p"), (signatures_shown, "git log"), (signatures_in_a_format, "git show"),
        (submodule, "git show"), (fetch_from_a_directory, "git show HEAD:file"), (fetch_by_a_command, "git show HEAD:file"),
        (fetch_by_ssh, "git show HEAD:file"),
    ],
)  # fmt: skip
def test_an_accepted_command_runs_no_program_from_the_repository_although_plain_git_does(
    tmp_path, prepare, plain
):
    repository = Repository(tmp_path)
    prepare(repository)
    assert repository.runs_a_program(plain), "plain git did not run the program of the repository"
    policy = allow_git(*EVERY)
    assert not accepts(policy, plain)
    for line in (
        git_command("log"), git_command("log", "-p", "--stat", "-3", "--", "file", "sub"), git_command("show"),
        git_command("show", "HEAD:file"), git_command("show", "-p", "HEAD", "HEAD~1"), git_command("ls-tree", "-r", "-l", "HEAD"),
        git_command("diff-tree", "-p", "-r", "HEAD~1", "HEAD"), git_command("rev-parse", "HEAD"), git_command("log", "--format=raw"),
    ):  # fmt: skip
        assert accepts(policy, shlex.join(["/bin/bash", "-lc", line]))
        assert not repository.runs_a_program(line), line


@needs_git
def test_an_accepted_command_prints_the_same_as_plain_git(tmp_path):
    repository = Repository(tmp_path)
    argv = shlex.split(git_command("log", "--oneline", "--", "file"))
    said = subprocess.run(argv, cwd=repository.root, check=True, capture_output=True, text=True).stdout
    assert [line.split(maxsplit=1)[1] for line in said.splitlines()] == ["two", "one"]


@needs_git
def test_git_status_is_not_supported_because_filters_cannot_be_disabled(tmp_path):
    repository = Repository(tmp_path)
    repository.set("filter.mine.clean")
    (repository.root / "file").write_text("owt\n")
    line = git_command("log").replace(" log ", " status --ignore-submodules=all #")
    assert repository.runs_a_program(line)
    for subcommand in ("status", "diff", "blame", "grep", "commit", "-c"):
        with pytest.raises(
            ValueError,
            match=f"git {subcommand} is not supported, because it may run programs named in the repository",
        ):
            allow_git("log", subcommand)
        with pytest.raises(ValueError, match="supported are log, show"):
            git_command(subcommand)
    with pytest.raises(ValueError, match="allow_git needs at least one subcommand of: log, show"):
        allow_git()


# -- the form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-3", "-p", "HEAD~1..HEAD", "--", "a b"], True),
        (["--since=two weeks ago", "--author=me", "--format=fuller"], True),
        (["--output=/etc/x"], False), (["--outp=/etc/x"], False), (["--ext-diff"], False), (["--textconv"], False),
        (["--show-signature"], False), (["--format=%G?"], False), (["--format=mine"], False), (["--pretty=mine"], False),
        (["--submodule=diff"], False), (["--remerge-diff"], False), (["-O/etc/passwd"], False), (["-pO"], False),
        (["--alternate-refs"], False), (["--", "--output=x"], False), (["--oneline\n"], False),
    ],
)  # fmt: skip
def test_only_options_that_are_known_to_be_read_only_are_accepted(arguments, expected):
    assert accepts(allow_git("log"), git_command("log", *arguments)) is expected


def test_a_command_must_have_the_complete_form_and_a_listed_subcommand():
    policy = allow_git("log", cwd_below="/w")
    line = git_command("log")
    assert accepts(policy, line)
    assert not accepts(policy, line, cwd="/elsewhere")
    assert not accepts(policy, git_command("show"))
    words = shlex.split(line)
    for left_out in range(len(words)):
        assert not accepts(policy, shlex.join(words[:left_out] + words[left_out + 1 :]))
    for added in ("GIT_DIR=/x", "-C/", "--git-dir=/x", "-c", "core.fsmonitor=x", "--exec-path=/x"):
        for at in range(words.index("--no-ext-diff")):
            assert not accepts(policy, shlex.join([*words[:at], added, *words[at:]]))
    assert not accepts(policy, f"{line}; rm x")
    assert not accepts(policy, line, input_to_terminal=True)
