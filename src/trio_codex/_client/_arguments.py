"""What ``open_codex``, a thread and a turn are given: owns the checks that are the same for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_codex._core._arguments import check_type, described
from trio_codex._launch._config import CodexConfig
from trio_codex._turns._budget import Budget

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_arguments(options: Mapping[str, Any]) -> None:
    """Check ``config``, ``policy``, ``budget`` and ``dynamic_tools``, as far as they are given.

    Raises:
        TypeError: One of them has another type.
    """
    if (config := options.get("config")) is not None:
        hint = "pass settings as CodexConfig(…), and choose a model with thread_start(model=…)"
        check_type("config", config, CodexConfig, hint)
    if (policy := options.get("policy")) is not None:
        # Imported once there is a policy: most clients have none.
        from trio_codex.policies._policy import check_policies

        check_policies([policy])
    if (budget := options.get("budget")) is not None:
        check_type("budget", budget, Budget, "write Budget(tokens=…), Budget(turns=…) or Budget(seconds=…)")
    for spec in options.get("dynamic_tools") or ():
        if callable(spec):
            raise TypeError(
                f"dynamic_tools expects values of trio_codex.wire, got {described(spec)}: pass it as tools=[…]"
            )
