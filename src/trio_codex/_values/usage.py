"""Token usage of a turn, a thread or a client.

The server reports cumulative totals for a thread, along with the usage of the last request to the model. Neither is
the usage of a turn: totals continue across resumes and forks, and the last request is repeated after a compaction and
a resume. Usage is therefore the growth of the totals. The reader feeds this module, so unexpected values never raise.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_codex._core.json import integer_of, object_of, string_of

if TYPE_CHECKING:
    from collections.abc import Mapping

USAGE_METHOD: Final = "thread/tokenUsage/updated"

THREADS_REMEMBERED: Final = 4096
"""Number of threads whose totals are kept, about 500 bytes each. Others are counted from their next report on."""


def _sum(mine: int | None, theirs: int | None) -> int | None:
    if mine is None or theirs is None:
        return theirs if mine is None else mine
    return mine + theirs


@attrs.frozen(kw_only=True)
class TokenUsage:
    """Tokens used. ``None`` means that the server did not report a value, which is not the same as zero.

    Values can be added; a missing value adds nothing.

    Attributes:
        input_tokens: Input tokens, including cached ones.
        cached_input_tokens: The part of ``input_tokens`` read from the cache.
        cache_write_input_tokens: The part of ``input_tokens`` written to the cache.
        output_tokens: Output tokens, including those for reasoning.
        reasoning_output_tokens: The part of ``output_tokens`` used for reasoning.
        total_tokens: Input and output tokens together.
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
    """Add to a sum that may still be ``None``."""
    return more if usage is None else usage + more


class UsageCounters:
    """Growth of each thread's totals since the last report."""

    def __init__(self) -> None:
        self._totals: OrderedDict[str, TokenUsage] = OrderedDict()

    def take(self, thread_id: str, params: Mapping[str, Any]) -> TokenUsage | None:
        """Process a live report. Return the usage since the previous one, or ``None`` if there was none."""
        reported = object_of(params.get("tokenUsage"))
        total = _usage_of(reported.get("total"))
        before = self._totals.get(thread_id)
        self._keep(thread_id, total)
        if before is None or not _grew(before, total):
            # Without a previous total, or if the server restarted its count, only the last request is known.
            grown = _usage_of(reported.get("last"))
        else:
            grown = TokenUsage(
                **{name: _difference(getattr(total, name), getattr(before, name)) for name in _MEMBERS}
            )
        # After a compaction, ``last`` estimates the remaining context and has neither input nor output tokens.
        return grown if grown.input_tokens or grown.output_tokens else None

    def replay(self, thread_id: str, params: Mapping[str, Any]) -> None:
        """Process a past report that the server repeats on a resume. Later growth is counted from it."""
        self._keep(thread_id, _usage_of(object_of(params.get("tokenUsage")).get("total")))

    def _keep(self, thread_id: str, total: TokenUsage) -> None:
        self._totals[thread_id] = total
        self._totals.move_to_end(thread_id)
        if len(self._totals) > THREADS_REMEMBERED:
            self._totals.popitem(last=False)


def reported_turn_id(params: Mapping[str, Any]) -> str | None:
    """Return the id of the turn that a report belongs to."""
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
