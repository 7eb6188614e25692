"""The ready-made policy for paths: what may be changed, and which permissions are granted. Knows no commands."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import trio

from trio_codex import wire
from trio_codex._core.sequences import as_tuple
from trio_codex._values.paths import expand
from trio_codex.policies._decisions import Abstain, Accept, Grant
from trio_codex.policies._policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_codex.policies._requests import FileChangeRequest, PermissionsRequest


LONGEST_CHAIN: Final = 40
"""Links that are followed for one path: as many as Linux follows."""


class Roots:
    """Directories or files, as they were when this was made, and the question what lies below them.

    Each is resolved once. What has become a link since then, be it a root, a directory above it or one in it, leads away
    from the root like any other link does.

    Args:
        paths: Relative ones are below the present working directory, and ``~`` is the home directory.

    Raises:
        OSError: A path leads through a loop of links, or a directory that this process may not search.
        ValueError: It begins with ``~``, and the home directory is unknown.
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
        """Return whether a path is one of these, or below one, however it is read.

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
        try:
            places = {place for reading in readings for place in (_resolved(reading), _entry(reading))}
        except OSError:
            return False  # where it leads cannot be known
        return all(any(_is_below(place, root) for root in self._roots) for place in places)


def _resolved(path: str) -> str:
    """Follow every link of an absolute path as far as it exists.

    ``os.path.realpath`` takes what it cannot look at for no link, and follows those of ``/proc``, which lead elsewhere in
    each process.

    Raises:
        OSError: It leads through a loop, a directory that may not be searched, or a link in ``/proc``.
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
"""What reading a link says of what is none, or is not there."""


def _entry(path: str) -> str:
    """Follow all links but the last."""
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
    """Make a policy that lets files below these roots be changed, and abstains from everything else.

    A change of files is accepted, once, if every path in it, moves included, is below one of the roots after ``..`` and
    symbolic links have been followed. One that does not say what it changes is not, and neither is one that asks for a
    directory outside to write to for the rest of the session.

    Of the permissions that are asked for, those to read and to write below the roots are granted, for the turn; if there are
    none, it abstains. Patterns and special paths are never granted, and neither is the network. What is forbidden along the
    way stays forbidden.

    The roots are resolved when the policy is made, and keep what they meant then. If a root, or a directory above it, is a
    link later and was none then, what lies behind that link is not below the root.

    Limits: links in a requested path are resolved when the server asks. One that is put in place between that and the change
    leads elsewhere. Hard links and mounts are not seen. The policy reads the file system of this process, so it suits only
    servers that share it. A path through a link in ``/proc`` is never accepted: it leads elsewhere in each process.

    Resolving makes calls of the file system that block: microseconds on a local disk, as long as the mount likes on a network.

    Args:
        roots: Directories, or single files. Relative ones are below the present working directory, and a leading ``~`` is
            the home directory.
        read: Where else permission to read is granted.
        name: By which the audit calls it.

    Raises:
        TypeError: ``read`` is one text, and no list of paths.
        OSError: A root leads through a loop of links, or a directory that this process may not search.
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
