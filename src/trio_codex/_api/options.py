"""Options of threads and turns: their types, validation and wire format.

Everything that can be rejected here is rejected before anything is sent, with ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, cast

from trio_codex import wire
from trio_codex._core.arguments import as_tuple, check_positive, check_type, described
from trio_codex._session.budget import Budget
from trio_codex._session.snapshot import NEWEST_TURNS
from trio_codex._values.inputs import AbsolutePath, TurnInput, wire_input
from trio_codex._values.paths import expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_codex._tools.tool import AnyTool
    from trio_codex.policies import Policy

E = TypeVar("E", bound=enum.StrEnum)


class Sandbox(enum.StrEnum):
    """What the agent's commands may access, as enforced by the server."""

    read_only = "read-only"
    workspace_write = "workspace-write"
    """Write access to the working directory, and to all of ``/tmp`` unless the configuration excludes it."""
    full_access = "danger-full-access"


class ApprovalMode(enum.StrEnum):
    """A preset for who decides when a command needs more than the sandbox allows."""

    deny_all = "deny_all"
    """Always deny. The server decides this, and no policy is called."""
    ask = "ask"
    """The policies of this client."""
    auto_review = "auto_review"
    """Another model on the server. No policy is called; the review costs model requests."""
    dangerously_bypass = "dangerously_bypass"
    """No sandbox and no approvals. Sets the sandbox, so it excludes ``sandbox`` and ``permissions``."""


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
    """Settings that :meth:`Thread.update_settings` changes for later turns of a thread.

    Attributes:
        approval_mode: A preset that replaces ``approval_policy`` and ``approvals_reviewer``.
        approval_policy: When the server requests approval. With ``never`` no policy is called.
        approvals_reviewer: Who reviews approvals. With a value other than ``user`` no policy is called.
        cwd: Working directory. A relative path is resolved against the server's working directory, not the thread's;
            ``~`` is the server's home directory.
        model: Model.
        permissions: A named permission profile, instead of ``sandbox`` (experimental).
        personality: Deprecated and ignored by the server.
        service_tier: Service tier; ``wire.NULL`` clears it.
        collaboration_mode: Collaboration mode (experimental).
        disabled_plugin_ids: Plugins to disable. Replaces the previous list.
        effort: Reasoning effort.
        environments: Where commands run (experimental). Servers before 0.169.0 accept it only for a turn.
        sandbox: What commands may access.
        summary: How reasoning is summarized.
    """

    collaboration_mode: wire.CollaborationMode | None
    disabled_plugin_ids: Sequence[str] | None
    effort: wire.ReasoningEffort | None
    environments: Sequence[wire.TurnEnvironmentParams] | None
    sandbox: Sandbox | wire.SandboxPolicy | str | None
    summary: wire.ReasoningSummary | str | None


class TurnOptions(ThreadSettings, total=False):
    """Options of a turn.

    Options that are also in :class:`ThreadSettings` persist for the thread's later turns. The others apply to this
    turn only.

    Attributes:
        policy: Handles requests from this turn, ahead of the policies of the thread and the client.
        idle_limit: Seconds without an event after which the turn is interrupted with ``TurnStalled``. Time spent on a
            request that a policy is handling, or on a running tool, does not count. No limit by default.
        budget: The budget of this turn.
        additional_context: Fragments of context, keyed by an identifier of their source (experimental).
        client_user_message_id: Your id for the message, which its item includes.
        cyber_access_program: An authorized program to request (experimental).
        output_schema: JSON Schema of the final response.
        parent_turn_id: The turn on whose behalf this one runs.
        responsesapi_client_metadata: Metadata for the model provider (experimental).
        responsesapi_client_metadata_patch: Metadata to add to that already sent to the provider (experimental, since
            0.164.0).
        root_turn_id: The first turn in the chain of work that led to this one.
        runtime_workspace_roots: Directories of the workspace, resolved like ``cwd``; persists for the thread's later
            turns (experimental).
        source: What triggered the turn, for statistics only.
        turn_service_tier: Service tier of this turn only.
    """

    policy: Policy | None
    idle_limit: float | None
    budget: Budget | None
    additional_context: Mapping[str, wire.AdditionalContextEntry] | None
    client_user_message_id: str | None
    cyber_access_program: wire.CyberAccessProgram | str | None
    output_schema: wire.JSON
    parent_turn_id: str | None
    responsesapi_client_metadata: Mapping[str, str] | None
    responsesapi_client_metadata_patch: Mapping[str, str] | None
    root_turn_id: str | None
    runtime_workspace_roots: Sequence[str | os.PathLike[str]] | None
    source: str | None
    turn_service_tier: str | None


