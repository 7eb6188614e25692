"""The built-in policy for paths: which files may be changed, and which permissions are granted. Independent of commands."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import trio

from trio_codex import wire
from trio_codex._core.arguments import as_tuple
from trio_codex._values.paths import expand
from trio_codex.policies._decisions import Abstain, Accept, Grant
from trio_codex.policies._policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_codex.policies._requests import FileChangeRequest, PermissionsRequest


LONGEST_CHAIN: Final = 40
"""Maximum number of symbolic links to follow in one path; Linux has the same limit."""


class Roots:
    """Directories or files, resolved when this object is created, and a test for paths below them.

    Each root is resolved once. If a root, or a directory above or below it, is later replaced by a symbolic link, paths
    through this link are outside the root unless its target is inside.

    Args:
        paths: The roots. Relative paths are resolved against the current working directory, and a leading ``~`` is the
            home directory.

    Raises:
        OSError: A path contains a loop of symbolic links, or a directory that this process may not search.
        ValueError: A path begins with ``~``, and the home directory is unknown.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        given = tuple(os.path.abspath(expand(path)) for path in paths)
        self._shown = os.pathsep.join(given)
        self._roots = tuple(map(_resolved, given))

    def __str__(self) -> str:
        return self._shown

    def __bool__(self) -> bool:
        return bool(self._roots)

    def hold(self, path: str | None, cwd: str | None = None) -> bool:
        """Return whether a path is one of the roots or below one, under every interpretation of the path.

        Symbolic links are followed as they are now, including those in the existing part of a path to a new file. Both
        the path and the target of a link must be below a root: deleting a link changes the directory that contains it.

        A relative path is resolved against ``cwd``; without one, the result for it is ``False``.
        """
        if not path or "\0" in path:
            return False
        if not os.path.isabs(path):
            if cwd is None or not os.path.isabs(cwd):
                return False
            path = os.path.join(cwd, path)
        # A program may remove `..` before it follows links, or after.
        readings = (path, os.path.normpath(path))
        try:
            places = {place for reading in readings for place in (_resolved(reading), _entry(reading))}
        except (OSError, UnicodeError):
            return False  # the target is unknown, or no file can have this name
        return all(any(_is_below(place, root) for root in self._roots) for place in places)


def _resolved(path: str) -> str:
    """Follow every symbolic link in the existing part of an absolute path.

    ``os.path.realpath`` cannot be used: it treats links that it cannot read as ordinary files, and it follows links in
    ``/proc``, whose targets differ between processes.

    Raises:
        OSError: The path contains a loop, a directory that this process may not search, or a link in ``/proc``.
    """
    drive, tail = os.path.splitdrive(path)
    at = drive + os.sep
    rest = tail.replace(os.altsep or os.sep, os.sep).split(os.sep)[::-1]
    links = 0
    while rest:
        name = rest.pop()
        if name in ("", os.curdir):
            continue
        if name == os.pardir:
            at = os.path.dirname(at)
            continue
        step = os.path.join(at, name)
        try:
            target = os.readlink(step)
        except OSError as exc:
            if exc.errno not in _NO_LINK:
                raise
            at = step
            continue
        links += 1
        if links > LONGEST_CHAIN or _is_below(step, "/proc"):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if os.path.isabs(target):
            at = os.path.splitdrive(target)[0] + os.sep
        rest += target.split(os.sep)[::-1]
    return at


_NO_LINK: Final = frozenset({errno.EINVAL, errno.ENOENT, errno.ENOTDIR})
"""Errors of ``readlink`` for a path that is not a link or does not exist."""


def _entry(path: str) -> str:
    """Follow all symbolic links except the last component."""
    parent, name = os.path.split(path.rstrip(os.sep) or os.sep)
    return _resolved(path) if name in ("", os.curdir, os.pardir) else os.path.join(_resolved(parent), name)


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
    """Create a policy that allows changes to files below these roots, and abstains from everything else.

    A file change is accepted once if every path in it, including the targets of moves, is below one of the roots after
    ``..`` and symbolic links have been resolved. The policy abstains if the request does not list its changes, or asks to
    write to a directory outside the roots for the rest of the session.

    Of the requested permissions, those to read and write below the roots are granted, for the turn. If there are none, the
    policy abstains. Glob patterns, special paths and network access are never granted. Denied paths within a grant stay
    denied.

    The roots are resolved when the policy is created. If a root, or a directory above it, is later replaced by a symbolic
    link, paths through this link are not below the root.

    Limits: links in a requested path are resolved when the server sends the request; a link that is created between this
    check and the change is not noticed. Hard links and mounts are not detected. The policy reads the file system of this
    process, so use it only with servers that share this file system. A path through a link in ``/proc`` is never
    accepted, because its target differs between processes.

    Resolving a path blocks: for microseconds on a local disk, and for as long as the file system takes on a network mount.

    Args:
        roots: Directories, or single files. Relative paths are resolved against the current working directory, and a
            leading ``~`` is the home directory.
        read: Additional paths for which to grant read permission.
        name: The policy's name in audit records.

    Raises:
        TypeError: ``read`` is a bare string instead of a list of paths.
        OSError: A root contains a loop of symbolic links, or a directory that this process may not search.
        ValueError: A root begins with ``~``, and the home directory is unknown.
    """
    writable = Roots(roots)
    readable = Roots([*roots, *as_tuple(read)])

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
    """Yield every path that a request changes; for an unknown kind of change, an empty path, which is below no root."""
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
    """Return the permissions to grant, with all requested denials; ``None`` if there are none to grant."""
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
