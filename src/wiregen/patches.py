"""Corrections of the schema. Each asserts what it replaces, so that a fix upstream stops the generator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wiregen import WiregenError
from wiregen.history import names

if TYPE_CHECKING:
    from trio_codex.wire._schema.read import Schema
    from wiregen.history import History

CLEARS = {
    # (definition, property): a quote from the description, or None if only the source of the server says so.
    ("ProcessSpawnParams", "outputBytesCap"): "Set to `null` to disable the cap.",
    ("ProcessSpawnParams", "timeoutMs"): "Set to `null` to disable the timeout.",
    **dict.fromkeys(
        (
            ("ProviderSettingsPatch", name)
            for name in ("baseUrl", "credentialFile", "envKey", "location", "profile", "projectId", "region")
        ),
        "Explicit null clears a nullable field.",
    ),
    ("ThreadListParams", "projectId"): "set to null for unassigned threads",
    ("ThreadListParams", "sectionId"): "set to `null` for unsectioned threads",
    ("ThreadMetadataGitInfoUpdateParams", "branch"): "set to `null` to clear it",
    ("ThreadMetadataGitInfoUpdateParams", "originUrl"): "set to `null` to clear it",
    ("ThreadMetadataGitInfoUpdateParams", "sha"): "set to `null` to clear it",
    ("ThreadSectionUpdateParams", "appearance"): "use `null` to clear it",
    ("ThreadSettingsUpdateParams", "serviceTier"): "`null` clears the current service tier",
    ("TurnSettingsUpdateParams", "serviceTier"): "`null` clears the requested tier",
    ("ThreadForkParams", "serviceTier"): None,
    ("ThreadGoalSetParams", "tokenBudget"): None,
    ("ThreadRealtimeStartParams", "prompt"): None,
    ("ThreadResumeParams", "serviceTier"): None,
    ("ThreadStartParams", "serviceTier"): None,
    ("TurnStartParams", "serviceTier"): None,
}
"""Optional fields for which null differs from absence (``Option<Option<T>>`` in the server). They accept ``NULL``."""

REPLACED: dict[tuple[str, ...], tuple[Any, Any]] = {
    # The catch-all for future variants. Every union has `UnknownVariant` for that.
    ("CodexErrorInfo", "anyOf", "-1"): ({"type": ["string", "object"]}, None),
    # Maps that the server flattens into the object, which its schema generator cannot express.
    ("AppsConfig", "additionalProperties"): (None, True),
    ("AppLinksConfig", "additionalProperties"): (None, True),
    ("AppToolsConfig", "additionalProperties"): (None, True),
    ("ThreadExtra", "additionalProperties"): (None, True),
}
"""Path within the definitions → (old value, new value). None stands for absence."""

KEPT: dict[str, tuple[tuple[str, ...], Any]] = {
    "CurrentTimeReadParams": (
        ("CurrentTimeReadParams",),
        {"type": "object", "properties": {"threadId": {"type": "string"}}, "required": ["threadId"]},
    ),
    "CurrentTimeReadResponse": (
        ("CurrentTimeReadResponse",),
        {
            "type": "object",
            "properties": {
                "currentTimeAt": {"type": "integer", "description": "Current time as whole Unix seconds."}
            },
            "required": ["currentTimeAt"],
        },
    ),
    "currentTime/read": (
        ("ServerRequest", "oneOf", "-"),
        {
            "type": "object",
            "properties": {
                "method": {"type": "string", "enum": ["currentTime/read"]},
                "params": {"$ref": "#/definitions/CurrentTimeReadParams"},
            },
        },
    ),
    "Project.position": (
        ("Project", "properties", "position"),
        {"type": ["integer", "null"], "description": "Only servers before 0.171.0 report it."},
    ),
    "ReviewDelivery: detached": (("ReviewDelivery", "enum", "-"), "detached"),
}
"""Definitions that the newest schema lacks, but older servers in the tested range use: name → (path, value)."""

DROPPED: frozenset[str] = frozenset(
    {
        # Only one release had these, with another form of the type. No version of this library had them.
        "AgentMessageDisplay.action", "AgentMessageDisplay.blockType", "AgentMessageDisplay.checkTrustedContacts",
        "AgentMessageDisplay.cyberTrustedAccess",
    }
)  # fmt: skip
"""Names that a release removed from the schema, and that the library has dropped as well."""


def apply(definitions: dict[str, Any]) -> None:
    """Correct ``definitions`` in place.

    Raises:
        WiregenError: The schema differs from what a patch expects.
    """
    for (definition, name), words in CLEARS.items():
        union = definitions[definition]
        for schema in (one for one in union.get("oneOf", (union,)) if name in one["properties"]):
            text = union.get("description", "") if schema is not union else ""
            text = " ".join(f"{text} {schema['properties'][name].get('description', '')}".split())
            if words is not None and words not in text:
                raise WiregenError(
                    f"{definition}.{name} is no longer described with {words!r} but as {text!r}"
                )
            if name in schema.get("required", ()):
                raise WiregenError(f"{definition}.{name} is required now: NULL has no use there")
    for path, (old, new) in REPLACED.items():
        _replace(definitions, path, old, new)
    for path, value in KEPT.values():
        _add(definitions, path, value)


def check(definitions: Schema, history: History) -> None:
    """Check that the library still has everything that releases removed from the schema, except :data:`DROPPED`.

    Raises:
        WiregenError: It does not, or :data:`DROPPED` mentions something that was not removed.
    """
    removed = {name for names in history.removed.values() for name in names} - names(definitions)
    if lost := sorted(removed - DROPPED):
        raise WiregenError(
            f"the schema no longer has {', '.join(lost)}: see patches.KEPT and patches.DROPPED"
        )
    if wrong := sorted(DROPPED - removed):
        raise WiregenError(f"patches.DROPPED mentions {', '.join(wrong)}, which was not removed")


def _replace(definitions: dict[str, Any], path: tuple[str, ...], old: Any, new: Any) -> None:
    *parents, last = path
    node: Any = definitions
    for step in parents:
        node = node[step]
    key = last if hasattr(node, "get") else int(last)
    found = node.get(key) if hasattr(node, "get") else node[key]
    if found != old:
        raise WiregenError(f"the schema has {found!r} at {'/'.join(path)}, and the patch expects {old!r}")
    if new is None:
        del node[key]
    else:
        node[key] = new


def _add(definitions: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Add to an object, or append to a list if the path ends with ``-``."""
    *parents, last = path
    node: Any = definitions
    for step in parents:
        node = node[step]
    if last in node or value in (node if last == "-" else ()):
        raise WiregenError(f"the schema has {'/'.join(path)} again: remove it from patches.KEPT")
    if last == "-":
        node.append(value)
    else:
        node[last] = value
