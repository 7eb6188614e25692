"""Messages about threads that are being opened, held until the responses arrive.

The server may send notifications and requests about a thread before the response that opens it, and they may refer to
something in that response. The id of a new thread is only in the response, so while a thread is being started or forked,
messages about all unknown threads are held. Their total size is bounded.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from trio_codex._core.rpc import ServerRequest
from trio_codex._session.snapshot import take_snapshot
from trio_codex._values.event import Event

if TYPE_CHECKING:
    from trio_codex._link.hooks import Instruments
    from trio_codex._session.pending import PendingHandle
    from trio_codex._session.state import ThreadState
    from trio_codex._session.threads import Threads
    from trio_codex._values.event import Route

Message: TypeAlias = Event | ServerRequest

HELD_BYTES: Final = 4 * 1024 * 1024
"""Maximum total size of held messages. A busy turn takes seconds to send that much; opening a thread, milliseconds."""

MESSAGE_BYTES: Final = 200
"""Size of a held message, in addition to its parameters."""


class Openings:
    """Handles whose requests are in flight, and messages held until the responses arrive."""

    def __init__(self, threads: Threads, instruments: Instruments) -> None:
        self._threads = threads
        self._instruments = instruments
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
        self._threads.thread(thread_id).expect(pending)
        if pending.holds:
            self._named[thread_id] = self._named.get(thread_id, 0) + 1

    def admit(
        self, pending: PendingHandle, handle: object, thread_id: str, cwd: str | None, newest: dict[str, Any]
    ) -> ThreadState:
        """Register a handle that the server has opened. It replaces the pending one.

        ``newest`` is the newest turn of the thread, as plain JSON; empty if there is none.
        """
        state = self._threads.thread(thread_id)
        state.admit(pending, handle, cwd)
        take_snapshot(state, newest, self._instruments, was_unsubscribed=pending.holds)
        return state

    def dismiss(self, pending: PendingHandle, opened: str | None = None) -> list[Message]:
        """Undo :meth:`expect`; return the messages that no longer need to be held. Idempotent.

        ``opened`` is the id of its thread, if the server has opened it.
        """
        thread_id = pending.thread_id
        if thread_id is not None and (state := self._threads.find(thread_id)) is not None:
            state.dismiss(pending)
        if not pending.holds:
            return []
        pending.holds = False
        if thread_id is None:
            self._unnamed -= 1
        else:
            self._named[thread_id] -= 1
            if not self._named[thread_id]:
                del self._named[thread_id]
        return self._release(opened)

    def hold(self, thread_id: str, message: Message, where: Route | None = None) -> list[Message] | None:
        """Hold a message if its thread is being opened. Called by the reader.

        Returns:
            The oldest messages above the limit, to be delivered now; ``None`` if this one is not held.
        """
        if thread_id not in self._named:
            if not self._unnamed or self._threads.find(thread_id) is not None:
                return None
            # An agent's thread is not being opened, and holding its messages would delay the turn that spawned it.
            root_id = None if where is None else where.root_turn_id
            if (
                where is not None
                and root_id not in (None, where.turn_id)
                and self._threads.knows_root(root_id)
            ):
                return None
        params = message.json if isinstance(message, Event) else message.params
        self._keep(thread_id, message, MESSAGE_BYTES + (0 if params is None else len(params)))
        too_old: list[Message] = []
        while self._bytes > HELD_BYTES:
            _, oldest, size = self._messages.popleft()
            self._bytes -= size
            too_old.append(oldest)
        return too_old

    def clear(self) -> None:
        """Discard held messages, because the connection has ended."""
        self._messages.clear()
        self._bytes = 0

    def _keep(self, thread_id: str, message: Message, size: int) -> None:
        self._messages.append((thread_id, message, size))
        self._bytes += size

    def _release(self, opened: str | None) -> list[Message]:
        messages, self._messages, self._bytes = self._messages, deque(), 0
        released: list[Message] = []
        for thread_id, message, size in messages:
            if thread_id != opened and (self._unnamed or thread_id in self._named):
                self._keep(thread_id, message, size)
            else:
                released.append(message)
        return released
