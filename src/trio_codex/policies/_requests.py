"""The requests that a policy receives, as values. Independent of their encoding on the wire."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_codex import wire


@attrs.frozen(kw_only=True)
class OfThread:
    """The attributes that all requests of a thread share.

    Attributes:
        thread_id: The id of the requesting thread. A child agent has its own thread.
        turn_id: The id of the requesting turn; ``None`` if the server did not report it.
        ancestors: The threads above a child agent, starting with the one that spawned it; empty for other threads.
    """

    thread_id: str
    turn_id: str | None
    ancestors: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class CommandRequest(OfThread):
    """The agent wants to run a command that needs approval.

    The request describes the command as the server reports it. The files that the command reads may still change before
    it runs.

    Attributes:
        item_id: The id of the command's item.
        command: The command line, in shell syntax; ``None`` if the server did not report it.
        cwd: The working directory of the command.
        reason: The agent's justification.
        input_to_terminal: Whether the request is for input to a running terminal.
        network: The host that the command wants to reach, if the request is only for network access.
        proposed_exec_policy: The rule that the server proposes for ``accept(exec_policy=…)``.
        proposed_network_rules: The rules that the server proposes for :class:`NetworkRule`.
        additional_permissions: The permissions that the command needs beyond the sandbox.
        params: The parameters as the server sent them.
    """

    item_id: str
    command: str | None = attrs.field(repr=False)
    cwd: str | None
    reason: str | None = attrs.field(repr=False)
    input_to_terminal: bool = False
    network: wire.NetworkApprovalContext | None = None
    proposed_exec_policy: tuple[str, ...] | None = attrs.field(default=None, repr=False)
    proposed_network_rules: tuple[wire.NetworkPolicyAmendment, ...] = ()
    additional_permissions: wire.AdditionalPermissionProfile | None = None
    params: wire.CommandExecutionRequestApprovalParams | wire.ExecCommandApprovalParams = attrs.field(
        repr=False
    )

    @property
    def argv(self) -> tuple[str, ...] | None:
        """The arguments of the command; ``None`` if there is no command, or its quoting is invalid."""
        import shlex

        if self.command is None:
            return None
        try:
            return tuple(shlex.split(self.command))
        except ValueError:
            return None


@attrs.frozen(kw_only=True)
class FileChangeRequest(OfThread):
    """The agent wants to change files, which needs approval.

    Attributes:
        item_id: The id of the change's item.
        cwd: The working directory of the thread, which relative paths refer to; ``None`` if unknown.
        changes: The changes, one for each path. They come from the item, because the server's request omits them.
        reason: The agent's justification.
        grant_root: A directory below which the server asks to write for the rest of the session.
        params: The parameters as the server sent them.
    """

    item_id: str
    cwd: str | None = None
    changes: tuple[wire.FileUpdateChange, ...] = attrs.field(repr=lambda changes: f"<{len(changes)} changes>")
    reason: str | None = attrs.field(repr=False)
    grant_root: str | None
    params: wire.FileChangeRequestApprovalParams | wire.ApplyPatchApprovalParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class PermissionsRequest(OfThread):
    """The agent asks for permissions beyond its sandbox.

    Attributes:
        item_id: The id of the request's item.
        cwd: The directory that relative paths refer to.
        permissions: The requested permissions.
        reason: The agent's justification.
        params: The parameters as the server sent them.
    """

    item_id: str
    cwd: str
    permissions: wire.RequestPermissionProfile
    reason: str | None = attrs.field(repr=False)
    params: wire.PermissionsRequestApprovalParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class UserInputRequest(OfThread):
    """The agent has questions for the user.

    Attributes:
        item_id: The id of the questions' item.
        questions: The questions, each with an id for its answer and the options to choose from.
        blocking: Whether the agent waits for the answers.
        params: The parameters as the server sent them.
    """

    item_id: str
    questions: tuple[wire.ToolRequestUserInputQuestion, ...] = attrs.field(repr=False)
    blocking: bool
    params: wire.ToolRequestUserInputParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class OfMcpServer(OfThread):
    """The attributes that all elicitations share.

    Attributes:
        server_name: The name of the MCP server in the configuration.
        message: The message to the user.
    """

    server_name: str
    message: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class FormElicitation(OfMcpServer):
    """An MCP server asks the user to fill in a form. Accept it with ``accept(content={…})``.

    Attributes:
        schema: The JSON Schema of the content.
        params: The parameters as the server sent them.
    """

    schema: wire.JSON = attrs.field(repr=False)
    params: (
        wire.FormMcpServerElicitationRequestParams
        | wire.OpenaiFormMcpServerElicitationRequestParams
        | wire.OpenaiSlashFormMcpServerElicitationRequestParams
    ) = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class UrlElicitation(OfMcpServer):
    """An MCP server asks the user to visit a page. Accepting means that the user agrees, not that the visit is complete.

    Attributes:
        url: The address of the page.
        elicitation_id: The MCP server's id for this elicitation.
        params: The parameters as the server sent them.
    """

    url: str = attrs.field(repr=False)
    elicitation_id: str
    params: wire.UrlMcpServerElicitationRequestParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class VerificationElicitation(OfMcpServer):
    """An MCP server asks for proof that the user is present. Accept it with the proof as ``content``.

    Attributes:
        title: A title for the request; the message contains the details.
        challenge: The challenge that the proof must answer.
        params: The parameters as the server sent them.
    """

    title: str
    challenge: str = attrs.field(repr=False)
    params: wire.UserVerificationMcpServerElicitationRequestParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class McpToolApproval(OfMcpServer):
    """The agent wants to call a tool of an MCP server. The app server sends this request as an elicitation.

    Attributes:
        tool_title: The title of the tool, if it has one. Only the message contains the tool's name.
        tool_description: The tool's description.
        arguments: The arguments of the call.
        scopes: The scopes of :class:`Accept` that are available in addition to ``"once"``.
        params: The parameters as the server sent them.
    """

    tool_title: str | None
    tool_description: str | None = attrs.field(repr=False)
    arguments: Mapping[str, wire.JSON] = attrs.field(repr=False)
    scopes: tuple[Literal["session", "always"], ...]
    params: wire.FormMcpServerElicitationRequestParams = attrs.field(repr=False)


ElicitationRequest: TypeAlias = FormElicitation | UrlElicitation | VerificationElicitation | McpToolApproval


@attrs.frozen(kw_only=True)
class ToolCallRequest(OfThread):
    """The agent calls a dynamic tool of this client.

    Attributes:
        call_id: The id of the call and of its item.
        tool: The name of the tool.
        namespace: The namespace of the tool, if it has one.
        arguments: The arguments: any JSON value, because a model may not follow the schema.
        params: The parameters as the server sent them.
    """

    call_id: str
    tool: str
    namespace: str | None
    arguments: wire.JSON = attrs.field(repr=False)
    params: wire.DynamicToolCallParams = attrs.field(repr=False)

    @property
    def idempotency_key(self) -> str:
        """A key that stays the same when the same call is repeated, for effects that must happen only once.

        In a durable turn (:mod:`trio_codex.supervision`), this includes a call that the model repeats because the server
        died before it stored the answer. Elsewhere, the key consists of the ids of the thread, the turn and the call.
        """
        key_of = tool_call_keys.get()
        return f"{self.thread_id}:{self.turn_id}:{self.call_id}" if key_of is None else key_of(self)


tool_call_keys: Final[ContextVar[Callable[[ToolCallRequest], str] | None]] = ContextVar(
    "tool_call_keys", default=None
)
"""Makes the idempotency keys of tool calls. Set it in the context in which a turn is started."""


@attrs.frozen(kw_only=True)
class AuthRefreshRequest:
    """The server needs new tokens for an account whose tokens the application manages.

    Attributes:
        reason: Why the server needs them.
        previous_account_id: The id of the account used before, if any.
        params: The parameters as the server sent them.
    """

    reason: wire.ChatgptAuthTokensRefreshReason | str
    previous_account_id: str | None
    params: wire.ChatgptAuthTokensRefreshParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class AttestationRequest:
    """The server wants this client to attest its identity.

    Attributes:
        params: The parameters as the server sent them; they are empty in this version of the protocol.
    """

    params: wire.AttestationGenerateParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class CurrentTimeRequest(OfThread):
    """The server asks for the current time.

    Attributes:
        params: The parameters as the server sent them.
    """

    params: wire.CurrentTimeReadParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class UnknownRequest:
    """The server sent a request whose method this version does not know.

    Attributes:
        method: The method.
        thread_id: The thread id in the parameters, if any.
        turn_id: The turn id in the parameters, if any.
        params: The parameters as plain JSON.
    """

    method: str
    thread_id: str | None
    turn_id: str | None
    params: wire.JSON = attrs.field(repr=False)


Request: TypeAlias = (
    CommandRequest
    | FileChangeRequest
    | PermissionsRequest
    | UserInputRequest
    | ElicitationRequest
    | ToolCallRequest
    | AuthRefreshRequest
    | AttestationRequest
    | CurrentTimeRequest
    | UnknownRequest
)
"""Every request that a policy can receive."""
