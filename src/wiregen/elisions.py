"""Fields whose values a ``repr`` never shows: secrets, prompts, messages, environment values, output, raw JSON.

A nested wire value elides its own fields, so the tables cover leaves: text and raw JSON, and lists and mappings of those.
They match by field name: it is better to elide a harmless file name than to log a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_codex.wire._schema import ir
from wiregen import WiregenError

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT = frozenset(
    {
        # secrets, and data that identifies a person
        "accessKeyId", "accessToken", "apiKey", "authBearerToken", "authUrl", "auth_url", "authorizationUrl",
        "challenge", "client-private-key", "email", "encrypted_content", "encrypted_function_args", "manualPairingCode", "pairingCode", "publicKey",
        "secretAccessKey", "sessionToken", "signature", "token", "userCode", "verificationUrl",
        # environments and commands, which may hold secrets
        "argv", "cmd", "command", "commandWindows", "env", "execpolicy_amendment", "proposedExecpolicyAmendment",
        "proposed_execpolicy_amendment",
        # instructions
        "additionalDeveloperInstructions", "baseInstructions", "codexResponseItemPrefix", "compact_prompt",
        "defaultPrompt", "developerInstructions", "developer_instructions", "instructions", "messageBody",
        "objective", "prompt", "realtimeEndInstructions", "realtimeStartInstructions", "revisedPrompt",
        "revised_prompt", "userPrompt",
        # text of users and models, and output of commands
        "aggregatedOutput", "answers", "arguments", "audioUrl", "audio_url", "blob", "content", "contents", "data",
        "dataBase64", "delta", "deltaBase64", "diff", "explanation", "imageUrl", "image_url", "input", "output",
        "preview", "query", "queries", "question", "rationale", "result", "review", "sdp", "searchTerm", "snippet",
        "stderr", "stdin", "stdout", "step", "summary", "text", "threadName", "unified_diff",
    }
)  # fmt: skip
"""Wire names that are elided wherever they are text. Raw JSON is elided under any name."""

SHOWN = {
    ("ConfigWarningNotification", "summary"): "the server's own message, and the purpose of the value",
    ("DeprecationNoticeNotification", "summary"): "the server's own message, and the purpose of the value",
}
"""(class, wire name) of fields that are shown despite :data:`TEXT`, and why."""

FURTHER = {
    ("AccountSecuritySetupAction", "url"): "may carry a code",
    ("AdditionalContextEntry", "value"): "context for the model",
    ("ApplyPatchApprovalParams", "reason"): "the model's words",
    ("AsyncUserInputQuestion", "options"): "the model's words",
    ("AsyncUserInputQuestion", "title"): "the model's question",
    ("AudioUserInput", "url"): "may be a data URL",
    ("CollabAgentState", "message"): "an agent's words",
    ("CommandExecutionRequestApprovalParams", "reason"): "the model's words",
    ("DeniedReviewDecision", "rejection"): "the words of the person who declined",
    ("ExecCommandApprovalParams", "reason"): "the model's words",
    ("FeedbackSaveParams", "reason"): "the user's words",
    ("FeedbackUploadParams", "reason"): "the user's words",
    ("FileChangeRequestApprovalParams", "reason"): "the model's words",
    ("FindInPageResponsesApiWebSearchAction", "pattern"): "the model's search term",
    ("FindInPageResponsesApiWebSearchAction", "url"): "may hold the model's search term",
    ("FindInPageWebSearchAction", "pattern"): "the model's search term",
    ("FindInPageWebSearchAction", "url"): "may hold the model's search term",
    ("FormMcpServerElicitationRequestParams", "message"): "the words of an MCP server",
    ("ImageUserInput", "url"): "may be a data URL",
    ("MemoryCitationEntry", "note"): "the model's words",
    ("OpenPageResponsesApiWebSearchAction", "url"): "may hold the model's search term",
    ("OpenPageWebSearchAction", "url"): "may hold the model's search term",
    ("OpenaiFormMcpServerElicitationRequestParams", "message"): "the words of an MCP server",
    ("OpenaiSlashFormMcpServerElicitationRequestParams", "message"): "the words of an MCP server",
    ("OtelRequirements", "headers_helper"): "a command, which may hold secrets",
    ("OtlpGrpcOtelExporter", "headers"): "HTTP headers",
    ("OtlpHttpOtelExporter", "headers"): "HTTP headers",
    ("PermissionsRequestApprovalParams", "reason"): "the model's words",
    ("RequestHeader", "value"): "an HTTP header",
    ("RequestPermissionsGuardianApprovalReviewAction", "reason"): "the model's words",
    ("TextElement", "placeholder"): "a part of the user's text",
    ("Thread", "name"): "given by the user, or made from the prompt",
    ("ThreadPrepareApprovedPlanParams", "markdown"): "the model's words",
    ("ThreadRealtimeAudioChunk", "data"): "audio",
    ("ToolRequestUserInputOption", "description"): "the model's words",
    ("ToolRequestUserInputOption", "label"): "the model's words",
    ("ToolRequestUserInputQuestion", "header"): "the model's words",
    ("UrlMcpServerElicitationRequestParams", "message"): "the words of an MCP server",
    ("UrlMcpServerElicitationRequestParams", "url"): "may carry a code",
}
"""(class, wire name) of other elided fields, and why."""


def elided(definition: ir.Class, definitions: Mapping[str, ir.Definition]) -> frozenset[str]:
    """Return the attributes of a class that are elided."""
    found = {"additional"} if definition.open else set[str]()
    for field in definition.fields:
        row = (definition.name, field.wire)
        kinds = _leaves(field.type, definitions)
        if ir.ANY in kinds or row in FURTHER or (ir.STR in kinds and field.wire in TEXT and row not in SHOWN):
            found.add(field.name)
    return frozenset(found)


def _leaves(type_: ir.Type, definitions: Mapping[str, ir.Definition]) -> set[ir.Type]:
    """Return the leaves of a type, with aliases resolved."""
    match type_:
        case ir.Seq(inner) | ir.Map(inner):
            return _leaves(inner, definitions)
        case ir.Union(members):
            return {leaf for member in members for leaf in _leaves(member, definitions)}
        case ir.Ref(name) if isinstance(alias := definitions.get(name), ir.Alias):
            return _leaves(alias.type, definitions)
        case _:
            return {type_}


def check(definitions: Mapping[str, ir.Definition]) -> None:
    """Check the tables against the schema.

    Raises:
        WiregenError: A row mentions a field that the schema does not have.
    """
    rows = {
        (name, field.wire)
        for name, found in definitions.items()
        if isinstance(found, ir.Class)
        for field in found.fields
    }
    if unknown := TEXT - {wire for _, wire in rows}:
        raise WiregenError(f"no class has the elided {', '.join(sorted(unknown))}")
    if unknown_rows := (SHOWN.keys() | FURTHER.keys()) - rows:
        raise WiregenError(
            f"wiregen.elisions mentions {sorted(unknown_rows)}, which the schema does not have"
        )
