"""Requests in the form that the client creates, for tests that call policies directly."""

from trio_codex import policies, wire

OF_TURN = {"thread_id": "t", "turn_id": "u"}


def command(line, cwd="/w", **more):
    params = wire.CommandExecutionRequestApprovalParams(item_id="i", started_at_ms=0, command=line, **OF_TURN)
    return policies.CommandRequest(
        **OF_TURN, item_id="i", command=line, cwd=cwd, reason=None, params=params, **more
    )


def file_change(*changes, cwd=None, grant_root=None):
    """Each change is the path of a new file, or a path and the kind of change."""
    params = wire.FileChangeRequestApprovalParams(item_id="i", started_at_ms=0, **OF_TURN)
    pairs = [(change, wire.AddPatchChangeKind()) if isinstance(change, str) else change for change in changes]
    return policies.FileChangeRequest(
        **OF_TURN, item_id="i", cwd=cwd, reason=None, grant_root=grant_root, params=params,
        changes=tuple(wire.FileUpdateChange(path=path, kind=kind, diff="secret text") for path, kind in pairs),
    )  # fmt: skip


def permissions(files=None, *, network=None, cwd="/w"):
    wanted = wire.RequestPermissionProfile(file_system=files, network=network)
    params = wire.PermissionsRequestApprovalParams(
        cwd=cwd, item_id="i", permissions=wanted, started_at_ms=0, **OF_TURN
    )
    return policies.PermissionsRequest(
        **OF_TURN, item_id="i", cwd=cwd, permissions=wanted, reason=None, params=params
    )


def entry(access, path):
    where = wire.PathFileSystemPath(path=path) if isinstance(path, str) else path
    return wire.FileSystemSandboxEntry(access=access, path=where)


def files(*entries, **more):
    return wire.AdditionalFileSystemPermissions(entries=list(entries), **more)


def user_input():
    params = wire.ToolRequestUserInputParams(item_id="i", is_blocking=True, questions=[], **OF_TURN)
    return policies.UserInputRequest(**OF_TURN, item_id="i", questions=(), blocking=True, params=params)


def current_time():
    return policies.CurrentTimeRequest(
        thread_id="t", turn_id=None, params=wire.CurrentTimeReadParams(thread_id="t")
    )
