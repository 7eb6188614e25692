"""The life cycle of a turn as a state machine, driven by the reader and by scopes. Synchronous and without I/O.

Two facts change independently: the *phase* of the turn on the server, and the progress of its scope.

======================  ==================================  ==========================================================
transition              from                                to
======================  ==================================  ==========================================================
``announce``            any                                 the same phase; the ids become known
``bind``                any phase in which it is live       running, or still ending: the server named the turn
``refuse``              starting, ending                    ended: the server did not start it
``rename``              any phase in which it is live       the same phase: the server runs it under another id
``leave``               starting, running                   ending: its scope exited early
``end``                 starting, running, ending           ended
``lose``                starting, running, ending           lost: its end will not be observed
``clean_up``            any                                 the same phase; its scope has finished cleanup
======================  ==================================  ==========================================================

A turn is *live* until it has ended or is lost. ``leave`` has no effect on a turn that is no longer live, and ``lose`` has
none on a turn that has ended. A turn that is still live after cleanup is an *orphan*: the response to its start was
unreadable, so its scope did not know about it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_codex._link.call import CloseReason


class Phase(enum.Enum):
    """The phase of a turn on the server."""

    starting = enum.auto()
    """It was requested, and the response has not arrived."""
    running = enum.auto()
    """The server is running it."""
    ending = enum.auto()
    """Its scope exited early, and its end has not been observed."""
    ended = enum.auto()
    """Its terminal event has arrived, or the server rejected the request to start it."""
    lost = enum.auto()
    """Its end was not observed and will not be."""


class TurnMachine:
    """The phase of one turn and the ids under which the server knows it.

    A turn may have two ids: an inline review is answered under one and runs under another (PROTOCOL Q4).

    Args:
        turn_id: The id of a turn that the server started on its own. Such a turn is running.
        named_by_announcement: Whether only the announcement has a turn id, and the response has none (Q5).

    Attributes:
        id: The id that identifies it; ``None`` until the server has reported it.
        active_id: The id under which it can be interrupted and steered; ``None`` until there is one.
        root_id: The turn it works for, if different: the turn that spawned its agent, or the review that it runs.
        phase: Its phase on the server.
        was_left: Whether its scope exited while it was live.
        is_cleaned_up: Whether its scope has exited and cleanup is complete. Its agents are no longer needed.
        loss: Why its end was not observed, and the close reason if the connection ended; ``None`` if it is not lost.
    """

    __slots__ = (
        "_named_by_announcement",
        "active_id",
        "id",
        "is_cleaned_up",
        "loss",
        "phase",
        "root_id",
        "was_left",
    )

    def __init__(self, turn_id: str | None = None, *, named_by_announcement: bool = False) -> None:
        self.id: str | None = turn_id
        self.active_id: str | None = turn_id
        self.root_id: str | None = None
        self.phase: Phase = Phase.starting if turn_id is None else Phase.running
        self.was_left: bool = False
        self.is_cleaned_up: bool = False
        self.loss: tuple[str, CloseReason | None] | None = None
        self._named_by_announcement = named_by_announcement

    @property
    def is_live(self) -> bool:
        """Whether its end may still be observed."""
        return self.phase not in (Phase.ended, Phase.lost)

    @property
    def is_orphan(self) -> bool:
        """Whether it is live although its scope has finished cleanup."""
        return self.is_cleaned_up and self.is_live

    @property
    def can_be_ended(self) -> bool:
        """Whether the server has, or will have, a turn to interrupt."""
        return self._named_by_announcement or self.active_id is not None

    def goes_by(self, turn_id: str | None) -> bool:
        """Return whether the server refers to it by this id, as far as its ids are known."""
        return turn_id is not None and turn_id in (self.id, self.active_id, self.root_id)

    def ids(self) -> set[str]:
        """Return the ids under which it may be interrupted."""
        return {turn_id for turn_id in (self.id, self.active_id) if turn_id is not None}

    # -- transitions -------------------------------------------------------------------------------------------

    def announce(self, turn_id: str, root_id: str | None) -> None:
        """Record the id under which the server announced it."""
        self.active_id = turn_id
        self.root_id = root_id
        if self._named_by_announcement:
            self.id = turn_id

    def bind(self, turn_id: str | None) -> None:
        """Record the id from the response to ``turn/start``, or else the id that was announced."""
        self.id = turn_id or self.active_id
        self.active_id = self.active_id or self.id
        if self.phase is Phase.starting:
            self.phase = Phase.running

    def refuse(self) -> None:
        """Record that the server rejected the request to start it."""
        self.phase = Phase.ended

    def rename(self, turn_id: str) -> None:
        """Record that the server runs it under another id."""
        self.active_id = turn_id

    def leave(self) -> None:
        """Record that its scope exits."""
        if self.is_live:
            self.phase = Phase.ending
            self.was_left = True

    def end(self) -> None:
        """Record its terminal event."""
        if self.phase is not Phase.lost:
            self.phase = Phase.ended

    def lose(self, reason: str, close_reason: CloseReason | None = None) -> bool:
        """Record that its end will not be observed; return whether it was live."""
        if not self.is_live:
            return False
        self.phase = Phase.lost
        self.loss = (reason, close_reason)
        return True

    def clean_up(self) -> None:
        """Record that its scope has finished cleanup."""
        self.is_cleaned_up = True