class ThreadOptions(_Settings, total=False):
    """Options for opening a thread: starting, resuming or forking.

    When resuming or forking, options not given keep their stored values, except that a fork does not inherit the
    sandbox. If this client already has the thread open, its policy and tools are kept too.

    Attributes:
        policy: Handles requests from its turns, ahead of the client's policy.
        tools: Tools its agent can call in addition to the client's; a tool here replaces a client tool with the same
            name. A new thread declares them to the server, which stores the declarations. When resuming or forking,
            they provide the implementations of the tools declared then.
        budget: The joint budget of its turns while this handle is open.
        approval_mode: A preset that replaces ``approval_policy`` and ``approvals_reviewer``.
        approval_policy: When the server requests approval. With ``never`` no policy is called.
        approvals_reviewer: Who reviews approvals. With a value other than ``user`` no policy is called.
        base_instructions: Instructions that replace the model's own.
        config: Overrides of the server's configuration, by dotted key.
        cwd: Working directory of its commands. A relative path is resolved against the server's working directory
            (``CodexConfig.cwd``); ``~`` is the server's home directory. The server does not check that it exists.
        developer_instructions: Additional instructions.
        model: The model.
        model_provider: The model provider.
        permissions: A named permission profile, instead of ``sandbox`` (experimental).
        personality: Deprecated and ignored by the server.
        runtime_workspace_roots: Directories of the workspace, resolved like ``cwd`` (experimental).
        sandbox: What its commands may access.
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
    """Options for a new thread, in addition to :class:`ThreadOptions`.

    Attributes:
        allow_provider_model_fallback: Let the provider choose another model if it lacks this one (experimental).
        daybreak_enabled: The thread's initial Daybreak setting (experimental).
        dynamic_tools: Additional tools that the server asks this client to run, implemented by a policy's
            ``tool_call`` (experimental).
        environments: Where commands run; an empty list means nowhere (experimental).
        ephemeral: Keep the thread in memory only.
        experimental_raw_events: Also report the raw items of the model (experimental).
        history_mode: How the server stores the thread (experimental).
        project_id: The project it belongs to (experimental).
        selected_capability_roots: Capabilities selected by a hosting platform (experimental).
        service_name: A name for metrics.
        session_start_source: What the thread starts from, as reported to its hooks.
        thread_source: What triggered the thread, for statistics.
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
    """Options for resuming a stored thread, in addition to :class:`ThreadOptions`.

    Attributes:
        include_turns: Load the whole history into ``info.turns``. It arrives as a single line of any size.
    """

    include_turns: bool


