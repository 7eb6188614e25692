"""Skills: owns what can be asked of those that agents find in a directory, and where else they look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_codex import wire
from trio_codex.errors import DecodeError

if TYPE_CHECKING:
    import os

    from trio_codex._client._session import Session


class Skills:
    """The skills that agents find. Made by :attr:`Codex.skills`.

    To have an agent use one, say so with :class:`SkillInput`. To be told that some of the user have changed, listen to
    ``skills/changed`` with :meth:`Codex.events`; of those in projects the server does not tell.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list(
        self, cwd: str | os.PathLike[str] | None = None, *, rescan: bool = False
    ) -> wire.SkillsListEntry:
        """Tell which ones an agent finds that works in a directory.

        Args:
            cwd: The directory; by default that of the server. Relative ones are resolved as by :meth:`Codex.watch`.
            rescan: Read them from disk again, and not from the server's cache.

        Returns:
            An entry with ``skills``, those that are switched off included, and with ``errors`` of what is no skill.

        Raises:
            CodexError: As :meth:`Codex.request`, and ``DecodeError``.
        """
        params = wire.SkillsListParams(
            cwds=None if cwd is None else [self._session.absolute(cwd)], force_reload=rescan
        )
        response: wire.SkillsListResponse = await self._session.request("skills/list", params)
        if not response.data:
            raise DecodeError("skills/list", "$.data", "it has no entry for the directory")
        return response.data[0]

    async def enable(self, name: str | None = None, *, path: str | os.PathLike[str] | None = None) -> None:
        """Switch one on again, in the **configuration file** of the server: for all its clients, and for good.

        Args:
            name: Its name: either this,
            path: or its ``SKILL.md``.

        Raises:
            ValueError: Neither was given, or both.
            CodexError: As :meth:`Codex.request`, and ``DecodeError``.
        """
        await self._write(name, path, enabled=True)

    async def disable(self, name: str | None = None, *, path: str | os.PathLike[str] | None = None) -> None:
        """Switch one off, in the **configuration file** of the server: for all its clients, and for good.

        Args:
            name: Its name: either this,
            path: or its ``SKILL.md``.

        Raises:
            ValueError: Neither was given, or both.
            CodexError: As :meth:`Codex.request`, and ``DecodeError``.
        """
        await self._write(name, path, enabled=False)

    async def set_extra_roots(self, *roots: str | os.PathLike[str]) -> None:
        """Have the server look in these directories, too, in place of those that were set before, as long as it runs.

        Args:
            *roots: Directories of skills; relative ones are resolved as by :meth:`Codex.watch`.

        Raises:
            CodexError: As :meth:`Codex.request`.
        """
        params = wire.SkillsExtraRootsSetParams(extra_roots=[self._session.absolute(root) for root in roots])
        await self._session.request("skills/extraRoots/set", params)

    async def _write(self, name: str | None, path: str | os.PathLike[str] | None, *, enabled: bool) -> None:
        if (name is None) == (path is None):
            raise ValueError("a skill is switched by its name or by its path")
        params = wire.SkillsConfigWriteParams(
            enabled=enabled, name=name, path=None if path is None else self._session.absolute(path)
        )
        await self._session.request("skills/config/write", params)
