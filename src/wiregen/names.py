"""Python names: tables for what the schema names badly or not at all, and rules for everything else."""

from __future__ import annotations

import keyword
import re

from wiregen import WiregenError

VARIANTS = {
    # The schema gives these variants no title, or one less specific than the tag.
    ("AgentMessageDisplay", "block"): "BlockAgentMessageDisplay",
    ("AgentMessageDisplay", "hide"): "HideAgentMessageDisplay",
    ("AgentMessageDisplay", "show"): "ShowAgentMessageDisplay",
    ("AnswerAnnotation", "wellbeingHelpline"): "WellbeingHelplineAnswerAnnotation",
    ("BlockReason", "cyber"): "CyberBlockReason",
    ("BlockReason", "protection"): "ProtectionBlockReason",
    ("FileSystemSpecialPath", "project_roots"): "ProjectRootsFileSystemSpecialPath",
    ("FileSystemSpecialPath", "unknown"): "UnknownFileSystemSpecialPath",
    ("GatewayAuth", "environmentVariable"): "EnvironmentVariableGatewayAuth",
    ("GatewayAuth", "externallyConfigured"): "ExternallyConfiguredGatewayAuth",
    ("HookMetadata", "command"): "CommandHookMetadata",
    ("HookMetadata", "mcpTool"): "McpToolHookMetadata",
    ("McpServerElicitationRequestParams", "form"): "FormMcpServerElicitationRequestParams",
    ("McpServerElicitationRequestParams", "openai/form"): "OpenaiSlashFormMcpServerElicitationRequestParams",
    ("McpServerElicitationRequestParams", "openaiForm"): "OpenaiFormMcpServerElicitationRequestParams",
    ("McpServerElicitationRequestParams", "openai/userVerification"): (
        "UserVerificationMcpServerElicitationRequestParams"
    ),
    ("McpServerElicitationRequestParams", "url"): "UrlMcpServerElicitationRequestParams",
}
"""(union, tag) → class name, where the title in the schema does not serve as one."""

UNTAGGED_VARIANTS = {
    "AccountSessionsSwitchResponse": (
        "SessionsAccountSessionsSwitchResponse",
        "LoginAccountSessionsSwitchResponse",
    ),
    "ResourceContent": ("TextResourceContent", "BlobResourceContent"),
}
"""Unions of nameless objects without a tag: the class names, in the order of the schema."""

EXTRA_ALIASES = {
    "ApprovalPolicy": ("AskForApprovalValue", "The simple values of `AskForApproval`."),
}
"""Short names for common types: alias → (target, docstring)."""

MEMBERS: dict[str, str] = {}
"""Enum value → member name, where :func:`member_name` has no rule. This version needs none."""

_STR_ATTRIBUTES = frozenset(dir(str)) | {"name", "value"}


def snake(name: str) -> str:
    """Turn a wire name into snake_case: ``threadId``, ``PreToolUse``, ``text_elements``, ``_meta``, ``$schema``."""
    if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        return name
    text = name.replace("OAuth", "Oauth")
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)
    text = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()
    if not text.isidentifier():
        raise WiregenError(f"no Python name for {name!r}")
    return text


def attribute_name(name: str) -> str:
    """Return the attribute for a wire name, with a trailing underscore if it is a keyword."""
    text = snake(name)
    return f"{text}_" if keyword.iskeyword(text) else text


def member_name(value: str) -> str:
    """Return the enum member for a value, with a trailing underscore if ``str`` has that attribute."""
    if value in MEMBERS:
        return MEMBERS[value]
    text = snake(value)
    return f"{text}_" if keyword.iskeyword(text) or text in _STR_ATTRIBUTES else text


def variant_name(union: str, tag: str, title: str | None) -> str:
    """Return the class name of a variant: from the table, else its title, such as ``ApiKeyv2::LoginAccountParams``."""
    if (union, tag) in VARIANTS:
        return VARIANTS[union, tag]
    if title is None:
        raise WiregenError(f"the variant {tag!r} of {union} has no title: name it in names.VARIANTS")
    name = title.replace("v2::", "")
    if not name.endswith(union) or not name.isidentifier():
        raise WiregenError(f"unexpected title {title!r} in {union}: name it in names.VARIANTS")
    return name


def value_enum_name(union: str) -> str:
    """Return the name of the enum for the strings among the members of a union."""
    return f"{union}Value"


def method_name(method: str) -> tuple[str | None, str]:
    """Return the group and the function of a method: ``thread/goal/set`` → ``thread``, ``goal_set``."""
    group, _, rest = method.partition("/")
    if not rest or group in FLAT_GROUPS:
        return None, attribute_name(method.replace("/", "_"))
    return attribute_name(group), attribute_name(rest.replace("/", "_"))


FLAT_GROUPS = frozenset({"fuzzyFileSearch"})
"""Groups that share their name with a method. Their methods are on ``Api`` itself: ``fuzzy_file_search_session_start``."""
