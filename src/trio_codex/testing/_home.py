"""An isolated, offline ``CODEX_HOME`` in which the real codex binary talks only to the mock model.

Holds the configuration that keeps the binary off the network, and the directories and environment it runs in.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import attrs

from trio_codex import CodexConfig

from ._toml import dump_toml

if TYPE_CHECKING:
    from ._model import MockModel

ApprovalPolicy: TypeAlias = Literal["never", "on-request"]
SandboxMode: TypeAlias = Literal["read-only", "workspace-write", "danger-full-access"]

MODEL_NAME: Final = "mock-model"
"""Name of the model. It is not the name of a real model, because those enable tools that need a JavaScript host."""

OFFLINE_FEATURES: Final[Mapping[str, bool]] = MappingProxyType(
    {"plugins": False, "apps": False, "unbounded_connection_retries": False, "shell_snapshot": False}
)
"""Features to disable. The first two would contact github.com and chatgpt.com, the third would retry a refused
connection forever, and the last would run a login shell for each thread."""

CATALOG: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "slug": MODEL_NAME,
        "display_name": "Mock",
        "description": "The mock model of trio-codex",
        "supported_reasoning_levels": [
            {"effort": "low", "description": "low"},
            {"effort": "medium", "description": "medium"},
        ],
        "default_reasoning_level": "medium",
        # Only older servers, such as 0.133.0, require these two; newer ones assume them.
        "supports_reasoning_summaries": True,
        "supports_parallel_tool_calls": True,
        "shell_type": "unified_exec",
        "apply_patch_tool_type": "freeform",
        "visibility": "list",
        "supported_in_api": True,
        "priority": 1,
        "support_verbosity": False,
        "truncation_policy": {"mode": "tokens", "limit": 10_000},
        "context_window": 272_000,
        "experimental_supported_tools": [],
        "input_modalities": ["text", "image"],
        "base_instructions": "You are a mock.",
    }
)
"""The model's catalog entry. Without it the server warns and does not offer ``apply_patch``."""


@attrs.frozen
class OfflineHome:
    """The directories and environment for running codex offline.

    Attributes:
        codex_home: The ``CODEX_HOME``, with ``config.toml``.
        home: An empty ``HOME``, so that none of the user's profiles are read.
        workspace: An empty working directory.
        tmp: The ``TMPDIR``. ``CODEX_HOME`` is not below it, because the server would then warn and install no helper
            programs.
        env: The complete environment to run codex with; nothing is inherited from this process.
    """

    codex_home: Path
    home: Path
    workspace: Path
    tmp: Path
    env: Mapping[str, str] = attrs.field(repr=False)

    def config(self, base: CodexConfig | None = None) -> CodexConfig:
        """Return a client configuration that runs codex in the workspace with exactly this environment.

        Args:
            base: The configuration to start from. Its ``env`` overrides this one, and its ``cwd`` is kept.
        """
        base = base or CodexConfig()
        cwd = self.workspace if base.cwd is None else base.cwd
        return attrs.evolve(base, env={**self.env, **base.env}, inherit_env=False, cwd=cwd)


def write_offline_home(
    directory: str | os.PathLike[str],
    model: MockModel | str,
    *,
    approval_policy: ApprovalPolicy = "never",
    sandbox_mode: SandboxMode = "read-only",
    features: Mapping[str, bool] | None = None,
    mcp_servers: Mapping[str, Mapping[str, Any]] | None = None,
    config: Mapping[str, Any] | str | None = None,
    catalog: bool = True,
) -> OfflineHome:
    """Write a home in which codex talks only to the mock model.

    Args:
        directory: The directory to write to; created if it does not exist.
        model: The mock model, or the base URL of an endpoint.
        approval_policy: When the server asks for approval. The server does not start with ``untrusted`` in
            ``config.toml``; set that with ``thread/start`` or ``turn/start``.
        sandbox_mode: What commands may do without approval.
        features: Server features to enable or disable.
        mcp_servers: MCP servers by name, such as ``{"held": {"command": "python3", "args": [...]}}``.
        config: Additional configuration, as TOML or as a mapping; merged over the rest, table by table.
        catalog: Whether to describe the model to the server.

    Raises:
        TypeError: The configuration holds a value that TOML cannot represent.
        tomllib.TOMLDecodeError: ``config`` is not TOML.
        OSError: The home cannot be written.
    """
    root = Path(directory).resolve()
    paths = {name: root / name for name in ("codex_home", "home", "workspace", "tmp")}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    codex_home = paths["codex_home"]
    settings = _base_config(model if isinstance(model, str) else model.base_url)
    settings |= {"approval_policy": approval_policy, "sandbox_mode": sandbox_mode}
    if catalog:
        catalog_path = codex_home / "model_catalog.json"
        catalog_path.write_text(json.dumps({"models": [dict(CATALOG)]}), encoding="utf-8")
        settings["model_catalog_json"] = str(catalog_path)
    settings = _overlaid(settings, {"features": features or {}})
    if mcp_servers:
        settings["mcp_servers"] = mcp_servers
    settings = _overlaid(settings, tomllib.loads(config) if isinstance(config, str) else config or {})
    (codex_home / "config.toml").write_text(dump_toml(settings), encoding="utf-8")
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(paths["home"]),
        "TMPDIR": str(paths["tmp"]),
        "LANG": "C.UTF-8",
        "CODEX_HOME": str(codex_home),
        "RUST_LOG": "error",
    }
    return OfflineHome(**paths, env=MappingProxyType(env))


@contextmanager
def offline_home(
    model: MockModel | str,
    *,
    approval_policy: ApprovalPolicy = "never",
    sandbox_mode: SandboxMode = "read-only",
    features: Mapping[str, bool] | None = None,
    mcp_servers: Mapping[str, Mapping[str, Any]] | None = None,
    config: Mapping[str, Any] | str | None = None,
    catalog: bool = True,
) -> Generator[OfflineHome]:
    """Write an offline home to a temporary directory, which is removed at the end of the scope.

    The arguments and exceptions are those of :func:`write_offline_home`. Stop codex before the scope ends.
    """
    with tempfile.TemporaryDirectory(prefix="trio-codex-") as directory:
        yield write_offline_home(
            directory,
            model,
            approval_policy=approval_policy,
            sandbox_mode=sandbox_mode,
            features=features,
            mcp_servers=mcp_servers,
            config=config,
            catalog=catalog,
        )


def _base_config(base_url: str) -> dict[str, Any]:
    return {
        "model": MODEL_NAME,
        "model_provider": "mock",
        "approvals_reviewer": "user",
        "check_for_update_on_startup": False,
        "analytics": {"enabled": False},
        "feedback": {"enabled": False},
        "model_providers": {
            "mock": {
                "name": "mock",
                "base_url": base_url,
                "wire_api": "responses",
                "request_max_retries": 0,
                "stream_max_retries": 0,
            }
        },
        "features": dict(OFFLINE_FEATURES),
    }


def _overlaid(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``top`` merged over it, table by table."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = _overlaid(cast("Mapping[str, Any]", below), cast("Mapping[str, Any]", value))
        merged[key] = value
    return merged
