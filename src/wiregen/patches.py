"""Corrections of the schema. Each asserts what it replaces, so that a fix upstream stops the generator."""

from __future__ import annotations

from typing import Any

from wiregen import WiregenError

CLEARS = {
    # (definition, property): a quote from the description, or None if only the source of the server says so.
    ("ProcessSpawnParams", "outputBytesCap"): "Set to `null` to disable the cap.",
    ("ProcessSpawnParams", "timeoutMs"): "Set to `null` to disable the timeout.",
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


def apply(definitions: dict[str, Any]) -> None:
    """Correct ``definitions`` in place.

    Raises:
        WiregenError: The schema differs from what a patch expects.
    """
    for (definition, name), words in CLEARS.items():
        schema = definitions[definition]["properties"][name]
        text = " ".join(schema.get("description", "").split())
        if words is not None and words not in text:
            raise WiregenError(f"{definition}.{name} is no longer described with {words!r} but as {text!r}")
        if name in definitions[definition].get("required", ()):
            raise WiregenError(f"{definition}.{name} is required now: NULL has no use there")
    for path, (old, new) in REPLACED.items():
        _replace(definitions, path, old, new)


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
