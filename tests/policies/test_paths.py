"""Which paths are below a root, on a real file system, and which requests are accepted and granted for it."""

import errno
import os
import tempfile
from pathlib import Path

import asked
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from trio_codex import policies, wire
from trio_codex.policies import Abstain, Accept, Grant, allow_paths
from trio_codex.policies._paths import Roots


async def decide(policy, *changes, **more):
    with trio.fail_after(5):
        return await policy.file_change(asked.file_change(*changes, **more))


async def grant(policy, files, **more):
    with trio.fail_after(5):
        return await policy.permissions(asked.permissions(files, **more))


@pytest.fixture
def tree(tmp_path):
    """Create ``root``, with links within it and out of it, and ``outside``, with links into ``root``."""
    for name in ("root/sub", "outside/dir"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root/file").touch()
    links = {
        "root/out": "../outside", "root/dangling": "../outside/new", "root/within": "sub", "root/loop": "loop",
        "root/sub/up": "..", "root/absolute": str(tmp_path / "outside"), "outside/in": "../root", "link": "root",
        "root/later": "not-yet/deep", "root/deeper": "sub/one/two", "root/file-link": "../outside/target", "outside/file-in": "../root/file",
    }  # fmt: skip
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    return tmp_path


BELOW = {
    "root/new": True, "root/file": True, "root/sub/new": True, "root/not-yet/deep/new": True, "root/within/new": True,
    "root/sub/up/new": True, "root/sub/../new": True, "link/new": True, "link/sub/../new": True, "root/later/new": True,
    "root": True, "root/..foo": True, "root/~": True,
    "root/out/new": False, "root/out": False, "root/dangling": False, "root/absolute/x": False, "root/../new": False,
    "root/sub/../../new": False, "root/out/../new": False, "root/not-yet/../../new": False, "root-not/new": False,
    "outside/new": False, "outside/in/new": True, "root/within/../../outside/x": False, "root/file-link": False,
    "outside/file-in": False, "root/sub/up/../x": False, "root/..": False, "root/sub/up/out/x": False, ".": False,
    "ROOT/new": False, "root/deeper/../../x": False,
}  # fmt: skip


@pytest.mark.parametrize(("path", "expected"), BELOW.items())
async def test_a_change_is_accepted_if_its_path_is_below_a_root_under_every_interpretation(
    tree, path, expected
):
    for root in ("root", "link"):
        policy = allow_paths(tree / root)
        absolute = await decide(policy, f"{tree}/{path}")
        relative = await decide(policy, path, cwd=str(tree))
        assert isinstance(absolute, Accept if expected else Abstain), root
        assert absolute == relative


async def test_a_root_that_is_a_file_covers_only_that_file(tree):
    policy = allow_paths(tree / "root/file")
    assert isinstance(await decide(policy, f"{tree}/root/file"), Accept)
    assert await decide(policy, f"{tree}/root/file2") == Abstain()
    assert await decide(policy, f"{tree}/root") == Abstain()


async def test_a_change_needs_at_least_one_path_and_all_of_them_below_a_root(tree):
    policy = allow_paths(tree / "root", tree / "outside/dir")
    inside, other, outside = f"{tree}/root/a", f"{tree}/outside/dir/b", f"{tree}/outside/c"
    decision = await decide(policy, inside, other)
    assert decision == policies.accept()
    assert decision.rule == f"allow_paths: {tree}/root:{tree}/outside/dir"
    assert await decide(policy, inside, outside) == Abstain()
    assert await decide(policy) == Abstain()
    assert await decide(policy, "") == Abstain()
    assert await decide(policy, f"{inside}\0") == Abstain()
    assert await decide(policy, f"{inside}\ud800") == Abstain()
    assert await decide(policy, "root/a") == Abstain()
    assert await decide(policy, "root/a", cwd=".") == Abstain()


async def test_the_target_of_a_move_is_checked_and_an_unknown_kind_of_change_is_not_decided(tree):
    policy = allow_paths(tree / "root")
    inside, outside = f"{tree}/root/a", f"{tree}/outside/a"
    move = lambda target: wire.UpdatePatchChangeKind(move_path=target)  # noqa: E731  # used three times
    assert isinstance(await decide(policy, (inside, move(f"{tree}/root/b"))), Accept)
    assert isinstance(await decide(policy, (inside, move(None))), Accept)
    assert isinstance(await decide(policy, (inside, wire.DeletePatchChangeKind())), Accept)
    assert await decide(policy, (inside, move(outside))) == Abstain()
    assert await decide(policy, (outside, move(inside))) == Abstain()
    assert await decide(policy, (inside, wire.UnknownVariant(tag="swap", raw={"type": "swap"}))) == Abstain()


async def test_a_directory_requested_for_the_session_must_be_below_a_root(tree):
    policy = allow_paths(tree / "root")
    inside = f"{tree}/root/a"
    assert isinstance(await decide(policy, inside, grant_root=f"{tree}/root/sub"), Accept)
    assert await decide(policy, inside, grant_root=str(tree)) == Abstain()
    assert await decide(policy, inside, grant_root=f"{tree}/root/out") == Abstain()
    assert await decide(policy, inside, grant_root="") == Abstain()
    assert await decide(policy, grant_root=f"{tree}/root/sub") == Abstain()


async def test_a_relative_root_refers_to_the_working_directory_at_creation(tree, monkeypatch):
    monkeypatch.chdir(tree)
    policy = allow_paths("root")
    monkeypatch.chdir("/")
    assert isinstance(await decide(policy, f"{tree}/root/a"), Accept)


def replace_root(tree):
    (tree / "root").rename(tree / "moved")
    (tree / "root").symlink_to("outside")


def replace_parent(tree):
    (tree / "elsewhere/root").mkdir(parents=True)
    os.rename(tree, f"{tree}-moved")
    tree.symlink_to(f"{tree}-moved/elsewhere")


def replace_the_link(tree):
    (tree / "link").unlink()
    (tree / "link").symlink_to("outside")


def create_a_link_at_the_root(tree):
    (tree / "later").symlink_to("outside")


def create_a_link_above_the_root(tree):
    (tree / "outside/deep").mkdir()
    (tree / "later").symlink_to("outside")


def create_a_link_at_the_target_of_the_root(tree):
    (tree / "outside/new").symlink_to("dir")


@pytest.mark.parametrize(
    ("root", "change"),
    [
        ("root", replace_root), ("link", replace_root), ("root", replace_parent), ("link", replace_the_link),
        ("later", create_a_link_at_the_root), ("later/deep", create_a_link_above_the_root),
        ("root/dangling", create_a_link_at_the_target_of_the_root),
    ],
)  # fmt: skip
async def test_a_root_keeps_its_target_from_the_creation_of_the_policy(tree, root, change):
    policy = allow_paths(tree / root)
    commands = policies.allow_commands("ls", cwd_below=tree / root)
    before = await decide(policy, f"{tree}/{root}/x")
    assert isinstance(before, Accept)
    change(tree)
    assert await decide(policy, f"{tree}/{root}/x") == Abstain()
    assert await decide(policy, f"{(tree / root).resolve()}/x") == Abstain()
    assert await grant(policy, asked.files(asked.entry("write", f"{tree}/{root}"))) == Abstain()
    assert await commands.command(asked.command("ls", cwd=f"{tree}/{root}")) == Abstain()


async def test_a_root_that_is_recreated_is_still_the_same_root(tree):
    policy = allow_paths(tree / "root", tree / "later")
    (tree / "root").rename(tree / "moved")
    (tree / "root").mkdir()
    (tree / "later").mkdir()
    assert isinstance(await decide(policy, f"{tree}/root/x", f"{tree}/later/x"), Accept)
    assert await decide(policy, f"{tree}/moved/x") == Abstain()


@pytest.mark.skipif(not Path("/proc/self/cwd").is_dir(), reason="needs /proc")
async def test_a_link_through_proc_is_outside_every_root(tree, monkeypatch):
    policy = allow_paths(tree / "root")
    monkeypatch.chdir(tree / "root")
    (tree / "root/here").symlink_to("/proc/self/cwd")
    assert await decide(policy, "/proc/self/cwd/x") == Abstain()
    assert await decide(policy, f"{tree}/root/here/x") == Abstain()
    assert await decide(policy, f"/proc/{os.getpid()}/root{tree}/root/x") == Abstain()


async def test_a_loop_of_links_is_below_no_root_and_cannot_be_a_root(tree):
    assert await decide(allow_paths(tree / "root"), f"{tree}/root/loop/x") == Abstain()
    with pytest.raises(OSError, match=r"[Tt]oo many"):
        allow_paths(tree / "root/loop")


async def test_a_path_that_cannot_be_resolved_is_not_below_a_root(tree, monkeypatch):
    def closed(path):
        raise (
            PermissionError(errno.EACCES, "closed", path)
            if path.endswith("/sub")
            else FileNotFoundError(2, "")
        )

    policy = allow_paths(tree / "root")
    monkeypatch.setattr(os, "readlink", closed)
    assert await decide(policy, f"{tree}/root/sub") == Abstain()
    assert isinstance(await decide(policy, f"{tree}/root/other"), Accept)
    with pytest.raises(PermissionError):
        allow_paths(tree / "root/sub")


def test_granted_paths_are_resolved_against_the_current_working_directory(tree, monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.chdir(tree)
    files = policies.grant(read=["root", "~/a"], write=[tree / "b"]).permissions.file_system
    assert (files.read, files.write) == ([f"{tree}/root", "/h/a"], [f"{tree}/b"])


async def test_a_tilde_is_expanded_when_the_policy_is_created(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    policy = allow_paths("~/root")
    monkeypatch.setenv("HOME", "/")
    assert isinstance(await decide(policy, f"{tree}/root/x"), Accept)
    assert await decide(policy, "~/root/x", cwd=str(tree)) == Abstain()
    with pytest.raises(ValueError, match="cannot find the home directory"):
        allow_paths("~no-such-user/root")


async def test_without_roots_nothing_is_accepted():
    assert await decide(allow_paths(), "/a") == Abstain()
    assert await grant(allow_paths(), asked.files(asked.entry("write", "/a"))) == Abstain()


# -- permissions ---------------------------------------------------------------------------------------------------


def granted(decision):
    assert isinstance(decision, Grant)
    assert decision.scope == "turn"
    assert decision.permissions.network is None
    return [(str(each.access), wire.encode(each.path)) for each in decision.permissions.file_system.entries]


def path(text):
    return {"type": "path", "path": str(text)}


async def test_only_permissions_below_the_roots_are_granted(tree):
    policy = allow_paths(tree / "root", read=[tree / "outside"])
    wanted = asked.files(
        asked.entry("write", f"{tree}/root/sub"), asked.entry("write", f"{tree}/outside"),
        asked.entry("read", f"{tree}/outside/dir"), asked.entry("read", "sub"), asked.entry("write", f"{tree}/root/out"),
        asked.entry("append", f"{tree}/root"), asked.entry("read", "/etc"),
        asked.entry("write", wire.GlobPatternFileSystemPath(pattern=f"{tree}/root/**")),
        asked.entry("read", wire.SpecialFileSystemPath(value=wire.RootFileSystemSpecialPath())),
    )  # fmt: skip
    network = wire.AdditionalNetworkPermissions(enabled=True)
    decision = await grant(policy, wanted, cwd=f"{tree}/root", network=network)
    assert granted(decision) == [
        ("write", path(f"{tree}/root/sub")), ("read", path(f"{tree}/outside/dir")), ("read", path("sub")),
    ]  # fmt: skip
    assert decision.rule == f"allow_paths: {tree}/root:{tree}/outside"


async def test_requested_denials_are_kept_in_the_grant(tree):
    policy = allow_paths(tree / "root")
    secret = wire.GlobPatternFileSystemPath(pattern="**/*.env")
    wanted = asked.files(
        asked.entry("deny", secret), asked.entry("write", f"{tree}/root"), asked.entry("deny", "/x"), glob_scan_max_depth=3
    )  # fmt: skip
    decision = await grant(policy, wanted)
    assert granted(decision) == [
        ("write", path(f"{tree}/root")), ("deny", {"type": "glob_pattern", "pattern": "**/*.env"}), ("deny", path("/x")),
    ]  # fmt: skip
    assert decision.permissions.file_system.glob_scan_max_depth == 3
    assert await grant(policy, asked.files(asked.entry("deny", f"{tree}/root/x"))) == Abstain()


async def test_the_older_path_lists_are_used_if_there_are_no_entries(tree):
    policy = allow_paths(tree / "root")
    wanted = wire.AdditionalFileSystemPermissions(read=[f"{tree}/root", "/etc"], write=["/etc", "sub"])
    assert granted(await grant(policy, wanted, cwd=f"{tree}/root")) == [
        ("read", path(f"{tree}/root")),
        ("write", path("sub")),
    ]


async def test_a_permission_request_without_a_path_below_a_root_is_not_decided(tree):
    policy = allow_paths(tree / "root")
    network = wire.AdditionalNetworkPermissions(enabled=True)
    assert await grant(policy, None, network=network) == Abstain()
    assert await grant(policy, asked.files()) == Abstain()
    assert await grant(policy, asked.files(asked.entry("write", "/etc"))) == Abstain()


# -- the real file system as the oracle ----------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "..", ".", "up", "out", "in", "dangling", "chain"])
PATHS = st.lists(NAMES, min_size=1, max_size=6).map("/".join)
TARGETS = st.sampled_from(
    ["..", "../..", "a", "a/b", "../outside", "../outside/a", "c", "../root/a", "up", "."]
)


@given(
    st.dictionaries(st.sampled_from(["a", "up", "out", "chain", "a/b", "a/up"]), TARGETS, max_size=4), PATHS
)
@example({"out": "../outside"}, "out/../a")
@example({"a/up": ".."}, "a/up/../b")
@example({"up": "../.."}, "up/../../../../../dangling")
def test_a_file_created_at_an_accepted_path_is_below_the_root(links, path):
    with tempfile.TemporaryDirectory() as directory:
        # The root is deeper than any path climbs, so every created file is in this directory.
        bottom = Path(directory).resolve()
        top = bottom.joinpath(*"abcdefghi")
        root = top / "root"
        for name in ("root/a/b", "root/c", "outside/a"):
            (top / name).mkdir(parents=True)
        for name, target in links.items():
            link = root / name
            if link.is_dir() and not link.is_symlink():
                continue
            link.symlink_to(target)
        accepted = Roots([root]).hold(str(root / path))
        for reading in (f"{root}/{path}", os.path.normpath(f"{root}/{path}")):
            before = set(bottom.rglob("*"))
            try:
                descriptor = os.open(reading, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except OSError:
                continue  # it already exists, or cannot be created
            os.close(descriptor)
            (made,) = set(bottom.rglob("*")) - before
            if accepted:
                assert made.is_relative_to(root), made


@pytest.mark.parametrize(
    "make",
    [
        lambda path: policies.grant(read=path),
        lambda path: policies.grant(write=path),
        lambda path: allow_paths(read=path),
        lambda text: policies.accept(exec_policy=text),
    ],
    ids=["read", "write", "allow_paths", "exec_policy"],
)
def test_a_bare_string_is_rejected_where_a_list_is_expected(make):
    with pytest.raises(TypeError, match="expected a list of strings"):
        make("/tmp")
    assert make(["/tmp"])
