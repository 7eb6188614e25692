"""The registry of the threads that a client knows, and of their turns."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from trio_codex._session.left_behind import LeftTurn
from trio_codex._session.state import ThreadState
from trio_codex._session.unknown import UnknownThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_codex._link.call import CloseReason
    from trio_codex._session.state import TurnSequence, TurnState

LEFT_TURNS_KEPT: Final = 64
"""Number of turns left early or interrupted that are remembered. A spawned agent is announced within about 50 ms."""


class Threads:
    """The threads of one client.

    Attributes:
        unknown: The threads among them that this client has not opened.
    """

    def __init__(self) -> None:
        self._threads: dict[str, ThreadState] = {}
        self._left_turn_ids: deque[str] = deque(maxlen=LEFT_TURNS_KEPT)
        self._left_behind: list[LeftTurn] = []
        self.unknown: UnknownThreads = UnknownThreads(self._threads)
        self.find: Callable[[str], ThreadState | None] = self._threads.get
        """Return the state of a thread, if there is any. The reader calls it for every event."""

    def left_behind(self) -> list[LeftTurn]:
        """Return the turns of this client that its connection has left running."""
        return self._left_behind

    def lose(self, reason: CloseReason) -> None:
        """End every turn as lost: the connection has ended."""
        for state in self._threads.values():
            if (left := LeftTurn.on(state)) is not None:
                self._left_behind.append(left)
            if (turn := state.turn) is not None:
                turn.lose(reason.reason, reason)
                state.close_turn(turn)
            for listener in state.listeners:
                listener.end(reason.exception)

    def __iter__(self) -> Iterator[ThreadState]:
        return iter(self._threads.values())

    def thread(self, thread_id: str) -> ThreadState:
        """Return the state of a thread, creating it if necessary."""
        self.unknown.discard(thread_id)
        if (state := self._threads.get(thread_id)) is None:
            state = self._threads[thread_id] = ThreadState(thread_id)
        return state

    def open_turns(self) -> list[TurnState]:
        """Return the open turns that end with scopes of this client, except those in a sequence."""
        idle = (state.turn for state in self._threads.values() if state.sequence is None)
        return [turn for turn in idle if turn is not None and turn.ends_with_scope]

    def open_sequences(self) -> list[TurnSequence]:
        """Return the open sequences of turns."""
        return [state.sequence for state in self._threads.values() if state.sequence is not None]

    def note_left(self, turn: TurnState) -> None:
        """Remember a turn that was left early or interrupted, so that agents it is still spawning are ended, too."""
        self._left_turn_ids.extend(turn.machine.ids())

    def discard_if_unused(self, state: ThreadState) -> None:
        """Discard a thread that nothing needs any more."""
        if state.is_followed or state.sequence or state.listeners or state.unsubscribed is not None:
            return
        self.unknown.discard(state.id)
        if self._threads.pop(state.id, None) is not None:
            for past in state.past_turns:
                self.discard_children(past)

    def discard_children(self, turn: TurnState) -> None:
        """Discard the agents of a turn whose scope has exited, except those still running."""
        turn.machine.clean_up()
        for child_id in turn.reducer.children:
            child = self._threads.get(child_id)
            if child is not None and child.parent is turn:
                past_turns, child.past_turns = child.past_turns, ()
                for past in past_turns:
                    self.discard_children(past)
                self.discard_if_unused(child)

    # -- agents ------------------------------------------------------------------------------------------------

    def was_left(self, turn_id: str) -> bool:
        """Return whether a turn of this client with this id was left early or interrupted."""
        return turn_id in self._left_turn_ids

    def open_root(self, root_id: str) -> TurnState | None:
        """Return the open turn of this client with this id, if there is one."""
        roots = (root.turn for root in self._threads.values() if root.turn is not None and root.turn.owned)
        return next((root for root in roots if root_id in root.machine.ids()), None)

    def knows_root(self, root_id: str) -> bool:
        """Return whether this is the id of an open or recently left turn of this client."""
        return root_id in self._left_turn_ids or self.open_root(root_id) is not None