class ThreadForkOptions(ThreadOptions, total=False):
    """Options for a fork, in addition to :class:`ThreadOptions`.

    Attributes:
        attach_to_source: Keep the fork as part of its source, hidden from ordinary lists (experimental, since 0.165.0).
        before_turn_id: The first turn to omit (experimental).
        defer_goal_continuation: Inherit the goal but do not continue it immediately (experimental).
        ephemeral: Keep the thread in memory only.
        experimental_disable_prediction_mcp: Disable MCP servers in prediction mode (experimental, since 0.164.0).
        experimental_prediction_mode: Share as much of the parent's prompt cache as possible (experimental).
        include_turns: Load the whole history into ``info.turns``. It arrives as a single line of any size.
        last_turn_id: The last turn to include.
        thread_source: What triggered the thread, for statistics.
    """

    attach_to_source: bool | None
    before_turn_id: str | None
    defer_goal_continuation: bool | None
    ephemeral: bool | None
    experimental_disable_prediction_mcp: bool | None
    experimental_prediction_mode: bool | None
    include_turns: bool
    last_turn_id: str | None
    thread_source: wire.ThreadSource | None


class ThreadFilters(TypedDict, total=False):
    """Filters for listing stored threads. A server that is older than a filter ignores it.

    Attributes:
        ancestor_thread_id: Only threads of agents spawned below this thread, at any depth (experimental).
        archived: Only archived threads; by default, only the others.
        attached_to_thread_id: Only forks attached to this thread (experimental, since 0.165.0).
        current_account_only: Only threads of the ChatGPT account that is logged in (since 0.168.0).
        cwd: Only threads with exactly this working directory, or one of several; resolved like the ``cwd`` of a
            thread.
        excluded_thread_ids: Threads to exclude, at most 100.
        include_attached_threads: Search attached forks as well (experimental, since 0.169.0).
        included_thread_ids: Only these threads, at most 100 (since 0.171.0).
        model_providers: Only threads of these providers; an empty list means all.
        originators: Only threads created by these clients; hosted servers only.
        parent_thread_id: Only threads of agents spawned by this thread (experimental).
        project_id: Only threads of this project; with ``wire.NULL``, threads without one (experimental).
        search_term: Only threads whose title contains this.
        section_id: Only threads of this section; with ``wire.NULL``, threads without one.
        sort_direction: Newest first (``desc``, the default) or ``asc``.
        sort_key: What to sort by.
        source_kinds: Only threads from these sources; the default is the interactive ones.
        use_state_db_only: Do not read the rollout files.
    """

    ancestor_thread_id: str | None
    archived: bool | None
    attached_to_thread_id: str | None
    current_account_only: bool | None
    cwd: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    excluded_thread_ids: Sequence[str] | None
    include_attached_threads: bool | None
    included_thread_ids: Sequence[str] | None
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
    """Check the types of options common to clients, threads and turns: ``policy``, ``budget``, ``dynamic_tools``."""
    if (policy := options.get("policy")) is not None:
        # Imported only if there is a policy: most clients have none.
        from trio_codex.policies._policy import check_policies

        check_policies([policy])
    if (budget := options.get("budget")) is not None:
        check_type("budget", budget, Budget, "write Budget(tokens=…), Budget(turns=…) or Budget(seconds=…)")
    for spec in options.get("dynamic_tools") or ():
        if callable(spec):
            raise TypeError(
                f"dynamic_tools expects values of trio_codex.wire, got {described(spec)}: pass it as tools=[…]"
            )


def check_thread_id(value: object) -> None:
    """Check that a thread id is a string, and not the thread itself.

    Raises:
        TypeError: The id is not a string.
    """
    check_type("thread_id", value, str, "pass the id of the thread, thread.id")


# -- parameters of requests --------------------------------------------------------------------------------------


def start_params(options: ThreadStartOptions, absolute: AbsolutePath = expand) -> wire.ThreadStartParams:
    return wire.ThreadStartParams(**_thread_members(options, ThreadStartOptions, "a new thread", absolute))


