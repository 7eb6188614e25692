"""Corrections of the schema. Each asserts what it replaces, so that a fix upstream breaks the generator loudly."""

from __future__ import annotations

from typing import Any

from wiregen import WiregenError

CLEARS = {
    # (definition, property): what the description says, word for word; None where only the server's source says so.
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
"""Optional fields for which null is a value of its own (``Option<Option<T>>`` in the server): they take ``NULL``."""

REPLACED: dict[tuple[str, ...], tuple[Any, Any]] = {
    # The catch-all for variants to come. `UnknownVariant` does that for every union.
    ("CodexErrorInfo", "anyOf", "-1"): ({"type": ["string", "object"]}, None),
    # Maps whose values the server flattens into the object, which its schema generator cannot express.
    ("AppsConfig", "additionalProperties"): (None, True),
    ("AppLinksConfig", "additionalProperties"): (None, True),
    ("AppToolsConfig", "additionalProperties"): (None, True),
    ("ThreadExtra", "additionalProperties"): (None, True),
}
"""Path into the definitions → (old value, new value). None: not there, and to be removed, respectively."""


def apply(definitions: dict[str, Any]) -> None:
    """Correct ``definitions`` in place.

    Raises:
        WiregenError: Something is no longer as the patch knows it.
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
