"""What a policy is asked, as values. How they are read from the wire is not known here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex import wire


@attrs.frozen(kw_only=True)
class OfThread:
    """What every request of a thread has.

    Attributes:
        thread_id: The thread that asks; a child agent's is not the one you started.
        turn_id: The turn that asks; ``None`` where the server did not say.
        ancestors: For a child agent: the threads above it, the one that spawned it first.
    """

    thread_id: str
    turn_id: str | None
    ancestors: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class CommandRequest(OfThread):
    """The agent wants to run a command that it may not run by itself.

    What is shown here is what the server says it is going to run; it does not pin the files that the command reads.

    Attributes:
        item_id: The item of the command.
        command: The command line, as a shell would take it; ``None`` if the server did not say.
        cwd: Where it would run.
        reason: Why, in the agent's words.
        input_to_terminal: Whether this is about input to a terminal that runs already.
        network: The host that the command wants to reach, where the request is about that alone.
        proposed_exec_policy: The rule that the server proposes for ``accept(exec_policy=…)``.
        proposed_network_rules: The rules that the server proposes for :class:`NetworkRule`.
        additional_permissions: What it wants beyond the sandbox.
        params: Everything the server said.
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
        """The arguments of the command; ``None`` if there is none, or it cannot be split as a shell would."""
        import shlex

        if self.command is None:
            return None
        try:
            return tuple(shlex.split(self.command))
        except ValueError:
            return None


@attrs.frozen(kw_only=True)
class FileChangeRequest(OfThread):
    """The agent wants to change files that it may not change by itself.

    Attributes:
        item_id: The item of the change.
        cwd: The working directory of its thread, which relative paths are below; ``None`` if it is not known.
        changes: What would change, by path. The request itself does not say; it is taken from the item.
        reason: Why, in the agent's words.
        grant_root: A directory below which the server asks to write for the rest of the session.
        params: Everything the server said.
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
        item_id: The item of the request.
        cwd: The directory that relative paths are below.
        permissions: What it asks for.
        reason: Why, in the agent's words.
        params: Everything the server said.
    """

    item_id: str
    cwd: str
    permissions: wire.RequestPermissionProfile
    reason: str | None = attrs.field(repr=False)
    params: wire.PermissionsRequestApprovalParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class UserInputRequest(OfThread):
    """The agent asks its user.

    Attributes:
        item_id: The item of the questions.
        questions: The questions; each has an id to answer by, and options to choose from.
        blocking: Whether the agent waits for the answer.
        params: Everything the server said.
    """

    item_id: str
    questions: tuple[wire.ToolRequestUserInputQuestion, ...] = attrs.field(repr=False)
    blocking: bool
    params: wire.ToolRequestUserInputParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class OfMcpServer(OfThread):
    """What every elicitation has.

    Attributes:
        server_name: The MCP server that asks, by its name in the configuration.
        message: What it says.
    """

    server_name: str
    message: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class FormElicitation(OfMcpServer):
    """An MCP server asks its user to fill in a form. Accept it with ``accept(content={…})``.

    Attributes:
        schema: The JSON Schema of the content.
        params: Everything the server said.
    """

    schema: wire.JSON = attrs.field(repr=False)
    params: (
        wire.FormMcpServerElicitationRequestParams
        | wire.OpenaiFormMcpServerElicitationRequestParams
        | wire.OpenaiSlashFormMcpServerElicitationRequestParams
    ) = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class UrlElicitation(OfMcpServer):
    """An MCP server asks its user to visit a page. To accept says that the user agreed to, not that it is done.

    Attributes:
        url: The page.
        elicitation_id: By which the MCP server knows this elicitation.
        params: Everything the server said.
    """

    url: str = attrs.field(repr=False)
    elicitation_id: str
    params: wire.UrlMcpServerElicitationRequestParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class VerificationElicitation(OfMcpServer):
    """An MCP server asks for a proof that its user is there. Accept it with the proof as ``content``.

    Attributes:
        title: What it is about; the message says more.
        challenge: What the proof has to answer.
        params: Everything the server said.
    """

    title: str
    challenge: str = attrs.field(repr=False)
    params: wire.UserVerificationMcpServerElicitationRequestParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class McpToolApproval(OfMcpServer):
    """The agent wants to call a tool of an MCP server. The server asks for this in the shape of an elicitation.

    Attributes:
        tool_title: The title of the tool, if it has one; its name is in the message alone.
        tool_description: What the tool says of itself.
        arguments: What it would be called with.
        scopes: The scopes of :class:`Accept` that are offered beside ``"once"``.
        params: Everything the server said.
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
        call_id: The call, and the id of its item.
        tool: The tool.
        namespace: Its namespace, if it is in one.
        arguments: What the agent gives it: any JSON, as models are free to err.
        params: Everything the server said.
    """

    call_id: str
    tool: str
    namespace: str | None
    arguments: wire.JSON = attrs.field(repr=False)
    params: wire.DynamicToolCallParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class AuthRefreshRequest:
    """The server needs fresh tokens of an account whose tokens the application manages.

    Attributes:
        reason: Why.
        previous_account_id: The account that was used before, if any.
        params: Everything the server said.
    """

    reason: wire.ChatgptAuthTokensRefreshReason | str
    previous_account_id: str | None
    params: wire.ChatgptAuthTokensRefreshParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class AttestationRequest:
    """The server wants this client to attest what it is.

    Attributes:
        params: Everything the server said: nothing so far.
    """

    params: wire.AttestationGenerateParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class CurrentTimeRequest(OfThread):
    """The server wants to know the time.

    Attributes:
        params: Everything the server said.
    """

    params: wire.CurrentTimeReadParams = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class UnknownRequest:
    """The server sends a request of a method that this version does not know.

    Attributes:
        method: The method.
        thread_id: The thread that its parameters name, if any.
        turn_id: The turn that they name, if any.
        params: Its parameters, as plain JSON.
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
"""Whatever a policy may be asked."""
