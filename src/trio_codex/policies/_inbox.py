"""A policy that keeps requests until somebody answers them: owns what is open, and who has been told of it."""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from trio_codex.errors import RequestAnswered, RequestWithdrawn
from trio_codex.policies._decisions import (
    Accept,
    AnyDecision,
    AttestationDecision,
    AuthRefreshDecision,
    Cancel,
    CommandDecision,
    CurrentTimeDecision,
    Decision,
    Decline,
    ElicitationDecision,
    PermissionsDecision,
    ToolCallDecision,
    UserInputDecision,
)
from trio_codex.policies._policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_codex import wire
    from trio_codex.policies._requests import Request

FOR_PEOPLE: Final = ("command", "file_change", "permissions", "user_input", "elicitation")
"""What somebody may be asked. The other kinds are for programs."""

_FITTING: Final[Mapping[str, Any]] = types.MappingProxyType(
    {
        "command": CommandDecision,
        "file_change": Decision,
        "permissions": PermissionsDecision,
        "user_input": UserInputDecision,
        "elicitation": ElicitationDecision,
        "tool_call": ToolCallDecision,
        "auth_refresh": AuthRefreshDecision,
        "attestation": AttestationDecision,
        "current_time": CurrentTimeDecision,
    }
)


class Pending:
    """A request that waits for an answer, from any task and in any order.

    Do not make one; an :class:`Inbox` gives them.

    Attributes:
        kind: The kind of request, by the name of the policy's callback.
        request: What is asked.
        asked_at: When, on Trio's clock.
    """

    def __init__(self, kind: str, request: Request) -> None:
        self.kind: Final = kind
        self.request: Final = request
        self.asked_at: Final = trio.current_time()
        self._decision: AnyDecision | None = None
        self._given = trio.Event()
        self._settled = trio.Event()
        self._withdrawn = False

    def __repr__(self) -> str:
        state = "withdrawn" if self._withdrawn else "waits" if self._decision is None else "answered"
        return f"<Pending {self.kind}: {state}>"

    @property
    def withdrawn(self) -> bool:
        """Whether nobody waits for an answer any more, without having been given one."""
        return self._withdrawn

    @property
    def decision(self) -> AnyDecision | None:
        """What was answered; ``None`` so far, or if it was withdrawn."""
        return None if self._withdrawn else self._decision

    async def wait_settled(self) -> None:
        """Wait until it is answered or withdrawn. A checkpoint."""
        await self._settled.wait()

    async def accept(
        self,
        scope: Literal["once", "session", "always"] = "once",
        *,
        exec_policy: Iterable[str] | None = None,
        content: Mapping[str, wire.JSON] | None = None,
    ) -> None:
        """Let it happen, as :func:`accept` says. Raises what :meth:`answer` raises."""
        await self.answer(Accept(scope, exec_policy=exec_policy, content=content))

    async def decline(self, reason: str | None = None) -> None:
        """Refuse; the turn goes on. Raises what :meth:`answer` raises."""
        await self.answer(Decline(reason))

    async def cancel(self) -> None:
        """Refuse and interrupt the turn that asks. Raises what :meth:`answer` raises."""
        await self.answer(Cancel())

    async def answer(self, decision: AnyDecision) -> None:
        """Answer with a decision. :func:`abstain` leaves it to the next policy out.

        A checkpoint; if it is cancelled there, nothing has been answered. Once it returns, the decision was taken while the
        request was still open.

        Raises:
            TypeError: The decision does not fit this kind of request. It can still be answered.
            RequestWithdrawn: The request was withdrawn first: the decision counts for nothing.
            RequestAnswered: Somebody was faster.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not isinstance(decision, _FITTING[self.kind]):
            raise TypeError(f"{type(decision).__name__} is no decision on a {self.kind} request")
        if self._withdrawn:
            raise self._error(RequestWithdrawn)
        if self._decision is not None:
            raise self._error(RequestAnswered)
        self._decision = decision
        self._given.set()
        # The callback has been woken by that, or by its cancellation; which of them it was is known when it has run.
        with trio.CancelScope(shield=True):
            await self._settled.wait()
        if self._withdrawn:
            raise self._error(RequestWithdrawn)

    def _error(self, error: type[RequestWithdrawn | RequestAnswered]) -> RequestWithdrawn | RequestAnswered:
        thread_id: str | None = getattr(self.request, "thread_id", None)
        turn_id: str | None = getattr(self.request, "turn_id", None)
        return error(self.kind, thread_id, turn_id)

    async def wait_decision(self) -> AnyDecision:
        """Wait for the decision, in the callback of the inbox alone: if this is cancelled, the request is withdrawn."""
        taken = False
        try:
            await self._given.wait()
            # Woken by the answer, and cancelled before it ran: then the answer goes nowhere.
            await trio.lowlevel.checkpoint_if_cancelled()
            taken = True
        finally:
            self._withdrawn = not taken
            self._settled.set()
        assert self._decision is not None
        return self._decision


class _Box:
    """What an inbox holds. Apart from it, so that its callbacks do not hold the inbox."""

    def __init__(self) -> None:
        self.open: dict[Pending, None] = {}
        self.untold: dict[Pending, None] = {}
        self.consumers = trio.lowlevel.ParkingLot()

    async def ask(self, kind: str, request: Any) -> AnyDecision:
        pending = Pending(kind, request)
        self.open[pending] = self.untold[pending] = None
        self.consumers.unpark()
        try:
            return await pending.wait_decision()
        finally:
            del self.open[pending]
            self.untold.pop(pending, None)


class Inbox(Policy):
    """A policy that keeps requests until somebody answers them, for as long as that takes.

    It is used like any other policy, and iterated over by whoever answers::

        inbox = Inbox()
        async with open_codex(policy=inbox) as codex, trio.open_nursery() as nursery:
            nursery.start_soon(show_requests, inbox)  # async for pending in inbox: ...

    The iteration gives each :class:`Pending` request once, in the order in which they came; several tasks may iterate at
    the same time, and share them. It never ends by itself: leave it by ``break``, or by cancelling it. Nothing is lost by
    that: what nobody has been given yet stays for the next. A request that is withdrawn before it was given to anybody is
    left out; one that is withdrawn later says so.

    Nothing has to be answered: what is open when its turn ends is withdrawn with it. A deadline is given by
    :func:`with_timeout`.

    Args:
        kinds: The kinds of requests to keep, by the names of the callbacks; by default those that people can answer. The
            others are left to the next policy out.
        name: By which the audit calls it.

    Raises:
        ValueError: There is no such kind.
    """

    __slots__ = ("_box",)
    _box: _Box

    def __init__(self, *, kinds: Iterable[str] = FOR_PEOPLE, name: str = "inbox") -> None:
        box = _Box()
        wanted = tuple(kinds)
        if unknown := set(wanted).difference(_FITTING):
            raise ValueError(f"there are no such kinds of requests: {', '.join(sorted(unknown))}")
        callbacks: dict[str, Any] = {kind: functools.partial(box.ask, kind) for kind in wanted}
        super().__init__(name=name, **callbacks)
        object.__setattr__(self, "_box", box)

    def __repr__(self) -> str:
        return f"<Inbox {self.name!r}: {len(self._box.open)} pending>"

    @property
    def pending(self) -> tuple[Pending, ...]:
        """What is open now, given out already or not, in the order in which it was asked."""
        return tuple(self._box.open)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Pending:
        """Wait for the next request that nobody was given. A checkpoint; if cancelled, nothing was taken."""
        await trio.lowlevel.checkpoint()
        box = self._box
        while not box.untold:
            await box.consumers.park()
        pending = next(iter(box.untold))
        del box.untold[pending]
        return pending
