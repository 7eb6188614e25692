"""A policy that queues requests until the application answers them. It owns the open requests and their delivery."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from trio_codex._core.arguments import described
from trio_codex.errors import RequestAnswered, RequestWithdrawn
from trio_codex.policies._decisions import Accept, AnyDecision, Cancel, Decline
from trio_codex.policies._policy import FITTING, Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_codex import wire
    from trio_codex.policies._requests import Request

FOR_PEOPLE: Final = ("command", "file_change", "permissions", "user_input", "elicitation")
"""The kinds of request that a person can answer. The other kinds need a program."""


class Pending:
    """A request that is waiting for an answer. Any task may answer it, and requests may be answered in any order.

    An :class:`Inbox` creates these objects; do not create them yourself.

    Attributes:
        kind: The kind of request: the name of the policy's callback.
        request: The request, as a callback receives it.
        asked_at: Trio time at which the request arrived.
    """

    def __init__(self, kind: str, request: Request) -> None:
        self.kind: Final = kind
        self.request: Final = request
        self.asked_at: Final = trio.current_time()
        self._decision: AnyDecision | None = None
        self._answered = trio.Event()
        self._settled = trio.Event()
        self._withdrawn = False

    def __repr__(self) -> str:
        state = "withdrawn" if self._withdrawn else "waiting" if self._decision is None else "answered"
        return f"<Pending {self.kind}: {state}>"

    @property
    def withdrawn(self) -> bool:
        """Whether the request was withdrawn before it was answered."""
        return self._withdrawn

    @property
    def decision(self) -> AnyDecision | None:
        """The decision; ``None`` while the request is waiting, or if it was withdrawn."""
        return None if self._withdrawn else self._decision

    async def wait_settled(self) -> None:
        """Wait until the request is answered or withdrawn. A checkpoint."""
        await self._settled.wait()

    async def accept(
        self,
        scope: Literal["once", "session", "always"] = "once",
        *,
        exec_policy: Iterable[str] | None = None,
        content: Mapping[str, wire.JSON] | None = None,
    ) -> None:
        """Allow the request, as :func:`accept` does. Raises the same exceptions as :meth:`answer`."""
        await self.answer(Accept(scope, exec_policy=exec_policy, content=content))

    async def decline(self, reason: str | None = None) -> None:
        """Refuse the request; the turn continues. Raises the same exceptions as :meth:`answer`."""
        await self.answer(Decline(reason))

    async def cancel(self) -> None:
        """Refuse the request and interrupt its turn. Raises the same exceptions as :meth:`answer`."""
        await self.answer(Cancel())

    async def answer(self, decision: AnyDecision) -> None:
        """Answer the request with a decision. :func:`abstain` leaves the request to the next policy.

        A checkpoint. If this is cancelled, the request is not answered. If this returns, the request was still open when
        the decision was made.

        Raises:
            TypeError: The decision does not fit this kind of request, which can still be answered.
            RequestWithdrawn: The request was withdrawn first, so the decision has no effect.
            RequestAnswered: The request was already answered.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not isinstance(decision, FITTING[self.kind]):
            raise TypeError(f"cannot answer a {self.kind} request with {described(decision)}")
        if self._withdrawn:
            raise self._error(RequestWithdrawn)
        if self._decision is not None:
            raise self._error(RequestAnswered)
        self._decision = decision
        self._answered.set()
        # The callback is now awake, because of this event or because it was cancelled. Wait until it reports which.
        with trio.CancelScope(shield=True):
            await self._settled.wait()
        if self._withdrawn:
            raise self._error(RequestWithdrawn)

    def _error(self, error: type[RequestWithdrawn | RequestAnswered]) -> RequestWithdrawn | RequestAnswered:
        thread_id: str | None = getattr(self.request, "thread_id", None)
        turn_id: str | None = getattr(self.request, "turn_id", None)
        return error(self.kind, thread_id, turn_id)

    async def wait_decision(self) -> AnyDecision:
        """Wait for the decision. Called only by the inbox's callback; its cancellation counts as a withdrawal."""
        taken = False
        try:
            await self._answered.wait()
            # The callback may be cancelled after the answer woke it and before it runs; the answer is then not sent.
            await trio.lowlevel.checkpoint_if_cancelled()
            taken = True
        finally:
            self._withdrawn = not taken
            self._settled.set()
        assert self._decision is not None
        return self._decision


class _InboxState:
    """The state of an inbox. A separate object, so that the callbacks hold no reference to the inbox."""

    def __init__(self) -> None:
        self.open: dict[Pending, None] = {}
        self.undelivered: dict[Pending, None] = {}
        self.consumers = trio.lowlevel.ParkingLot()

    async def ask(self, kind: str, request: Any) -> AnyDecision:
        pending = Pending(kind, request)
        self.open[pending] = self.undelivered[pending] = None
        self.consumers.unpark()
        try:
            return await pending.wait_decision()
        finally:
            del self.open[pending]
            self.undelivered.pop(pending, None)


class Inbox(Policy):
    """A policy that queues requests until the application answers them. It has no timeout.

    Pass it like any other policy, and iterate over it in the task that answers::

        inbox = Inbox()
        async with open_codex(policy=inbox) as codex, trio.open_nursery() as nursery:
            nursery.start_soon(show_requests, inbox)  # async for pending in inbox: ...

    The iteration yields each :class:`Pending` request once, in order of arrival. Several tasks may iterate at the same
    time; each request goes to one of them. The iteration never ends on its own: use ``break`` or cancel it. Requests that
    were not delivered then stay in the queue for the next iteration. A request that is withdrawn before delivery is
    skipped; one that is withdrawn later has :attr:`Pending.withdrawn` set.

    Requests may be left unanswered: the end of a turn withdraws its open requests. Use :func:`with_timeout` to set a
    timeout.

    Args:
        kinds: The kinds of request to queue, by the names of the callbacks; by default those that a person can answer.
            All other kinds are left to the next policy.
        name: The policy's name in audit records.

    Raises:
        ValueError: A kind does not exist.
    """

    __slots__ = ("_state",)
    _state: _InboxState

    def __init__(self, *, kinds: Iterable[str] = FOR_PEOPLE, name: str = "inbox") -> None:
        state = _InboxState()
        wanted = tuple(kinds)
        if unknown := set(wanted).difference(FITTING):
            raise ValueError(
                f"Inbox: unknown kinds of request: {', '.join(sorted(unknown))}; known are {', '.join(FITTING)}"
            )
        callbacks: dict[str, Any] = {kind: functools.partial(state.ask, kind) for kind in wanted}
        super().__init__(name=name, **callbacks)
        object.__setattr__(self, "_state", state)

    def __repr__(self) -> str:
        return f"<Inbox {self.name!r}: {len(self._state.open)} pending>"

    @property
    def pending(self) -> tuple[Pending, ...]:
        """The open requests, delivered or not, in order of arrival."""
        return tuple(self._state.open)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Pending:
        """Wait for the next undelivered request. A checkpoint; cancellation loses no request."""
        await trio.lowlevel.checkpoint()
        state = self._state
        while not state.undelivered:
            await state.consumers.park()
        pending = next(iter(state.undelivered))
        del state.undelivered[pending]
        return pending
