"""The ready-made policy for paths: what may be changed, and which permissions are granted. Knows no commands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from trio_codex import wire
from trio_codex._core._several import several
from trio_codex.policies._decisions import Abstain, Accept, Grant
from trio_codex.policies._policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_codex.policies._requests import FileChangeRequest, PermissionsRequest


class Roots:
    """Directories, or files, and the question what lies below them.

    Args:
        paths: Relative ones are below the present working directory.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self._paths = tuple(os.path.abspath(path) for path in paths)

    def __str__(self) -> str:
        return os.pathsep.join(self._paths)

    def __bool__(self) -> bool:
        return bool(self._paths)

    def hold(self, path: str | None, cwd: str | None = None) -> bool:
        """Tell whether a path is one of these, or below one, however it is read.

        Symbolic links are followed as they are now, also above what does not exist yet. The way to the path has to be below
        as well as what it leads to: to delete a link changes the directory that it is in.

        Args:
            path: The path.
            cwd: The directory that relative ones are below; without it they are below nothing.
        """
        if not path or "\0" in path:
            return False
        if not os.path.isabs(path):
            if cwd is None or not os.path.isabs(cwd):
                return False
            path = os.path.join(cwd, path)
        # Whoever opens it may take `..` out before following links, or after.
        readings = (path, os.path.normpath(path))
        targets = {os.path.realpath(reading) for reading in readings}
        entries = {_entry(reading) for reading in readings}
        roots = tuple(map(os.path.realpath, self._paths))
        return all(any(_is_below(each, root) for root in roots) for each in targets | entries)


def _entry(path: str) -> str:
    """Follow all links but the last."""
    parent, name = os.path.split(path.rstrip(os.sep) or os.sep)
    return (
        os.path.realpath(path)
        if name in ("", os.curdir, os.pardir)
        else os.path.join(os.path.realpath(parent), name)
    )


def _is_below(path: str, root: str) -> bool:
    try:
        return os.path.commonpath((path, root)) == root
    except ValueError:  # on different drives
        return False


def allow_paths(
    *roots: str | os.PathLike[str],
    read: Iterable[str | os.PathLike[str]] = (),
    name: str = "allow_paths",
) -> Policy:
    """Make a policy that lets files below these roots be changed, and abstains from everything else.

    A change of files is accepted, once, if every path in it, moves included, is below one of the roots after ``..`` and
    symbolic links have been followed. One that does not say what it changes is not, and neither is one that asks for a
    directory outside to write to for the rest of the session.

    Of the permissions that are asked for, those to read and to write below the roots are granted, for the turn; if there are
    none, it abstains. Patterns and special paths are never granted, and neither is the network. What is forbidden along the
    way stays forbidden.

    What this does not guarantee: links are looked at when the server asks. One that is put in place between that and the
    change leads elsewhere. And it sees the file system of this process: for a server elsewhere it is of no use.

    The links are followed by ``os.path.realpath``: calls of the file system that block, microseconds on a local disk, and
    as long as the mount likes on a network.

    Args:
        roots: Directories, or single files. Relative ones are below the present working directory.
        read: Where else permission to read is granted.
        name: By which the audit calls it.

    Raises:
        TypeError: ``read`` is one text, and no list of paths.
    """
    writable = Roots(roots)
    readable = Roots([*roots, *several(read)])

    async def allow_paths(request: FileChangeRequest) -> Accept | Abstain:
        await trio.lowlevel.checkpoint()
        paths = list(_changed(request))
        if not paths or not all(writable.hold(path, request.cwd) for path in paths):
            return Abstain()
        return Accept(rule=f"{name}: {writable}")

    async def allow_permissions(request: PermissionsRequest) -> Grant | Abstain:
        await trio.lowlevel.checkpoint()
        files = request.permissions.file_system
        granted = None if files is None else _granted(files, readable, writable, request.cwd)
        if granted is None:
            return Abstain()
        profile = wire.GrantedPermissionProfile(file_system=granted)
        return Grant(profile, rule=f"{name}: {readable}")

    return Policy(name=name, file_change=allow_paths, permissions=allow_permissions)


def _changed(request: FileChangeRequest) -> Iterator[str]:
    """Give every path that a request is about; an empty one, which is below nothing, where that is not known."""
    if request.changes and request.grant_root is not None:
        yield request.grant_root
    for change in request.changes:
        yield change.path
        match change.kind:
            case wire.UpdatePatchChangeKind(move_path=str(target)):
                yield target
            case wire.AddPatchChangeKind() | wire.DeletePatchChangeKind() | wire.UpdatePatchChangeKind():
                pass
            case _:
                yield ""


def _granted(
    files: wire.AdditionalFileSystemPermissions, readable: Roots, writable: Roots, cwd: str
) -> wire.AdditionalFileSystemPermissions | None:
    """Give the part that may be granted, with all that is forbidden in it; ``None`` if that is nothing."""
    entries = _entries(files)
    roots = {wire.FileSystemAccessMode.read: readable, wire.FileSystemAccessMode.write: writable}
    allowed = [
        entry
        for entry in entries
        if isinstance(entry.path, wire.PathFileSystemPath)
        and entry.access in roots
        and roots[wire.FileSystemAccessMode(entry.access)].hold(entry.path.path, cwd)
    ]
    if not allowed:
        return None
    denied = [entry for entry in entries if entry.access == wire.FileSystemAccessMode.deny]
    return wire.AdditionalFileSystemPermissions(
        entries=[*allowed, *denied], glob_scan_max_depth=files.glob_scan_max_depth
    )


def _entries(files: wire.AdditionalFileSystemPermissions) -> list[wire.FileSystemSandboxEntry]:
    if files.entries is not None:
        return list(files.entries)
    return [
        wire.FileSystemSandboxEntry(access=access, path=wire.PathFileSystemPath(path=path))
        for access, paths in (
            (wire.FileSystemAccessMode.read, files.read),
            (wire.FileSystemAccessMode.write, files.write),
        )
        for path in paths or ()
    ]
