"""Policies built from other policies. Each decision names the policy that made it in its ``rule``."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import attrs
import trio

from trio_codex._core.arguments import described
from trio_codex._core.log import SafeLogger
from trio_codex._core.user_code import call_user
from trio_codex.policies._decisions import (
    Abstain,
    Accept,
    Answers,
    AnyDecision,
    Cancel,
    Decline,
    Grant,
    NetworkRule,
)
from trio_codex.policies._policy import KINDS, Policy, check_policies, name_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_Callback: TypeAlias = "Callable[[Any], Awaitable[Any]]"
_DecisionT = TypeVar("_DecisionT")

NO_ANSWER: Final = Decline("no decision before the timeout")

logger = logging.getLogger("trio_codex.policies")


def first_of(*policies: Policy, name: str | None = None) -> Policy:
    """Create a policy that tries these policies in order and returns the first decision that is not an abstention.

    If all of them abstain, so does this policy. It handles a kind of request if at least one of them does. If a decision
    has no ``rule``, this policy sets it to the name of the policy that made the decision.

    Args:
        policies: The policies, in the order to try them.
        name: The policy's name in audit records; by default built from the names of the policies.

    Raises:
        TypeError: One of ``policies`` is not a policy.
    """
    check_policies(policies)

    def in_order(kind: str) -> _Callback:
        async def ask(request: object) -> Any:
            await trio.lowlevel.checkpoint()
            for policy in policies:
                callback = getattr(policy, kind)
                decision = Abstain() if callback is None else await call_user(callback, request)
                if not isinstance(decision, Abstain):
                    return _named(decision, name_of(policy, kind))
            return Abstain()

        return ask

    default_name = f"first_of({', '.join(policy.name or 'policy' for policy in policies)})"
    callbacks: dict[str, Any] = {
        kind: in_order(kind)
        for kind in KINDS
        if any(getattr(policy, kind) is not None for policy in policies)
    }
    return Policy(name=name or default_name, **callbacks)


def with_timeout(policy: Policy, seconds: float, otherwise: AnyDecision = NO_ANSWER) -> Policy:
    """Create a policy that limits how long another policy may take to decide.

    When the timeout expires, the callback is cancelled and ``otherwise`` is the decision; this is not an error. If the
    request is withdrawn, or an enclosing cancel scope is cancelled, no decision is made, even after the timeout.

    Args:
        policy: The policy.
        seconds: Timeout of each decision in seconds; ``math.inf`` for no timeout.
        otherwise: The decision after a timeout. It must fit every kind of request that the policy handles, as
            :func:`decline` does. Use :func:`abstain` to leave the request to the next policy.

    Raises:
        ValueError: ``seconds`` is negative or NaN.
        TypeError: ``policy`` is not a policy, or ``otherwise`` is not a decision.
    """
    check_policies([policy])
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"with_timeout: seconds must be zero or a positive number, got {seconds}")
    if not isinstance(cast("object", otherwise), AnyDecision):
        raise TypeError(f"with_timeout: otherwise must be a decision, got {described(otherwise)}")
    too_late = _named(otherwise, f"with_timeout: {seconds:g} s")

    def limited(kind: str, callback: _Callback) -> _Callback:
        async def ask(request: object) -> Any:
            with trio.move_on_after(seconds):
                return _named(await call_user(callback, request), name_of(policy, kind))
            # Reached only if the timeout alone expired: the Cancelled of an enclosing scope would have propagated.
            return too_late

        return ask

    return _wrapped(policy, limited)


def logged(
    policy: Policy, *, logger: logging.Logger = logger, level: int = logging.INFO, show: bool = False
) -> Policy:
    """Create a policy that logs each decision of another policy, as one record.

    The record contains the kind of request, its thread, turn and item, the decision, the rule that led to it, and the
    elapsed seconds. The record's ``decision`` attribute holds the same data as a mapping. By default the record omits the
    content of the request: commands, paths and text.

    A request that is withdrawn before a decision is logged as ``withdrawn``, and a callback that raises as ``failed``.

    Args:
        policy: The policy.
        logger: The logger to use; by default ``trio_codex.policies``.
        level: The level of the records.
        show: Whether to log the content of the request and the decision as well. Tokens, answers and the content of
            forms are never logged.

    Raises:
        TypeError: ``policy`` is not a policy.
    """
    check_policies([policy])

    def with_log(kind: str, callback: _Callback) -> _Callback:
        async def ask(request: object) -> Any:
            entry = _LogEntry(kind, request)
            try:
                decision = entry.decided(_named(await call_user(callback, request), name_of(policy, kind)))
            except Exception as exc:
                entry.outcome = f"failed: {type(exc).__name__}"
                raise
            finally:
                entry.write(logger, level, show)
            return decision

        return ask

    return _wrapped(policy, with_log)


class _LogEntry:
    """The log record of one request."""

    def __init__(self, kind: str, request: object) -> None:
        self._kind = kind
        self._request = request
        self._started_at = trio.current_time()
        self._decision: object = None
        self.outcome = "withdrawn"

    def decided(self, decision: _DecisionT) -> _DecisionT:
        self._decision = decision
        self.outcome = type(decision).__name__.lower()
        return decision

    def write(self, logger: logging.Logger, level: int, show: bool) -> None:
        if not logger.isEnabledFor(level):
            return
        facts: dict[str, object] = {"kind": self._kind, "outcome": self.outcome}
        for name in ("thread_id", "turn_id", "item_id", "call_id"):
            if (value := getattr(self._request, name, None)) is not None:
                facts[name] = value
        if (rule := getattr(self._decision, "rule", None)) is not None:
            facts["rule"] = rule
        facts["seconds"] = round(trio.current_time() - self._started_at, 3)
        if show:
            from trio_codex import wire

            facts["asked"] = wire.encode(getattr(self._request, "params", None))
            if (changes := getattr(self._request, "changes", None)) is not None:
                facts["changes"] = [wire.encode(change) for change in changes]
            facts["decision"] = repr(self._decision)
        text = " ".join(
            f"{name}={value!r}" for name, value in facts.items() if name not in ("kind", "outcome")
        )
        SafeLogger(logger).log(level, "%s: %s %s", self._kind, self.outcome, text, extra={"decision": facts})


def _named(decision: _DecisionT, rule: str) -> _DecisionT:
    """Set the rule of a decision that has none to the name of its policy."""
    if (
        isinstance(decision, Accept | Decline | Cancel | NetworkRule | Grant | Answers)
        and decision.rule is None
    ):
        return attrs.evolve(decision, rule=rule)
    return decision


def _wrapped(policy: Policy, wrap: Callable[[str, _Callback], _Callback]) -> Policy:
    """Create a policy with a callback for each kind that another policy decides on."""
    found = ((kind, getattr(policy, kind)) for kind in KINDS)
    callbacks: dict[str, Any] = {kind: wrap(kind, each) for kind, each in found if each is not None}
    return Policy(name=policy.name, **callbacks)
