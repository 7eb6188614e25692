"""What ``trio-codex doctor`` reports about the daemon of a ``CODEX_HOME``. It never starts one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_codex import attach_codex
from trio_codex.binary import check_version
from trio_codex.cli._startup import missing_extra
from trio_codex.cli._text import explain
from trio_codex.errors import CodexError, SpawnError

if TYPE_CHECKING:
    from trio_codex import CodexConfig
    from trio_codex.cli._findings import Examination

SOCKET: Final = ("app-server-control", "app-server-control.sock")
"""The daemon's socket, below ``CODEX_HOME``."""

SECONDS: Final = 2.0
"""Timeout for attaching to the daemon; it takes 10 ms."""

STALE: Final = "Restart it with: codex app-server daemon restart; or remove its socket."


async def report_daemon(examination: Examination, config: CodexConfig, version: str | None) -> None:
    """Report whether a daemon is running, whether it answers, and whether it is older than the binary.

    Args:
        examination: Collects the finding.
        config: The configuration of the server that has already been examined.
        version: The version of that server.
    """
    await trio.lowlevel.checkpoint()
    try:
        path = os.path.join(config.home(), *SOCKET)
    except SpawnError:  # without a home directory there is no daemon, and the server has not started either
        return
    details: dict[str, Any] = {"path": path, "version": None}
    if not _exists(path):
        examination.note("daemon", "ok", "none is running", **details)
        return
    found: str | None = None
    with trio.move_on_after(SECONDS) as scope:  # noqa: ASYNC912  # attaching is a cancellation point
        try:
            async with attach_codex(f"unix://{_resolved(path)}") as codex:
                found = details["version"] = codex.metadata.server_version
        except ModuleNotFoundError as exc:
            examination.note("daemon", "skipped", f"not checked: {missing_extra(exc)}", **details)
            return
        except CodexError as exc:
            examination.note("daemon", "warning", explain(exc)[0], STALE, **details)
            return
    if scope.cancelled_caught:
        examination.note("daemon", "warning", f"{path} did not answer within {SECONDS:g} s", STALE, **details)
    elif version is not None and check_version(found, (version, version)) == "older":
        hint = "Restart it with: codex app-server daemon restart"
        examination.note("daemon", "warning", f"{found}, older than the binary, {version}", hint, **details)
    else:
        examination.note("daemon", "ok", f"{found or 'unknown version'}, at {path}", **details)


def _exists(path: str) -> bool:
    return os.path.exists(path)


def _resolved(path: str) -> str:
    # Under a long CODEX_HOME, the socket is a link to one whose path is short enough.
    return os.path.realpath(path)
