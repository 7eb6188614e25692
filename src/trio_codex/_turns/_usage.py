"""Tokens that add up: owns what one turn, thread or client used, told apart from what a thread has used in all its life.

The server reports cumulative totals of a thread, with those of the last request to the model beside them. Neither is what
a turn used: totals go on over resumes and forks, and the last request is repeated after a compaction and a resume. So what
was used is what the totals grew by. Fed by the reader; takes whatever the server sends, and never raises.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_codex._core._json import integer_of, object_of, string_of

if TYPE_CHECKING:
    from collections.abc import Mapping

USAGE_METHOD: Final = "thread/tokenUsage/updated"

THREADS_REMEMBERED: Final = 4096
"""Threads whose totals are kept, some 500 bytes each. One that comes back later counts from its first report on."""


def _sum(mine: int | None, theirs: int | None) -> int | None:
    if mine is None or theirs is None:
        return theirs if mine is None else mine
    return mine + theirs


@attrs.frozen(kw_only=True)
class TokenUsage:
    """Tokens that were used. ``None`` means that the server did not say, which is not zero.

    Values can be added; what was not said adds nothing.

    Attributes:
        input_tokens: Tokens of the requests, those from the cache included.
        cached_input_tokens: Of these, those from the cache.
        cache_write_input_tokens: Of these, those written to the cache.
        output_tokens: Tokens of the responses, those for reasoning included.
        reasoning_output_tokens: Of these, those spent on reasoning.
        total_tokens: Input and output together.
    """

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    total_tokens: int | None = None

    def __add__(self, other: TokenUsage) -> TokenUsage:
        if not isinstance(other, TokenUsage):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not be typed
            return NotImplemented
        return TokenUsage(**{name: _sum(getattr(self, name), getattr(other, name)) for name in _MEMBERS})


_MEMBERS: Final[Mapping[str, str]] = {
    "input_tokens": "inputTokens",
    "cached_input_tokens": "cachedInputTokens",
    "cache_write_input_tokens": "cacheWriteInputTokens",
    "output_tokens": "outputTokens",
    "reasoning_output_tokens": "reasoningOutputTokens",
    "total_tokens": "totalTokens",
}


def plus(usage: TokenUsage | None, more: TokenUsage) -> TokenUsage:
    """Add to a sum that may not have begun."""
    return more if usage is None else usage + more


class UsageCounters:
    """What the totals of each thread have grown by since they were last looked at."""

    def __init__(self) -> None:
        self._totals: OrderedDict[str, TokenUsage] = OrderedDict()

    def take(self, thread_id: str, params: Mapping[str, Any]) -> TokenUsage | None:
        """Take a report of something that runs now; give what was used since the one before, ``None`` if nothing was."""
        reported = object_of(params.get("tokenUsage"))
        total, last = _usage_of(reported.get("total")), _usage_of(reported.get("last"))
        before = self._totals.get(thread_id)
        self._keep(thread_id, total)
        if before is None or not _grew(before, total):
            # Nothing to compare with, or the server counts anew: the last request is what is known.
            grown = last
        else:
            grown = TokenUsage(
                **{name: _difference(getattr(total, name), getattr(before, name)) for name in _MEMBERS}
            )
        # After a compaction ``last`` is an estimate of the context that is left, with neither input nor output.
        return grown if grown.input_tokens or grown.output_tokens else None

    def replay(self, thread_id: str, params: Mapping[str, Any]) -> None:
        """Take a report of something long past, as the server repeats it on a resume: what follows counts from there."""
        self._keep(thread_id, _usage_of(object_of(params.get("tokenUsage")).get("total")))

    def _keep(self, thread_id: str, total: TokenUsage) -> None:
        self._totals[thread_id] = total
        self._totals.move_to_end(thread_id)
        if len(self._totals) > THREADS_REMEMBERED:
            self._totals.popitem(last=False)


def reported_turn_id(params: Mapping[str, Any]) -> str | None:
    """Give the turn that a report is of."""
    return string_of(params.get("turnId"))


def _usage_of(breakdown: Any) -> TokenUsage:
    members = object_of(breakdown)
    return TokenUsage(**{name: _count_of(members.get(key)) for name, key in _MEMBERS.items()})


def _count_of(value: Any) -> int | None:
    count = integer_of(value)
    return None if count is None or count < 0 else count


def _grew(before: TokenUsage, total: TokenUsage) -> bool:
    for name in _MEMBERS:
        old, new = getattr(before, name), getattr(total, name)
        if old is not None and (new is None or new < old):
            return False
    return True


def _difference(new: int | None, old: int | None) -> int | None:
    return None if new is None else new - (old or 0)
