"""What can be chosen for a thread and for a turn: owns the option types, their checks, and how they look on the wire.

Whatever can be refused here is refused before anything is sent, with ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar

from trio_codex import wire
from trio_codex._core._arguments import check_positive, check_type, described
from trio_codex._core._several import several
from trio_codex._launch._paths import expand
from trio_codex._turns._budget import Budget
from trio_codex._turns._inputs import AbsolutePath, TurnInput, wire_input

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_codex._tools._toolbox import AnyTool
    from trio_codex.policies import Policy

E = TypeVar("E", bound=enum.StrEnum)


class Sandbox(enum.StrEnum):
    """What commands of the agent may touch, as the server enforces it."""

    read_only = "read-only"
    workspace_write = "workspace-write"
    """The working directory, and all of ``/tmp`` unless the configuration excludes it (PROTOCOL Q35)."""
    full_access = "danger-full-access"


class ApprovalMode(enum.StrEnum):
    """A preset of who decides when a command wants more than the sandbox allows."""

    deny_all = "deny_all"
    """Nobody. The server refuses by itself, and no policy is asked."""
    ask = "ask"
    """The policies of this client."""
    auto_review = "auto_review"
    """Another model, on the server; no policy is asked, and it costs requests to the model."""
    dangerously_bypass = "dangerously_bypass"
    """No sandbox, and nobody is asked. It chooses the sandbox, too, so it goes with no ``sandbox`` or ``permissions``."""


_APPROVALS: Final[dict[ApprovalMode, tuple[str, str | None]]] = {
    ApprovalMode.deny_all: ("never", None),
    ApprovalMode.ask: ("on-request", "user"),
    ApprovalMode.auto_review: ("on-request", "auto_review"),
    ApprovalMode.dangerously_bypass: ("never", None),
}


class _Settings(TypedDict, total=False):
    approval_mode: ApprovalMode | str | None
    approval_policy: wire.AskForApproval | None
    approvals_reviewer: wire.ApprovalsReviewer | str | None
    cwd: str | os.PathLike[str] | None
    model: str | None
    permissions: str | None
    personality: wire.Personality | str | None
    service_tier: str | wire.Null | None


class ThreadSettings(_Settings, total=False):
    """What :meth:`Thread.update_settings` changes for the later turns of a thread.

    Attributes:
        approval_mode: A preset in place of ``approval_policy`` and ``approvals_reviewer``.
        approval_policy: When the server asks at all. With ``never`` no policy is asked.
        approvals_reviewer: Who reviews approvals; with another than ``user`` no policy is asked.
        cwd: Working directory. A relative one is below the working directory of the server, not that of the thread; ``~`` is
            the server's home directory.
        model: Model.
        permissions: A named permission profile, in place of ``sandbox`` (experimental).
        personality: Deprecated by the server, which ignores it.
        service_tier: Service tier; ``wire.NULL`` clears it.
        collaboration_mode: Collaboration mode (experimental).
        disabled_plugin_ids: Plugins to switch off, in place of those before.
        effort: Reasoning effort.
        sandbox: What commands may touch.
        summary: How reasoning is summarised.
    """

    collaboration_mode: wire.CollaborationMode | None
    disabled_plugin_ids: Sequence[str] | None
    effort: wire.ReasoningEffort | None
    sandbox: Sandbox | wire.SandboxPolicy | str | None
    summary: wire.ReasoningSummary | str | None


class TurnOptions(ThreadSettings, total=False):
    """What can be chosen for a turn.

    What :class:`ThreadSettings` has persists for the thread's later turns. The rest holds for this turn only.

    Attributes:
        policy: Decides on what this turn asks, before the thread's and the client's policies.
        idle_limit: Seconds without an event after which the turn is given up with ``TurnStalled``. A question that is with a
            policy, and a tool at work, may take as long as they like. By default there is none.
        budget: What this turn may use.
        additional_context: Fragments of context by an identifier of their source (experimental).
        client_user_message_id: An id of yours for the message; its item shows it.
        cyber_access_program: An authorised program to ask for (experimental).
        environments: Where commands run; persists for the thread's later turns (experimental).
        output_schema: JSON Schema of the final response.
        parent_turn_id: The turn on whose behalf this one runs.
        responsesapi_client_metadata: Metadata for the provider of the model (experimental).
        root_turn_id: The first turn of the chain of work that led to this one.
        runtime_workspace_roots: Directories of the workspace, resolved as ``cwd`` is; persists for the thread's later turns
            (experimental).
        source: What set off the turn, for statistics; it grants nothing.
        turn_service_tier: Service tier of this turn alone.
    """

    policy: Policy | None
    idle_limit: float | None
    budget: Budget | None
    additional_context: Mapping[str, wire.AdditionalContextEntry] | None
    client_user_message_id: str | None
    cyber_access_program: wire.CyberAccessProgram | str | None
    environments: Sequence[wire.TurnEnvironmentParams] | None
    output_schema: wire.JSON
    parent_turn_id: str | None
    responsesapi_client_metadata: Mapping[str, str] | None
    root_turn_id: str | None
    runtime_workspace_roots: Sequence[str | os.PathLike[str]] | None
    source: str | None
    turn_service_tier: str | None


class ThreadOptions(_Settings, total=False):
    """What can be chosen whenever a thread is opened.

    On resuming and forking, what is not given stays as it is stored; a fork does not take over the sandbox (PROTOCOL Q39).
    If this client has the thread open already, its policy and its tools stay as well.

    Attributes:
        policy: Decides on what its turns ask, before the client's policy.
        tools: What its agent can call beside the client's tools, and instead of those with the same names. A new thread
            declares them to the server, which keeps them for it; on resuming and forking, they say who carries out the calls
            of those that were declared then.
        budget: What its turns may use together, while this handle stands for it.
        approval_mode: A preset in place of ``approval_policy`` and ``approvals_reviewer``.
        approval_policy: When the server asks at all. With ``never`` no policy is asked.
        approvals_reviewer: Who reviews approvals; with another than ``user`` no policy is asked.
        base_instructions: In place of the model's own instructions.
        config: Overrides of the server's configuration, by dotted key.
        cwd: Working directory of its commands. A relative one is below the working directory of the server
            (``CodexConfig.cwd``), and ``~`` is the server's home directory. The server does not check that it exists.
        developer_instructions: In addition to the instructions.
        model: The model.
        model_provider: The provider of the model.
        permissions: A named permission profile, in place of ``sandbox`` (experimental).
        personality: Deprecated by the server, which ignores it.
        runtime_workspace_roots: Directories of the workspace, resolved as ``cwd`` is (experimental).
        sandbox: What its commands may touch.
        service_tier: The service tier; ``wire.NULL`` clears it.
    """

    policy: Policy | None
    tools: Iterable[AnyTool]
    budget: Budget | None
    base_instructions: str | None
    config: Mapping[str, wire.JSON] | None
    developer_instructions: str | None
    model_provider: str | None
    runtime_workspace_roots: Sequence[str | os.PathLike[str]] | None
    sandbox: Sandbox | wire.SandboxMode | str | None


class ThreadStartOptions(ThreadOptions, total=False):
    """What can be chosen for a new thread, besides :class:`ThreadOptions`.

    Attributes:
        allow_provider_model_fallback: Let the provider choose another model if it lacks this one (experimental).
        daybreak_enabled: The thread's first choice of Daybreak (experimental).
        dynamic_tools: Further tools that the server asks this client to run: those that a policy's ``tool_call`` carries
            out (experimental).
        environments: Where commands run; none at all if it is empty (experimental).
        ephemeral: Keep it in memory only.
        experimental_raw_events: Report the raw items of the model, too (experimental).
        history_mode: How the server stores it (experimental).
        project_id: The project it belongs to (experimental).
        selected_capability_roots: Capabilities that a hosting platform selected (experimental).
        service_name: A name for metrics.
        session_start_source: What the thread starts from, as its hooks see it.
        thread_source: What set it off, for statistics.
    """

    allow_provider_model_fallback: bool | None
    daybreak_enabled: bool | None
    dynamic_tools: Sequence[wire.DynamicToolSpec] | None
    environments: Sequence[wire.TurnEnvironmentParams] | None
    ephemeral: bool | None
    experimental_raw_events: bool | None
    history_mode: wire.ThreadHistoryMode | str | None
    project_id: str | None
    selected_capability_roots: Sequence[wire.SelectedCapabilityRoot] | None
    service_name: str | None
    session_start_source: wire.ThreadStartSource | str | None
    thread_source: wire.ThreadSource | None


class ThreadResumeOptions(ThreadOptions, total=False):
    """What can be chosen when a stored thread is opened, besides :class:`ThreadOptions`.

    Attributes:
        include_turns: Load the whole history into ``info.turns``: one line, of any size.
    """

    include_turns: bool


class ThreadForkOptions(ThreadOptions, total=False):
    """What can be chosen for a fork, besides :class:`ThreadOptions`.

    Attributes:
        before_turn_id: The first turn to leave out (experimental).
        defer_goal_continuation: Take the goal over without going on with it at once (experimental).
        ephemeral: Keep it in memory only.
        experimental_prediction_mode: Share as much as can be of the parent's prompt cache (experimental).
        include_turns: Load the whole history into ``info.turns``: one line, of any size.
        last_turn_id: The last turn to take over.
        thread_source: What set it off, for statistics.
    """

    before_turn_id: str | None
    defer_goal_continuation: bool | None
    ephemeral: bool | None
    experimental_prediction_mode: bool | None
    include_turns: bool
    last_turn_id: str | None
    thread_source: wire.ThreadSource | None


class ThreadFilters(TypedDict, total=False):
    """Which stored threads to list.

    Attributes:
        ancestor_thread_id: Those that agents below this thread were spawned as, at any depth (experimental).
        archived: The archived ones, instead of the others.
        cwd: Those of exactly this working directory, or of one of several; resolved as that of a thread.
        excluded_thread_ids: Not these; at most 100.
        model_providers: Those of these providers; all if it is empty.
        originators: Those that these clients made; hosted servers only.
        parent_thread_id: Those that agents of this thread were spawned as (experimental).
        project_id: Those of this project; of none with ``wire.NULL`` (experimental).
        search_term: Those whose title has this in it.
        section_id: Those of this section; of none with ``wire.NULL``.
        sort_direction: Newest first (``desc``, the default), or ``asc``.
        sort_key: What is sorted by.
        source_kinds: Those of these sources; by default the interactive ones.
        use_state_db_only: Do not look into the rollout files.
    """

    ancestor_thread_id: str | None
    archived: bool | None
    cwd: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    excluded_thread_ids: Sequence[str] | None
    model_providers: Sequence[str] | None
    originators: Sequence[str] | None
    parent_thread_id: str | None
    project_id: str | wire.Null | None
    search_term: str | None
    section_id: str | wire.Null | None
    sort_direction: wire.SortDirection | str | None
    sort_key: wire.ThreadSortKey | str | None
    source_kinds: Sequence[wire.ThreadSourceKind | str] | None
    use_state_db_only: bool | None


def check_given(options: Mapping[str, Any]) -> None:
    """Check what a client, a thread and a turn are given alike, as far as it is: ``policy``, ``budget``, ``dynamic_tools``.

    Raises:
        TypeError: One of them has another type.
    """
    if (policy := options.get("policy")) is not None:
        # Imported once there is a policy: most clients have none.
        from trio_codex.policies._policy import check_policies

        check_policies([policy])
    if (budget := options.get("budget")) is not None:
        check_type("budget", budget, Budget, "write Budget(tokens=…), Budget(turns=…) or Budget(seconds=…)")
    for spec in options.get("dynamic_tools") or ():
        if callable(spec):
            raise TypeError(
                f"dynamic_tools expects values of trio_codex.wire, got {described(spec)}: pass it as tools=[…]"
            )


# -- as params ---------------------------------------------------------------------------------------------------


def start_params(options: ThreadStartOptions, absolute: AbsolutePath = expand) -> wire.ThreadStartParams:
    """Give the parameters of ``thread/start``."""
    return wire.ThreadStartParams(**_thread_members(options, ThreadStartOptions, "a new thread", absolute))


def resume_params(
    thread_id: str,
    options: ThreadResumeOptions,
    absolute: AbsolutePath = expand,
    *,
    paged: bool | None = None,
) -> wire.ThreadResumeParams:
    """Return the parameters of ``thread/resume``.

    Args:
        thread_id: The thread.
        options: The options.
        absolute: Makes a path of an option absolute.
        paged: How to ask for the newest turn, which is whether one runs: as a page of its own, or with the whole history,
            because the page is experimental; by default not at all.
    """
    members = _thread_members(options, ThreadResumeOptions, "a resumed thread", absolute)
    whole = members.pop("include_turns", False)
    if paged and not whole:
        members["initial_turns_page"] = wire.ThreadResumeInitialTurnsPageParams(
            limit=1, items_view=wire.TurnItemsView.full
        )
    members["exclude_turns"] = not whole and paged is not False
    return wire.ThreadResumeParams(thread_id=thread_id, **members)


def fork_params(
    thread_id: str, options: ThreadForkOptions, absolute: AbsolutePath = expand
) -> wire.ThreadForkParams:
    """Give the parameters of ``thread/fork``."""
    members = _thread_members(options, ThreadForkOptions, "a fork", absolute)
    _check_one_of(members, "last_turn_id", "before_turn_id")
    members["exclude_turns"] = not members.pop("include_turns", False)
    return wire.ThreadForkParams(thread_id=thread_id, **members)


def list_params(cursor: str | None, limit: int | None, filters: ThreadFilters) -> wire.ThreadListParams:
    """Give the parameters of ``thread/list``."""
    members = _given(filters, ThreadFilters, "a list of threads")
    cwd = members.pop("cwd", None)
    if cwd is not None:
        members["cwd"] = (
            os.fspath(cwd) if isinstance(cwd, str | os.PathLike) else [os.fspath(one) for one in cwd]
        )
    return wire.ThreadListParams(cursor=cursor, limit=limit, **members)


def turn_params(
    thread_id: str, value: TurnInput, options: TurnOptions, absolute: AbsolutePath = expand
) -> wire.TurnStartParams:
    """Give the parameters of ``turn/start``."""
    check_given(options)
    if (idle_limit := options.get("idle_limit")) is not None:
        check_positive("idle_limit", idle_limit)
    if (schema := options.get("output_schema")) is not None and not isinstance(schema, Mapping | bool):
        hint = "pass a JSON Schema as a dict, or a class as output_type"
        raise TypeError(f"output_schema expects a mapping, got {described(schema)}: {hint}")
    items, tool_output = wire_input(value, absolute)
    members = _setting_members(options, TurnOptions, "a turn", absolute)
    members["turn_trigger"] = members.pop("source", None)
    members["service_tier_for_turn"] = members.pop("turn_service_tier", None)
    return wire.TurnStartParams(thread_id=thread_id, input=items, tool_output=tool_output, **members)


def settings_params(thread_id: str, settings: ThreadSettings) -> wire.ThreadSettingsUpdateParams:
    """Give the parameters of ``thread/settings/update``."""
    members = _setting_members(settings, ThreadSettings, "the settings of a thread")
    return wire.ThreadSettingsUpdateParams(thread_id=thread_id, **members)


def _thread_members(
    options: Mapping[str, Any], known: type, what: str, absolute: AbsolutePath
) -> dict[str, Any]:
    members = _given(options, known, what, absolute)
    _settle_approvals(members)
    if (config := members.get("config")) is not None:
        members["config"] = dict(config)
    if isinstance(sandbox := members.get("sandbox"), str):
        members["sandbox"] = _member_of(Sandbox, sandbox).value
    return members


def _setting_members(
    options: Mapping[str, Any], known: type, what: str, absolute: AbsolutePath = expand
) -> dict[str, Any]:
    members = _given(options, known, what, absolute)
    _settle_approvals(members)
    members["sandbox_policy"] = sandbox_policy(members.pop("sandbox", None))
    return members


def _given(
    options: Mapping[str, Any], known: type, what: str, absolute: AbsolutePath = expand
) -> dict[str, Any]:
    """Give what was given, without what stays in this process.

    Raises:
        TypeError: One is of no known name.
    """
    unknown = options.keys() - known.__annotations__.keys()
    if unknown:
        raise TypeError(f"{what} has no option {min(unknown)!r}")
    members = {name: value for name, value in options.items() if value is not None}
    for name in ("policy", "tools", "idle_limit", "budget"):
        members.pop(name, None)
    if known is not ThreadFilters and (cwd := members.get("cwd")) is not None:
        members["cwd"] = os.fspath(cwd)
    # The server resolves a `cwd` itself, and refuses workspace roots that are relative.
    if (roots := members.get("runtime_workspace_roots")) is not None:
        members["runtime_workspace_roots"] = [absolute(root) for root in several(roots)]
    return members


def _settle_approvals(members: dict[str, Any]) -> None:
    """Put what a preset stands for in its place.

    Raises:
        ValueError: It says twice what holds, or there is no such preset.
    """
    _check_one_of(members, "sandbox", "permissions")
    mode = members.pop("approval_mode", None)
    if mode is None:
        return
    preset = _member_of(ApprovalMode, mode)
    chosen = ["approval_policy", "approvals_reviewer"]
    if preset is ApprovalMode.dangerously_bypass:
        chosen += ["sandbox", "permissions"]
    for name in chosen:
        if name in members:
            raise ValueError(f"approval_mode={preset.name} already chooses {name}; give one of them")
    members["approval_policy"], reviewer = _APPROVALS[preset]
    if reviewer is not None:
        members["approvals_reviewer"] = reviewer
    if preset is ApprovalMode.dangerously_bypass:
        members["sandbox"] = Sandbox.full_access


def _check_one_of(members: Mapping[str, Any], one: str, other: str) -> None:
    if one in members and other in members:
        raise ValueError(f"{one} and {other} exclude each other")


def _member_of(kind: type[E], value: str) -> E:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
        raise ValueError(f"{value!r} is none of {known}") from None


def sandbox_policy(sandbox: Sandbox | wire.SandboxPolicy | str | None) -> wire.SandboxPolicy | None:
    """Give a choice of sandbox as the requests have it that take a whole policy.

    Raises:
        ValueError: There is no such sandbox.
    """
    if not isinstance(sandbox, str):
        return sandbox
    match _member_of(Sandbox, sandbox):
        case Sandbox.read_only:
            return wire.ReadOnlySandboxPolicy()
        case Sandbox.workspace_write:
            return wire.WorkspaceWriteSandboxPolicy()
        case Sandbox.full_access:
            return wire.DangerFullAccessSandboxPolicy()