def resume_params(
    thread_id: str,
    options: ThreadResumeOptions,
    absolute: AbsolutePath = expand,
    *,
    paged: bool | None = None,
) -> wire.ThreadResumeParams:
    """Return the parameters of ``thread/resume``.

    ``paged`` says how to request the newest turns, which show whether one is running: ``True`` as a page, which is
    experimental; ``False`` with the whole history; ``None`` not at all.
    """
    check_thread_id(thread_id)
    members = _thread_members(options, ThreadResumeOptions, "a resumed thread", absolute)
    whole = members.pop("include_turns", False)
    if paged and not whole:
        members["initial_turns_page"] = wire.ThreadResumeInitialTurnsPageParams(
            limit=NEWEST_TURNS, items_view=wire.TurnItemsView.full
        )
    members["exclude_turns"] = not whole and paged is not False
    return wire.ThreadResumeParams(thread_id=thread_id, **members)


def fork_params(
    thread_id: str, options: ThreadForkOptions, absolute: AbsolutePath = expand
) -> wire.ThreadForkParams:
    check_thread_id(thread_id)
    members = _thread_members(options, ThreadForkOptions, "a fork", absolute)
    _check_one_of(members, "last_turn_id", "before_turn_id")
    members["exclude_turns"] = not members.pop("include_turns", False)
    return wire.ThreadForkParams(thread_id=thread_id, **members)


def list_params(cursor: str | None, limit: int | None, filters: ThreadFilters) -> wire.ThreadListParams:
    members = _given(filters, ThreadFilters, "a list of threads")
    cwd = members.pop("cwd", None)
    if cwd is not None:
        is_one = isinstance(cwd, str | bytes | os.PathLike)
        members["cwd"] = os.fsdecode(cast("str", cwd)) if is_one else [os.fsdecode(one) for one in cwd]
    return wire.ThreadListParams(cursor=cursor, limit=limit, **members)


def turn_params(
    thread_id: str, value: TurnInput, options: TurnOptions, absolute: AbsolutePath = expand
) -> wire.TurnStartParams:
    """Return the parameters of ``turn/start``."""
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
    """Return the given options that are sent to the server. Raise ``TypeError`` for an unknown option."""
    unknown = options.keys() - known.__annotations__.keys()
    if unknown:
        raise TypeError(f"{what} has no option {min(unknown)!r}")
    members = {name: value for name, value in options.items() if value is not None}
    for name in ("policy", "tools", "idle_limit", "budget"):
        members.pop(name, None)
    if known is not ThreadFilters and (cwd := members.get("cwd")) is not None:
        # A path may be bytes, which JSON would turn into Base64.
        members["cwd"] = os.fsdecode(cwd)
    # The server resolves a relative `cwd` itself but rejects relative workspace roots.
    if (roots := members.get("runtime_workspace_roots")) is not None:
        members["runtime_workspace_roots"] = [absolute(root) for root in as_tuple(roots)]
    return members


def _settle_approvals(members: dict[str, Any]) -> None:
    """Replace an approval preset with the options it stands for. Raise ``ValueError`` if it conflicts with another one."""
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
            raise ValueError(f"approval_mode={preset.name} already sets {name}; pass only one of them")
    members["approval_policy"], reviewer = _APPROVALS[preset]
    if reviewer is not None:
        members["approvals_reviewer"] = reviewer
    if preset is ApprovalMode.dangerously_bypass:
        members["sandbox"] = Sandbox.full_access


def _check_one_of(members: Mapping[str, Any], one: str, other: str) -> None:
    if one in members and other in members:
        raise ValueError(f"{one} and {other} are mutually exclusive")


def _member_of(kind: type[E], value: str) -> E:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
        raise ValueError(f"{value!r} is not one of {known}") from None


def sandbox_policy(sandbox: Sandbox | wire.SandboxPolicy | str | None) -> wire.SandboxPolicy | None:
    """Convert a sandbox choice to the complete policy object that some requests take."""
    if not isinstance(sandbox, str):
        return sandbox
    match _member_of(Sandbox, sandbox):
        case Sandbox.read_only:
            return wire.ReadOnlySandboxPolicy()
        case Sandbox.workspace_write:
            return wire.WorkspaceWriteSandboxPolicy()
        case Sandbox.full_access:
            return wire.DangerFullAccessSandboxPolicy()
