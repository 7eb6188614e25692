"""Assign each definition to a module of ``trio_codex.wire``.

Domains are an ordered list of roots, and a definition belongs to the first domain whose roots reach it. The domains that a
typical session uses come first, and importing a module never imports a later one.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

import attrs

from trio_codex.wire._schema import ir
from wiregen import WiregenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wiregen.protocol import Methods


@attrs.frozen
class Domain:
    """A module and its roots: patterns of methods, and patterns of types that no method reaches."""

    module: str
    methods: tuple[str, ...]
    types: tuple[str, ...] = ()


DOMAINS = (
    # Domains of a typical session, in the order of first use.
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
    # The rest, by topic.
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
                       "attestation/*", "mock/*", "server/*"), ("ModelProviderError", "W3cTraceContext")),
    Domain("_account", ("account/*", "accountSession/*", "userVerification/*", "feedback/*"), ("UserVerification*",)),
    Domain("_mcp", ("mcpServer/*", "mcpServerStatus/*", "config/mcpServer/*")),
    Domain("_plugins", ("plugin/*", "marketplace/*", "skills/*", "app/*", "hooks/*", "hook/*"), ("ToolExposureSurface",)),
    Domain("_remote", ("remoteControl/*", "externalAgentConfig/*")),
    Domain("_config", ("config/*", "configRequirements/*", "experimentalFeature/*", "permissionProfile/*"),
           ("App*Config",)),
)  # fmt: skip
"""The domains, in the order of their imports."""


def assign(definitions: Mapping[str, ir.Definition], methods: Methods) -> dict[str, str]:
    """Return the module of each definition.

    Raises:
        WiregenError: No domain reaches a definition, or a domain is empty.
    """
    roots = {name: [*ir.refs(method)] for table in methods.values() for name, method in table.items()}
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
    definitions: Mapping[str, ir.Definition],
    children: Mapping[str, list[str]],
    home: dict[str, str],
) -> None:
    """Assign to ``module`` the definitions that ``start`` reaches and that have no module yet.

    A variant shares its union's module.
    """
    open_ = list(start)
    while open_:
        name = open_.pop()
        if name in home or name not in definitions:
            continue
        home[name] = module
        definition = definitions[name]
        open_.extend(ir.refs(definition))
        open_.extend(children.get(name, ()))
        if definition.parent is not None:
            open_.append(definition.parent)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
