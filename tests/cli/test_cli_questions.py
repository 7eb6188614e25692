"""The description of requested permissions in a question on the terminal."""

import pytest

from trio_codex import policies, wire
from trio_codex.cli._questions import permissions_question, wanted

READ = wire.FileSystemSandboxEntry(access="read", path=wire.PathFileSystemPath(path="/old"))
WRITE = wire.FileSystemSandboxEntry(access="write", path=wire.PathFileSystemPath(path="/new"))


def request(**files):
    params = wire.PermissionsRequestApprovalParams(
        cwd="/w",
        item_id="i",
        permissions=wire.RequestPermissionProfile(file_system=wire.AdditionalFileSystemPermissions(**files)),
        started_at_ms=0,
        thread_id="t",
        turn_id="u",
    )
    return policies.PermissionsRequest(
        thread_id="t",
        turn_id="u",
        item_id="i",
        cwd="/w",
        permissions=params.permissions,
        reason=None,
        params=params,
    )


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({"read": ["/a"], "write": ["/b"]}, ["read /a", "write /b"]),
        ({"entries": [WRITE]}, ["write /new"]),
        ({"entries": [WRITE], "read": ["/a"], "write": ["/b"]}, ["read /a", "write /b", "write /new"]),
        ({"entries": [READ], "read": ["/old"]}, ["read /old"]),
        ({"entries": [], "write": ["/b"]}, ["write /b"]),
    ],
)
def test_every_requested_permission_is_shown_exactly_once(files, shown):
    asked = request(**files)
    assert list(wanted(asked)) == shown
    lines = [line.plain.strip() for line in permissions_question(asked)]
    assert lines[1:] == shown
