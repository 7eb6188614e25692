"""Policies made of policies. Each decision says in its ``rule`` which of them it comes from."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import attrs
import trio

from trio_codex._core.log import SafeLogger
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

NO_ANSWER: Final = Decline("nobody decided in time")

logger = logging.getLogger("trio_codex.policies")


def first_of(*policies: Policy, name: str | None = None) -> Policy:
    """Make a policy that takes the decision of the first of these that does not abstain.

    They are asked one after the other, each once the one before has abstained. If all of them do, so does this one; what
    none of them handles, this one does not handle either. A decision that names no ``rule`` is given the name of the policy
    that made it.

    Args:
        policies: The policies, the one to ask first first.
        name: By which the audit calls it; by default made of theirs.

    Raises:
        TypeError: One is not a policy.
    """
    check_policies(policies)
    asked = {kind: [policy for policy in policies if _callback(policy, kind) is not None] for kind in KINDS}

    def first(kind: str) -> _Callback | None:
        if not asked[kind]:
            return None

        async def ask(request: object) -> Any:
            await trio.lowlevel.checkpoint()
            for policy in asked[kind]:
                callback = _callback(policy, kind)
                assert callback is not None
                decision = await callback(request)
                if not isinstance(decision, Abstain):
                    return _named(decision, name_of(policy, kind))
            return Abstain()

        return ask

    shown = f"first_of({', '.join(policy.name or 'policy' for policy in policies)})"
    return _policy(name or shown, first)


def with_timeout(policy: Policy, seconds: float, otherwise: AnyDecision = NO_ANSWER) -> Policy:
    """Make a policy that decides by itself if this one takes too long.

    The callback is then cancelled. That is a decision like any other, and no error. If the request is withdrawn, or
    whatever is around it is cancelled, nothing is decided, however late it is.

    Args:
        policy: The policy.
        seconds: How long each decision may take; ``math.inf`` for as long as it likes.
        otherwise: The decision then: one that fits every kind that the policy handles, such as :func:`decline`, or
            :func:`abstain` to ask the next policy out.

    Raises:
        ValueError: ``seconds`` is negative, or no number.
        TypeError: ``policy`` is not a policy, or ``otherwise`` is not a decision.
    """
    check_policies([policy])
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"seconds must not be negative, or no number: {seconds}")
    if not isinstance(cast("object", otherwise), AnyDecision):
        raise TypeError(f"otherwise has to be a decision, not {type(otherwise).__name__}")
    too_late = _named(otherwise, f"with_timeout: {seconds:g} s")

    def limited(kind: str) -> _Callback | None:
        callback = _callback(policy, kind)
        if callback is None:
            return None

        async def ask(request: object) -> Any:
            with trio.move_on_after(seconds):
                return _named(await callback(request), name_of(policy, kind))
            # Here only the time is over: had a scope around it been cancelled, too, this would have been passed by.
            return too_late

        return ask

    return _policy(policy.name, limited)


def logged(
    policy: Policy, *, logger: logging.Logger = logger, level: int = logging.INFO, show: bool = False
) -> Policy:
    """Make a policy that logs each decision of this one, in one record.

    The record says the kind of request, its thread, turn and item, what was decided, by which rule, and after how many
    seconds; as its attribute ``decision`` it has the same as a mapping. What was asked is not in it, no command, no path
    and no content, unless it is asked for.

    A request that is withdrawn before it is decided is logged as ``withdrawn``, a callback that fails as ``failed``.

    Args:
        policy: The policy.
        logger: Where to log; by default ``trio_codex.policies``.
        level: The level of the records.
        show: Log what was asked, too, and the decision as it is. Tokens, answers and contents of forms stay hidden.

    Raises:
        TypeError: ``policy`` is not a policy.
    """
    check_policies([policy])

    def noted(kind: str) -> _Callback | None:
        callback = _callback(policy, kind)
        if callback is None:
            return None

        async def ask(request: object) -> Any:
            note = _Note(kind, request)
            try:
                decision = note.decided(_named(await callback(request), name_of(policy, kind)))
            except Exception as exc:
                note.outcome = f"failed: {type(exc).__name__}"
                raise
            finally:
                note.write(logger, level, show)
            return decision

        return ask

    return _policy(policy.name, noted)


class _Note:
    """What a record says about one request."""

    def __init__(self, kind: str, request: object) -> None:
        self._kind = kind
        self._request = request
        self._began = trio.current_time()
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
        facts["seconds"] = round(trio.current_time() - self._began, 3)
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


def _callback(policy: Policy, kind: str) -> _Callback | None:
    callback: _Callback | None = getattr(policy, kind)
    return callback


def _named(decision: _DecisionT, rule: str) -> _DecisionT:
    """Say which policy a decision comes from, if it does not say so itself."""
    if (
        isinstance(decision, Accept | Decline | Cancel | NetworkRule | Grant | Answers)
        and decision.rule is None
    ):
        return attrs.evolve(decision, rule=rule)
    return decision


def _policy(name: str | None, make: Callable[[str], _Callback | None]) -> Policy:
    callbacks: dict[str, Any] = {kind: make(kind) for kind in KINDS}
    return Policy(name=name, **callbacks)
