"""Requests about the skills available to agents, and about the directories to search for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_codex import wire
from trio_codex.errors import DecodeError

if TYPE_CHECKING:
    import os

    from trio_codex._session.session import Session


class Skills:
    """The skills available to agents. Accessed as :attr:`Codex.skills`.

    To have an agent use one, pass a :class:`SkillInput`. To be notified when the user's skills change, listen for
    ``skills/changed`` with :meth:`Codex.events`. The server does not report changes of project skills.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list(
        self, cwd: str | os.PathLike[str] | None = None, *, rescan: bool = False
    ) -> wire.SkillsListEntry:
        """Return the skills available to an agent that works in a directory.

        Args:
            cwd: The directory; the default is the server's working directory. Relative paths are resolved as by
                :meth:`Codex.watch`.
            rescan: Read the skills from disk again instead of using the server's cache.

        Returns:
            An entry with ``skills``, including disabled ones, and ``errors`` for files that are not valid skills.

        Raises:
            CodexError: As in :meth:`Codex.request`, and ``DecodeError``.
        """
        params = wire.SkillsListParams(
            cwds=None if cwd is None else [self._session.server.absolute(cwd)], force_reload=rescan
        )
        response: wire.SkillsListResponse = await self._session.server.request("skills/list", params)
        if not response.data:
            raise DecodeError("skills/list", "$.data", "there is no entry for the directory")
        return response.data[0]

    async def enable(self, name: str | None = None, *, path: str | os.PathLike[str] | None = None) -> None:
        """Enable a skill permanently and for all clients, in the **configuration file** of the server.

        Args:
            name: The name of the skill. Pass either this or ``path``.
            path: The path of its ``SKILL.md``.

        Raises:
            ValueError: Neither was given, or both.
            CodexError: As in :meth:`Codex.request`, and ``DecodeError``.
        """
        await self._write(name, path, enabled=True)

    async def disable(self, name: str | None = None, *, path: str | os.PathLike[str] | None = None) -> None:
        """Disable a skill permanently and for all clients, in the **configuration file** of the server.

        Args:
            name: The name of the skill. Pass either this or ``path``.
            path: The path of its ``SKILL.md``.

        Raises:
            ValueError: Neither was given, or both.
            CodexError: As in :meth:`Codex.request`, and ``DecodeError``.
        """
        await self._write(name, path, enabled=False)

    async def set_extra_roots(self, *roots: str | os.PathLike[str]) -> None:
        """Set additional directories to search for skills until the server exits, replacing any set before.

        Args:
            *roots: Directories of skills. Relative paths are resolved as by :meth:`Codex.watch`.

        Raises:
            CodexError: As in :meth:`Codex.request`.
        """
        params = wire.SkillsExtraRootsSetParams(
            extra_roots=[self._session.server.absolute(root) for root in roots]
        )
        await self._session.server.request("skills/extraRoots/set", params)

    async def _write(self, name: str | None, path: str | os.PathLike[str] | None, *, enabled: bool) -> None:
        if (name is None) == (path is None):
            raise ValueError("pass either the name or the path of a skill")
        params = wire.SkillsConfigWriteParams(
            enabled=enabled, name=name, path=None if path is None else self._session.server.absolute(path)
        )
        await self._session.server.request("skills/config/write", params)
