"""Every name that the generator makes up. What is not in a table here follows a rule that is checked, never guessed."""

from __future__ import annotations

import keyword
import re

from wiregen import WiregenError

VARIANTS = {
    # The schema gives these variants no title, or one that says less than the tag.
    ("FileSystemSpecialPath", "project_roots"): "ProjectRootsFileSystemSpecialPath",
    ("FileSystemSpecialPath", "unknown"): "UnknownFileSystemSpecialPath",
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
"""(union, tag) → class name, where the title in the schema cannot be it."""

UNTAGGED_VARIANTS = {
    "ResourceContent": ("TextResourceContent", "BlobResourceContent"),
}
"""Unions of nameless objects without a tag: the class names, in the order of the schema."""

EXTRA_ALIASES = {
    "ApprovalPolicy": ("AskForApprovalValue", "The simple values of `AskForApproval`."),
}
"""Short names of our own for what everybody writes."""

MEMBERS: dict[str, str] = {}
"""Enum value → member name, where the rule of :func:`member_name` gives none. (None in this version.)"""

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
    """Give the attribute for a wire name; keywords get a trailing underscore."""
    text = snake(name)
    return f"{text}_" if keyword.iskeyword(text) else text


def member_name(value: str) -> str:
    """Give the enum member for a value; what a ``str`` has already gets a trailing underscore."""
    if value in MEMBERS:
        return MEMBERS[value]
    text = snake(value)
    return f"{text}_" if keyword.iskeyword(text) or text in _STR_ATTRIBUTES else text


def variant_name(union: str, tag: str, title: str | None) -> str:
    """Give the class name of a variant: the table's, else the schema's title (``ApiKeyv2::LoginAccountParams`` too)."""
    if (union, tag) in VARIANTS:
        return VARIANTS[union, tag]
    if title is None:
        raise WiregenError(f"the variant {tag!r} of {union} has no title: name it in names.VARIANTS")
    name = title.replace("v2::", "")
    if not name.endswith(union) or not name.isidentifier():
        raise WiregenError(f"odd title {title!r} in {union}: name it in names.VARIANTS")
    return name


def value_enum_name(union: str) -> str:
    """Give the name of the enum of the plain strings among the members of a union."""
    return f"{union}Value"


def method_name(method: str) -> tuple[str | None, str]:
    """Give group and function of a method: ``thread/goal/set`` → ``thread``, ``goal_set``."""
    group, _, rest = method.partition("/")
    if not rest or group in FLAT_GROUPS:
        return None, attribute_name(method.replace("/", "_"))
    return attribute_name(group), attribute_name(rest.replace("/", "_"))


FLAT_GROUPS = frozenset({"fuzzyFileSearch"})
"""Groups whose name is a method as well: their methods sit on ``Api`` itself (``fuzzy_file_search_session_start``)."""
