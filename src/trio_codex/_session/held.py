"""State kept for threads that are not open: messages for threads being opened, and turns of threads not opened here.

The server may send notifications and requests about a thread before it answers the request that opens the thread, and
only that response may contain what a request refers to. A new thread has no id before its response, so while one is
being started or forked, messages about every unknown thread are held. All of it is bounded in bytes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from trio_codex._core.rpc import ServerRequest
from trio_codex._session.snapshot import take_snapshot
from trio_codex._values.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_codex._session.router import Router
    from trio_codex._session.snapshot import PendingHandle
    from trio_codex._session.turn_state import ThreadState
    from trio_codex._values.event import Route

Message: TypeAlias = Event | ServerRequest

HELD_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of held messages: what a busy turn writes in a few seconds. ClientLifecycle a thread takes milliseconds."""

MESSAGE_BYTES: Final = 200
"""Size of a held message, in addition to its parameters."""

UNKNOWN_BYTES: Final = 1024 * 1024
"""Maximum size of state kept for threads not opened here: about 400 open turns."""

THREAD_BYTES: Final = 2400
"""Size of the state of a thread with an open turn, in addition to its ids and items."""


class Openings:
    """Handles whose requests are in flight, and messages held until the responses arrive.

    Args:
        router: Keeps the threads.
        deliver: Handles a message as if it had just arrived. The reader calls it for the oldest messages above the
            limit.
    """

    def __init__(self, router: Router, deliver: Callable[[Message], object]) -> None:
        self._router = router
        self._deliver = deliver
        self._named: dict[str, int] = {}
        self._unnamed = 0
        self._messages: deque[tuple[str, Message, int]] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._named) or self._unnamed > 0

    def expect(self, pending: PendingHandle) -> None:
        """Register a handle whose request is about to be written, and hold messages about its thread."""
        thread_id = pending.thread_id
        if thread_id is None:
            self._unnamed += 1
            return
        self._router.thread(thread_id).expect(pending)
        if pending.holds:
            self._named[thread_id] = self._named.get(thread_id, 0) + 1

    def admit(
        self, pending: PendingHandle, handle: object, thread_id: str, cwd: str | None, newest: dict[str, Any]
    ) -> ThreadState:
        """Register a handle that the server has opened, and deliver the messages held for it.

        Args:
            pending: The pending handle that it replaces.
            handle: The handle.
            thread_id: The id of its thread.
            cwd: The working directory of the thread.
            newest: The newest turn of the thread, as plain JSON; empty if there is none.
        """
        state = self._router.thread(thread_id)
        state.admit(pending, handle, cwd)
        take_snapshot(state, newest, self._router.instruments, was_deaf=pending.holds)
        self.dismiss(pending, thread_id)
        return state

    def dismiss(self, pending: PendingHandle, opened: str | None = None) -> None:
        """Undo :meth:`expect`, and deliver messages that no longer need to be held. Idempotent.

        Args:
            pending: The handle.
            opened: The id of its thread, if the server has opened it.
        """
        thread_id = pending.thread_id
        if thread_id is not None and (state := self._router.find(thread_id)) is not None:
            state.dismiss(pending)
        if pending.holds:
            pending.holds = False
            if thread_id is None:
                self._unnamed -= 1
            else:
                self._named[thread_id] -= 1
                if not self._named[thread_id]:
                    del self._named[thread_id]
            self._release(opened)
        if thread_id is not None and (state := self._router.find(thread_id)) is not None:
            self._router.discard_if_unused(state)

    def hold(self, thread_id: str, message: Message, where: Route | None = None) -> bool:
        """Hold a message if its thread is being opened. Return whether it is held. Called by the reader."""
        if thread_id not in self._named:
            if not self._unnamed or self._router.find(thread_id) is not None:
                return False
            # An agent's thread is never one that is being opened, and the turn that spawned it must not be delayed.
            root_id = None if where is None else where.root_turn_id
            if (
                where is not None
                and root_id not in (None, where.turn_id)
                and self._router.knows_root(root_id)
            ):
                return False
        params = message.json if isinstance(message, Event) else message.params
        self._keep(thread_id, message, MESSAGE_BYTES + (0 if params is None else len(params)))
        while self._bytes > HELD_BYTES:
            _, oldest, size = self._messages.popleft()
            self._bytes -= size
            self._deliver(oldest)
        return True

    def clear(self) -> None:
        """Discard held messages, because the connection has ended."""
        self._messages.clear()
        self._bytes = 0

    def _keep(self, thread_id: str, message: Message, size: int) -> None:
        self._messages.append((thread_id, message, size))
        self._bytes += size

    def _release(self, opened: str | None) -> None:
        messages, self._messages, self._bytes = self._messages, deque(), 0
        for thread_id, message, size in messages:
            if thread_id != opened and (self._unnamed or thread_id in self._named):
                self._keep(thread_id, message, size)
            else:
                self._deliver(message)
        self._router.wake()


class UnknownThreads:
    """Threads with open turns that were not opened here. The oldest are discarded above the limit.

    Args:
        threads: The table of threads.
    """

    def __init__(self, threads: dict[str, ThreadState]) -> None:
        self._threads = threads
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0

    def add(self, thread_id: str, turn_id: str) -> None:
        """Record that a turn of such a thread has started."""
        self._sizes[thread_id] = 0
        self.grow(thread_id, THREAD_BYTES + len(thread_id) + len(turn_id))

    def grow(self, thread_id: str, size: int) -> None:
        """Record that the state of a thread has grown, if it is one of these."""
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
        # Keep a turn while one of its requests is with a callback.
        if state is not None and not state.held_requests:
            del self._threads[thread_id]
            if state.turn is not None:
                state.turn.lose("nobody here has opened its thread")
