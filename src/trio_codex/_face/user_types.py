"""The classes that contain user functions: policies, tools and the inbox."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from trio_codex import policies, tools
from trio_codex._core.user_code import BRIDGE
from trio_codex._face.callbacks import as_async
from trio_codex._face.host import HOSTLESS
from trio_codex.errors import FaceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_codex._face.face import Face
    from trio_codex._face.host import Host
    from trio_codex._face.operations import Operation


class Policy(policies.Policy):
    """A policy whose callbacks need no Trio."""

    __doc__ = policies.Policy.__doc__

    def __init__(self, *, name: str | None = None, **callbacks: Any) -> None:
        super().__init__(name=name, **{kind: as_async(each) for kind, each in callbacks.items()})


class PlainTool(tools.Tool[Any, Any]):
    """A tool created from a plain function. Calling the tool calls the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function = self.function
        if (owner := getattr(function, "__self__", None)) is not None:
            args = (owner, *args)
        return getattr(function, "__wrapped__", function)(*args, **kwargs)


@functools.wraps(tools.tool)
def tool(function: Any = None, /, **options: Any) -> Any:
    def decorate(function: Callable[..., Any]) -> Any:
        crossing = as_async(function)
        made = tools.tool(crossing, **options)
        if crossing is function:
            return made
        return PlainTool(**{field.name: getattr(made, field.name) for field in attrs.fields(tools.Tool)})

    return decorate if function is None else decorate(function)


class Inbox(policies.Policy):
    """The base of the inboxes: a Trio inbox, and its client, which is known only after the first request.

    Attributes:
        face_target: The Trio inbox.
        face_host: The host of the client; ``None`` before the first request.
        face_unread: As in :class:`Proxy`.
    """

    _face: ClassVar[Face]
    face_target: policies.Inbox
    face_host: Host | None
    face_unread: list[Any]
    _waiting: set[Operation]

    def __init__(self, **options: Any) -> None:
        inbox = policies.Inbox(**options)
        kinds = (field.name for field in attrs.fields(policies.Policy) if field.name != "name")
        callbacks = {kind: each for kind in kinds if (each := getattr(inbox, kind)) is not None}
        super().__init__(
            name=inbox.name,
            **{kind: functools.partial(self._ask, each) for kind, each in callbacks.items()},
        )
        # The class is frozen.
        self.__dict__.update(face_target=inbox, face_host=None, face_unread=[], _waiting=set())

    def __repr__(self) -> str:
        return repr(self.face_target)

    async def _ask(self, ask: Callable[[Any], Any], request: object) -> Any:
        host = getattr(BRIDGE.get(), "host", None)
        if self.face_host not in (None, host):
            raise FaceError("an inbox belongs to one client: create another one for this client")
        self.__dict__["face_host"] = host
        for first in tuple(self._waiting):
            first.finish()
        return await ask(request)

    async def face_bound(self) -> None:  # noqa: ASYNC910, ASYNC911  # runs outside Trio
        """Wait for the first request, or for the end of the last client."""
        first = self._face.operation()
        self._waiting.add(first)
        HOSTLESS.add(first)
        try:
            if self.face_host is None and (interruption := await first.wait(first.finish)) is not None:
                raise interruption
        finally:
            self._waiting.discard(first)
            HOSTLESS.discard(first)
        if first.error is not None:
            raise first.error

    @property
    def pending(self) -> tuple[Any, ...]:
        """The open requests, delivered or not, in order of arrival."""
        host = self.face_host
        return () if host is None else self._face.sync(host, getattr, (self.face_target, "pending"), {})


@functools.cache
def inbox_class(face: Face) -> type[Inbox]:
    """Return the inbox of a face."""
    members = {**face.members["__aiter__"], "_face": face, "__doc__": policies.Inbox.__doc__}
    return type("Inbox", (Inbox,), {**members, "__module__": f"{face.name}.policies"})
