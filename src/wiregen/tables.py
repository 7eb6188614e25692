"""Judgements on methods and definitions that the schema does not hold, each with its reason.

A name in a table that the schema does not have is an error, so the tables cannot outlive what they speak of.
"""

from __future__ import annotations

ENVELOPES = frozenset(
    {
        "ClientNotification", "ClientRequest", "JSONRPCError", "JSONRPCErrorError", "JSONRPCMessage",
        "JSONRPCNotification", "JSONRPCRequest", "JSONRPCResponse", "ServerNotification", "ServerRequest",
    }
)  # fmt: skip
"""Frames, not values: rows of the method tables, and the business of ``trio_codex._core.rpc``."""

NULLABLE = frozenset(
    {
        "NullableGetAccountRateLimitsParams", "NullableGetAccountTokenUsageParams",
        "NullableRemoteControlDisableParams", "NullableRemoteControlEnableParams",
    }
)  # fmt: skip
"""``X | null`` under a name, referred to by nothing."""

LITERALS = frozenset(
    {
        "McpElicitationArrayType", "McpElicitationBooleanType", "McpElicitationNumberType",
        "McpElicitationObjectType", "McpElicitationStringType",
    }
)  # fmt: skip
"""Enums that are the tag of a JSON Schema inside the protocol: closed for good, and needed to tell untagged unions apart."""

RESULTS = {
    "account/gatewayOAuth/cancel": "GatewayOAuthCancelResponse",
    "account/gatewayOAuth/login": "GatewayOAuthLoginResponse",
    "account/gatewayOAuth/read": "GatewayOAuthReadResponse",
    "account/logout": "LogoutAccountResponse",
    "account/workspaceMessages/read": "GetWorkspaceMessagesResponse",
    "config/batchWrite": "ConfigWriteResponse",
    "config/mcpServer/reload": "McpServerRefreshResponse",
    "config/value/write": "ConfigWriteResponse",
    "externalAgentConfig/import/readHistories": "ExternalAgentConfigImportHistoriesReadResponse",
    "configRequirements/read": "ConfigRequirementsReadResponse",
    "memory/reset": "MemoryResetResponse",
    "remoteControl/status/read": "RemoteControlStatusReadResponse",
    "rollout/compress": "RolloutCompressResponse",
    "windowsSandbox/readiness": "WindowsSandboxReadinessResponse",
}
"""Result types that do not follow from the name of the params type (``FooParams`` → ``FooResponse``)."""

DEFERRED = {
    # method: what its answer waits for
    "account/gatewayOAuth/login": "the user, in a browser",
    "account/login/start": "for some kinds, a round trip to the login service",
    "account/bedrock/discover": "AWS credential providers, which may run programs",
    "account/bedrock/setup": "AWS",
    "account/bedrock/checkGovCloudRequirements": "AWS",
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
    "mcpServerStatus/list": "the start of the MCP servers that it tells of",
    "plugin/install": "downloads",
    "plugin/reconcile": "downloads",
    "plugin/share/checkout": "a download",
    "plugin/share/save": "an upload",
    "userVerification/enroll": "the user, at the device",
    "userVerification/verify": "the user, at the device",
    "windowsSandbox/setupStart": "an elevated helper",
}
"""Answered when something has finished: they take no place in the request window and have no request timeout.

Not here: ``thread/start`` and its like. They may wait for MCP servers, but within ``startup_timeout_sec``; and a burst of
them is just what the window is for.
"""

CONTROL = frozenset(
    {
        "account/gatewayOAuth/cancel", "account/login/cancel", "command/exec/resize", "command/exec/terminate",
        "command/exec/write", "fs/unwatch", "fuzzyFileSearch/sessionStop", "mcpServer/event/stream/stop",
        "process/kill", "process/resizePty", "process/writeStdin", "thread/backgroundTerminals/clean",
        "thread/backgroundTerminals/terminate", "thread/realtime/stop", "thread/unsubscribe", "turn/interrupt",
        "turn/steer", "userVerification/cancel",
    }
)  # fmt: skip
"""They end or feed what is running: waiting for a place in the window could mean waiting for what they are to end."""

TEXT_DELTAS = {
    # method: (text, key). Plain text only: base64 pieces cannot be joined.
    "item/agentMessage/delta": ("delta", ("threadId", "turnId", "itemId")),
    "item/commandExecution/outputDelta": ("delta", ("threadId", "turnId", "itemId")),
    "item/fileChange/outputDelta": ("delta", ("threadId", "turnId", "itemId")),
    "item/plan/delta": ("delta", ("threadId", "turnId", "itemId")),
    "item/reasoning/summaryTextDelta": ("delta", ("threadId", "turnId", "itemId", "summaryIndex")),
    "item/reasoning/textDelta": ("delta", ("threadId", "turnId", "itemId", "contentIndex")),
    "thread/realtime/item/transcript/delta": ("delta", ("threadId", "itemId")),
    "thread/realtime/transcript/delta": ("delta", ("threadId", "role")),
}
"""Notifications whose neighbours may be merged: the joined text means the same."""

NOT_TEXT_DELTAS = {
    "command/exec/outputDelta": "base64",
    "process/outputDelta": "base64",
    "thread/realtime/outputAudio/delta": "base64",
}
"""Other notifications with "delta" in their name, and why they are not merged."""

UNLISTED = {
    # method: params. Both need `experimentalRawEvents` of thread/start.
    "rawResponse/completed": "RawResponseCompletedNotification",
    "rawResponseItem/completed": "RawResponseItemCompletedNotification",
}
"""Notifications that the server sends, and whose types the schema has, but that its list of notifications leaves out."""

NO_DESCRIPTIONS = frozenset({"NEW APIs", "NEW NOTIFICATIONS"})
"""Headings of the server's source that ended up as the description of what follows."""
