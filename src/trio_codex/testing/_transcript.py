"""A turn as a server tells it, as a value. Knows nothing of hypothesis, which makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_codex import wire


@attrs.frozen
class Said:
    """One notification of a transcript.

    Attributes:
        method: Its method.
        params: What it carries.
    """

    method: str
    params: wire.Wire


@attrs.frozen(kw_only=True)
class Transcript:
    """A turn as a server tells it, and what a client must make of it.

    Attributes:
        thread_id: Its thread.
        turn_id: Its id.
        said: The notifications from its start to its end, in order.
        status: How it ends: a value of :class:`trio_codex.TurnStatus`.
        error: Why it failed, if it did.
        final_response: The text of the last final answer, else of the last message without a phase.
        items: The items that were completed, in that order.
        diff: The diff as last reported.
    """

    thread_id: str
    turn_id: str
    said: Sequence[Said]
    status: str
    error: wire.TurnError | None
    final_response: str | None
    items: Sequence[wire.Wire]
    diff: str | None
