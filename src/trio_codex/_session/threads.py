"""The registry of the threads that a client knows, and of their turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from trio_codex._core.secrets import NO_SECRETS
from trio_codex._session.left_behind import LeftTurn
from trio_codex._session.state import ThreadState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_codex._core.secrets import Secrets
    from trio_codex._link.call import CloseReason
    from trio_codex._session.state import TurnSequence, TurnState

LEFT_TURNS_KEPT: Final = 64
"""How many turns that were left early or interrupted are remembered. An agent is announced within about 50 ms."""

UNKNOWN_BYTES: Final = 1024 * 1024
"""Maximum size of state kept for threads not opened here: about 400 open turns."""

THREAD_BYTES: Final = 2400
"""Size of the state of a thread with an open turn, in addition to its ids and items."""


class Threads:
    """The threads of one client.

    Args:
        secrets: Redacted from the errors of turns.
    """

    def __init__(self, secrets: Secrets = NO_SECRETS) -> None:
        self._secrets = secrets
        self._threads: dict[str, ThreadState] = {}
        self._left_turn_ids: deque[str] = deque(maxlen=LEFT_TURNS_KEPT)
        self._left_behind: list[LeftTurn] = []
        self.unknown: UnknownThreads = UnknownThreads(self._threads)
        """The threads that this client has not opened."""
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
            state = self._threads[thread_id] = ThreadState(thread_id, self._secrets)
        return state

    def open_turns(self) -> list[TurnState]:
        """Return the open turns that end with scopes of this client, except those in a sequence."""
        turns = (state.turn for state in self._threads.values() if state.sequence is None)
        return [turn for turn in turns if turn is not None and turn.ends_with_scope]

    def open_sequences(self) -> list[TurnSequence]:
        return [state.sequence for state in self._threads.values() if state.sequence is not None]

    def note_left(self, turn: TurnState) -> None:
        """Remember a turn that was left early or interrupted, so that agents it is still spawning end, too."""
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

    def adopt_children(self, turn: TurnState) -> None:
        """Link the threads of a turn's agents to the turn."""
        before = len(self._threads)
        for child_id in turn.reducer.children:
            child = self.thread(child_id)
            if child is not turn.thread:
                self.adopt(child, turn)
        self.unknown.grow(turn.thread.id, THREAD_BYTES * (len(self._threads) - before))

    def adopt(self, child: ThreadState, turn: TurnState) -> None:
        """Link the thread of an agent to a turn, unless another turn spawned it."""
        parent = child.parent
        # If the parent's thread was closed while a turn was left running on it, and opened again, it has a new state.
        if parent is None or (parent.thread.id == turn.thread.id and parent.thread is not turn.thread):
            child.parent = turn

    def was_left(self, turn_id: str) -> bool:
        """Return whether this client left a turn with this id early, or interrupted it."""
        return turn_id in self._left_turn_ids

    def open_root(self, root_id: str) -> TurnState | None:
        """Return the open turn of this client with this id, if there is one."""
        roots = (root.turn for root in self._threads.values() if root.turn is not None and root.turn.owned)
        return next((root for root in roots if root_id in root.machine.ids()), None)

    def knows_root(self, root_id: str) -> bool:
        """Return whether this is the id of an open or recently left turn of this client."""
        return root_id in self._left_turn_ids or self.open_root(root_id) is not None


class UnknownThreads:
    """Threads that were not opened here but have open turns. The oldest are discarded above the limit."""

    def __init__(self, threads: dict[str, ThreadState]) -> None:
        self._threads = threads
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0

    def add(self, thread_id: str, turn_id: str) -> None:
        """Record that a turn of such a thread has started."""
        self._sizes[thread_id] = 0
        self.grow(thread_id, THREAD_BYTES + len(thread_id) + len(turn_id))

    def grow(self, thread_id: str, size: int) -> None:
        """Record that the state of a thread has grown; ignored for a thread that this client has opened."""
        if thread_id not in self._sizes:
            return
        self._sizes[thread_id] += size
        self._bytes += size
        while self._bytes > UNKNOWN_BYTES:
            self._forget(next(iter(self._sizes)))

    def discard(self, thread_id: str) -> None:
        """Record that a thread is now open or that its turn has ended."""
        self._bytes -= self._sizes.pop(thread_id, 0)

    def _forget(self, thread_id: str) -> None:
        self.discard(thread_id)
        state = self._threads.get(thread_id)
        # Keep a thread while a callback is handling one of its requests.
        if state is not None and not state.held_requests:
            del self._threads[thread_id]
            if (turn := state.turn) is not None:
                turn.lose("this client has not opened its thread")
                for child_id in turn.reducer.children:
                    self._release(child_id, turn)

    def _release(self, child_id: str, parent: TurnState) -> None:
        """Count the thread of an agent by itself, because the turn that spawned it is forgotten."""
        child = self._threads.get(child_id)
        if child is not None and child.parent is parent:
            child.parent = None
            if not (child.handles or child.pending):
                self._sizes[child_id] = THREAD_BYTES
                self._bytes += THREAD_BYTES
