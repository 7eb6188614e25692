"""Budgets across generations and programs, and keys for tool calls that may be repeated."""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from typing import TYPE_CHECKING, Any

import attrs

from trio_codex import errors, wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_codex import Budget, TokenUsage
    from trio_codex.policies import ToolCallRequest


@attrs.frozen
class Spent:
    """The usage of turns.

    Attributes:
        tokens: Input and output tokens.
        turns: The number of turns.
        seconds: The time during which the turns were open.
    """

    tokens: int = 0
    turns: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.tokens + other.tokens, self.turns + other.turns, self.seconds + other.seconds)

    def rest_of(self, budget: Budget | None, carrier: str) -> Budget | None:
        """Return what is left of a budget.

        Raises:
            BudgetExceeded: Nothing is left.
        """
        if budget is None:
            return None
        left: dict[str, Any] = {}
        for limit in ("tokens", "turns", "seconds"):
            allowed, used = getattr(budget, limit), getattr(self, limit)
            if allowed is not None and used >= allowed:
                raise errors.BudgetExceeded(carrier, limit, allowed, used)
            left[limit] = None if allowed is None else allowed - used
        return attrs.evolve(budget, **left)


def tokens_of(usage: TokenUsage | None) -> int:
    """Return the number of tokens in a report."""
    if usage is None:
        return 0
    if usage.total_tokens is not None:
        return usage.total_tokens
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)


def total_of(*usages: TokenUsage | None) -> TokenUsage | None:
    """Return the sum of reports, each of which may be unknown."""
    known = [usage for usage in usages if usage is not None]
    return functools.reduce(operator.add, known) if known else None


class ToolCalls:
    """The keys of the tool calls of one turn.

    If the server dies before it has recorded the answer to a call, the call is "aborted" for the model, which may
    repeat it under another id. The repeated call has the same key, because only answered calls advance the number of
    equal calls.

    Args:
        scope: The identity of the prompt.
        items: The items of the earlier turns of the prompt.
    """

    def __init__(self, scope: str, items: Iterable[wire.ThreadItem]) -> None:
        self._scope = scope
        self._answered: dict[str, int] = {}
        self._keys: dict[str, str] = {}
        for item in items:
            if isinstance(item, wire.DynamicToolCallThreadItem) and item.success is not None:
                self._number(self._digest(item.namespace, item.tool, item.arguments))

    def key(self, call: ToolCallRequest) -> str:
        """Return the key of a call. It stays the same while the turn is open."""
        if call.call_id not in self._keys:
            digest = self._digest(call.namespace, call.tool, call.arguments)
            self._keys[call.call_id] = f"{digest}-{self._number(digest)}"
        return self._keys[call.call_id]

    def _number(self, digest: str) -> int:
        number = self._answered.get(digest, 0)
        self._answered[digest] = number + 1
        return number

    def _digest(self, *call: object) -> str:
        text = json.dumps([self._scope, *call], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
