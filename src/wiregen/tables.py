"""Facts about methods and definitions that the schema does not contain, each with its reason.

A name that the schema does not have is an error, so no row outlives its subject.
"""

from __future__ import annotations

ENVELOPES = frozenset(
    {
        "ClientNotification", "ClientRequest", "JSONRPCError", "JSONRPCErrorError", "JSONRPCMessage",
        "JSONRPCNotification", "JSONRPCRequest", "JSONRPCResponse", "ServerNotification", "ServerRequest",
    }
)  # fmt: skip
"""Envelopes, not values: sources of the method tables, and messages that ``trio_codex._core.rpc`` handles."""

NULLABLE = frozenset(
    {
        "NullableGatewayOAuthLoginParams", "NullableGatewayOAuthReadParams",
        "NullableGetAccountRateLimitsParams", "NullableGetAccountTokenUsageParams",
        "NullableRemoteControlDisableParams", "NullableRemoteControlEnableParams",
    }
)  # fmt: skip
"""Named ``X | null`` types that nothing refers to."""

LITERALS = frozenset(
    {
        "McpElicitationArrayType", "McpElicitationBooleanType", "McpElicitationNumberType",
        "McpElicitationObjectType", "McpElicitationStringType",
    }
)  # fmt: skip
"""Enums that tag a JSON Schema within the protocol. They are closed, and distinguish the members of untagged unions."""

RESULTS = {
    "account/gatewayOAuth/cancel": "GatewayOAuthCancelResponse",
    "account/gatewayOAuth/login": "GatewayOAuthLoginResponse",
    "account/gatewayOAuth/read": "GatewayOAuthReadResponse",
    "account/logout": "LogoutAccountResponse",
    "account/securitySetup/read": "GetAccountSecuritySetupResponse",
    "account/workspaceMessages/read": "GetWorkspaceMessagesResponse",
    "accountSession/list": "AccountSessionsResponse",
    "config/batchWrite": "ConfigWriteResponse",
    "config/mcpServer/reload": "McpServerRefreshResponse",
    "config/value/write": "ConfigWriteResponse",
    "externalAgentConfig/import/readHistories": "ExternalAgentConfigImportHistoriesReadResponse",
    "configRequirements/read": "ConfigRequirementsReadResponse",
    "memory/reset": "MemoryResetResponse",
    "modelProvider/default/set": "ConfigWriteResponse",
    "remoteControl/status/read": "RemoteControlStatusReadResponse",
    "rollout/compress": "RolloutCompressResponse",
    "thread/search/stream": "ThreadSearchResponse",
    "windowsSandbox/readiness": "WindowsSandboxReadinessResponse",
}
"""Result types that the name of the params type does not imply, as ``FooParams`` implies ``FooResponse``."""

DEFERRED = {
    # method: what the response waits for
    "account/gatewayOAuth/login": "the user, in a browser",
    "account/login/start": "for some kinds, a round trip to the login service",
    "account/bedrock/discover": "AWS credential providers, which may run programs",
    "account/bedrock/setup": "AWS",
    "account/bedrock/checkGovCloudRequirements": "AWS",
    "account/gcp/setup": "Google Cloud",
    "accountSession/switch": "for some workspaces, the user, in a browser",
    "command/exec": "the end of the command",
    "externalAgentConfig/detect": "a walk over other agents' homes",
    "externalAgentConfig/import": "copying and converting sessions",
    "feedback/upload": "an upload",
    "marketplace/add": "a git clone",
    "marketplace/upgrade": "git fetches",
    "mcpServer/event/stream/start": "the MCP server",
    "mcpServer/oauth/login": "the MCP server's authorization server",
    "mcpServer/resource/read": "the MCP server",
    "mcpServer/tool/call": "the end of the tool call, which nothing can cancel",
    "mcpServerStatus/list": "the start of the MCP servers that it lists",
    "plugin/install": "downloads",
    "plugin/reconcile": "downloads",
    "plugin/share/checkout": "a download",
    "plugin/share/save": "an upload",
    "thread/guardianReview": "a model",
    "thread/sample": "a model",
    "userVerification/enroll": "the user, at the device",
    "userVerification/verify": "the user, at the device",
    "windowsSandbox/setupStart": "an elevated helper",
}
"""Methods that respond when an operation has finished. They have no request timeout, and no slot in the request window.

``thread/start`` and similar methods are not among them. They wait for MCP servers no longer than ``startup_timeout_sec``,
and the window exists to limit bursts of them.
"""

CONTROL = frozenset(
    {
        "account/gatewayOAuth/cancel", "account/login/cancel", "command/exec/resize", "command/exec/terminate",
        "command/exec/write", "fs/unwatch", "fuzzyFileSearch/sessionStop", "mcpServer/event/stream/stop",
        "process/kill", "process/resizePty", "process/writeStdin", "thread/backgroundTerminals/clean",
        "thread/backgroundTerminals/terminate", "thread/realtime/stop", "thread/sample/cancel", "thread/search/cancel",
        "thread/search/stream/cancel", "thread/unsubscribe", "turn/interrupt", "turn/steer", "userVerification/cancel",
    }
)  # fmt: skip
"""Methods that stop or feed a running operation. In the window, they could wait for the operation that they stop."""

TEXT_DELTAS = {
    # method: (text, key). Only plain text: base64 chunks cannot be concatenated.
    "item/agentMessage/delta": ("delta", ("threadId", "turnId", "itemId")),
    "item/commandExecution/outputDelta": ("delta", ("threadId", "turnId", "itemId")),
    "item/fileChange/outputDelta": ("delta", ("threadId", "turnId", "itemId")),
    "item/plan/delta": ("delta", ("threadId", "turnId", "itemId")),
    "item/reasoning/summaryTextDelta": ("delta", ("threadId", "turnId", "itemId", "summaryIndex")),
    "item/reasoning/textDelta": ("delta", ("threadId", "turnId", "itemId", "contentIndex")),
    "thread/realtime/item/transcript/delta": ("delta", ("threadId", "itemId")),
    "thread/realtime/transcript/delta": ("delta", ("threadId", "role")),
}
"""Notifications that can be merged with adjacent ones by concatenating their text."""

NOT_TEXT_DELTAS = {
    "command/exec/outputDelta": "base64",
    "process/outputDelta": "base64",
    "thread/realtime/outputAudio/delta": "base64",
}
"""Other notifications with "delta" in their name, and why they are not merged."""

UNLISTED = {
    # method: params. Both require `experimentalRawEvents` in thread/start.
    "rawResponse/completed": "RawResponseCompletedNotification",
    "rawResponseItem/completed": "RawResponseItemCompletedNotification",
}
"""Notifications that the server sends and the schema has types for, but does not list."""

NO_DESCRIPTIONS = frozenset({"NEW APIs", "NEW NOTIFICATIONS"})
"""Headings in the server's source that its schema repeats as the description of the next method."""
