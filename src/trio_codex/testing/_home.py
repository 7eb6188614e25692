"""An isolated, offline ``CODEX_HOME``, so that the real codex binary runs against the model stand-in alone.

Owns the configuration that keeps the binary off the network, and the directories and the environment it runs in.
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
"""Name of the model; those of real models bring tools behind a JavaScript host with them."""

OFFLINE_FEATURES: Final[Mapping[str, bool]] = MappingProxyType(
    {"plugins": False, "apps": False, "unbounded_connection_retries": False}
)
"""The first two would reach for github.com and chatgpt.com; the last would retry a refused connection for ever."""

CATALOG: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "slug": MODEL_NAME,
        "display_name": "Mock",
        "description": "The model stand-in of trio-codex",
        "supported_reasoning_levels": [
            {"effort": "low", "description": "low"},
            {"effort": "medium", "description": "medium"},
        ],
        "default_reasoning_level": "medium",
        # Only older servers ask for these two (0.133.0 does); newer ones take them for granted.
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
"""What the server has to know of the model; without it, it warns and offers no ``apply_patch``."""


@attrs.frozen
class OfflineHome:
    """Where and how to run codex offline.

    Attributes:
        codex_home: The ``CODEX_HOME``, with ``config.toml``.
        home: An empty ``HOME``, so that no profile of the user's is read.
        workspace: An empty directory to work in.
        tmp: The ``TMPDIR``. The server makes no helper programs for a ``CODEX_HOME`` below it, and says so.
        env: The whole environment to run codex with; nothing else of ours is passed on.
    """

    codex_home: Path
    home: Path
    workspace: Path
    tmp: Path
    env: Mapping[str, str] = attrs.field(repr=False)

    def config(self, base: CodexConfig | None = None) -> CodexConfig:
        """Give the configuration of a client that runs codex here: in the workspace, with no environment but this one.

        Args:
            base: What to take the rest from. Its ``env`` is laid over ours, and its ``cwd`` is kept.
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
    """Write a home in which codex talks to the model stand-in and to nothing else.

    Args:
        directory: Where to write it; made if it does not exist.
        model: The model stand-in, or the base URL of an endpoint.
        approval_policy: When the server asks for approval. (``untrusted`` is for ``thread/start`` and ``turn/start``:
            with it in ``config.toml`` the server does not start.)
        sandbox_mode: What commands may do without approval.
        features: The server's features to switch on or off.
        mcp_servers: MCP servers by name, such as ``{"held": {"command": "python3", "args": [...]}}``.
        config: Further configuration, as TOML or as a mapping; laid over the rest, table by table.
        catalog: Whether to describe the model to the server.

    Raises:
        TypeError: If the configuration holds what TOML cannot.
        tomllib.TOMLDecodeError: If ``config`` is not TOML.
        OSError: If the home cannot be written.
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
    """Write an offline home into a temporary directory, which is removed with the scope.

    The arguments and exceptions are those of :func:`write_offline_home`. End codex before the scope ends.
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
    """Return ``base`` with ``top`` laid over it, table by table."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = _overlaid(cast("Mapping[str, Any]", below), cast("Mapping[str, Any]", value))
        merged[key] = value
    return merged
