"""Which module of ``trio_codex.wire`` each definition lives in.

The domains are an ordered list of roots. A definition goes to the first domain whose roots reach it. So what a normal
session touches comes first, and a module never needs, to be imported, one that comes after it.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

import attrs

from wiregen import WiregenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_codex.wire._schema.ir import Definition
    from wiregen.protocol import Methods


@attrs.frozen
class Domain:
    """A module, and the roots of what it holds: methods (patterns), and types that no method reaches (patterns)."""

    module: str
    methods: tuple[str, ...]
    types: tuple[str, ...] = ()


DOMAINS = (
    # What a normal session touches, in the order of need.
    Domain("_items", ("item/started", "item/completed", "item/*elta", "item/reasoning/*", "item/commandExecution/term*",
                      "item/fileChange/*ed", "item/mcpToolCall/*")),
    Domain("_turns", ("turn/start", "turn/steer", "turn/interrupt", "turn/started", "turn/completed", "turn/*/updated",
                      "turn/moderationMetadata", "error")),
    Domain("_threads", ("thread/start", "thread/started", "thread/status/changed", "thread/tokenUsage/updated",
                        "thread/settings/updated", "thread/readState/changed")),
    Domain("_session", ("initialize", "warning", "configWarning", "deprecationNotice", "account/rateLimits/updated",
                        "remoteControl/status/changed", "mcpServer/startupStatus/updated", "serverRequest/resolved",
                        "thread/closed", "thread/name/updated")),
    Domain("_approvals", ("item/*/requestApproval", "item/tool/*")),
    # The rest, by what it is about.
    Domain("_legacy", ("applyPatchApproval", "execCommandApproval")),
    Domain("_elicitation", ("mcpServer/elicitation/request",), ("McpElicitation*Type",)),
    Domain("_history", ("thread/resume", "thread/fork", "thread/list", "thread/read", "thread/turns/list",
                        "thread/items/*", "thread/inject_items", "thread/search*", "thread/timeline/*",
                        "rawResponse*")),
    Domain("_thread_admin", ("thread/[!r]*", "thread/revert*", "thread/readState/*", "threadSection/*", "project/*",
                             "review/*", "item/autoApprovalReview/*", "autoApprovalReview/*", "guardianWarning",
                             "turn/settings/*")),
    Domain("_realtime", ("thread/realtime/*",)),
    Domain("_fs", ("fs/*", "fuzzyFileSearch*")),
    Domain("_exec", ("command/*", "process/*", "environment/*", "windows*")),
    Domain("_models", ("model/*", "modelProvider/*", "collaborationMode/*", "memory/*", "rollout/*", "currentTime/*",
                       "attestation/*", "mock/*", "server/*"), ("W3cTraceContext",)),
    Domain("_account", ("account/*", "userVerification/*", "feedback/*"), ("UserVerification*",)),
    Domain("_mcp", ("mcpServer/*", "mcpServerStatus/*", "config/mcpServer/*")),
    Domain("_plugins", ("plugin/*", "marketplace/*", "skills/*", "app/*", "hooks/*", "hook/*"), ("ToolExposureSurface",)),
    Domain("_remote", ("remoteControl/*", "externalAgentConfig/*")),
    Domain("_config", ("config/*", "configRequirements/*", "experimentalFeature/*", "permissionProfile/*"),
           ("App*Config",)),
)  # fmt: skip
"""Domains in the order of loading."""


def assign(definitions: Mapping[str, Definition], methods: Methods) -> dict[str, str]:
    """Give the module of each definition.

    Raises:
        WiregenError: A definition is reached by no domain, or a pattern reaches nothing.
    """
    roots = {name: [*method.refs()] for table in methods.values() for name, method in table.items()}
    children: dict[str, list[str]] = {}
    for name, definition in definitions.items():
        if definition.parent is not None:
            children.setdefault(definition.parent, []).append(name)
    home: dict[str, str] = {}
    for domain in DOMAINS:
        before = len(home)
        start = [
            *(name for method, names in roots.items() if _matches(method, domain.methods) for name in names),
            *(name for name in definitions if _matches(name, domain.types)),
        ]
        _reach(start, domain.module, definitions, children, home)
        if len(home) == before:
            raise WiregenError(f"the domain {domain.module} is empty")
    if lost := sorted(definitions.keys() - home.keys()):
        raise WiregenError(f"no domain reaches {', '.join(lost)}")
    return home


def _reach(
    start: Iterable[str],
    module: str,
    definitions: Mapping[str, Definition],
    children: Mapping[str, list[str]],
    home: dict[str, str],
) -> None:
    """Claim for ``module`` what ``start`` reaches and no module has. A variant and its union never part."""
    open_ = list(start)
    while open_:
        name = open_.pop()
        if name in home or name not in definitions:
            continue
        home[name] = module
        definition = definitions[name]
        open_.extend(definition.refs())
        open_.extend(children.get(name, ()))
        if definition.parent is not None:
            open_.append(definition.parent)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
