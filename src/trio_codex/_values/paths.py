"""Paths passed in by callers: the meaning of a leading ``~`` and of relative paths."""

from __future__ import annotations

import os

import msgspec


def expand(path: str | os.PathLike[str], home: str | None = None) -> str:
    """Expand a leading ``~`` or ``~user`` in a path. ``home`` is the value of ``~``, by default that of this process.

    Raises:
        ValueError: The home directory is unknown.
    """
    text = os.fsdecode(path)
    if home and (text == "~" or text.startswith("~" + os.sep)):
        return home + text[1:]
    expanded = os.path.expanduser(text)
    # expanduser() returns a path unchanged if it fails, so the caller would silently get a file named `~`.
    if text.startswith("~") and expanded == text:
        raise ValueError(
            f"cannot find the home directory that {text!r} begins with: "
            f"pass an absolute path, or './{text}' for a file of that name"
        )
    return expanded


class PathBase(msgspec.Struct, frozen=True):
    """The base of relative paths for one server.

    Attributes:
        directory: The working directory in which it was started; ``None`` if that had been deleted.
        home: Its ``HOME``, if set.
    """

    directory: str | None
    home: str | None

    @classmethod
    def now(cls, cwd: str | os.PathLike[str] | None, home: str | None) -> PathBase:
        """Return the base for a server that starts now in ``cwd``, by default the current directory of this process."""
        try:
            directory = os.path.abspath(os.curdir if cwd is None else cwd)
        except FileNotFoundError:
            directory = None
        return cls(directory, home)

    def absolute(self, path: str | os.PathLike[str]) -> str:
        """Return an absolute path.

        Raises:
            ValueError: The path is relative and the working directory is unknown, or it begins with ``~`` and the
                home directory is unknown.
        """
        expanded = expand(path, self.home)
        if self.directory is None and not os.path.isabs(expanded):
            raise ValueError(
                f"{expanded!r} is relative, and the working directory of the server has been deleted: pass an absolute path"
            )
        return os.path.normpath(os.path.join(self.directory or "", expanded))
