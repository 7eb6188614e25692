"""A turn as reported by a server, as a plain value. Independent of hypothesis."""

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
        method: The method.
        params: The parameters.
    """

    method: str
    params: wire.Wire


@attrs.frozen(kw_only=True)
class Transcript:
    """A turn as reported by a server, and the result that a client must derive from it.

    Attributes:
        thread_id: The thread's id.
        turn_id: The turn's id.
        said: The notifications of the turn, from its start to its end, in order.
        status: The final status: a value of :class:`trio_codex.TurnStatus`.
        error: The error, if the turn failed.
        final_response: The text of the last final answer, else of the last message without a phase.
        items: The completed items, in order of completion.
        diff: The last reported diff.
    """

    thread_id: str
    turn_id: str
    said: Sequence[Said]
    status: str
    error: wire.TurnError | None
    final_response: str | None
    items: Sequence[wire.Wire]
    diff: str | None
