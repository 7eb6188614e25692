"""Proxies: the classes and functions of the Trio API as one face presents them, derived from the API itself.

A *handle* is an object that lives in the Trio thread, such as a thread or a turn. A face wraps each handle that the API
returns in a proxy. All other values are passed on unchanged.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import GenericAlias, MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_codex._face.host import Host

PACKAGE: Final = "trio_codex"

CHUNK: Final = 256
"""The maximum number of elements fetched at once. They leave the bounded buffer, so this must be limited."""


class Presenter:
    """The part of a :class:`~trio_codex._face.face.Face` that proxies use.

    Attributes:
        name: The name of its module.
        scope: Its class of scopes.
        aliases: Additional names of methods.
        members: The members of a proxy that replace ``__aiter__`` and ``__aenter__`` of its handle.
    """

    name: str
    scope: Any
    members: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def call(self, host: Host, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run an async function in Trio, and return its result as the face presents it."""
        raise NotImplementedError

    def sync(self, host: Host, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a synchronous function in the Trio thread, and block until it returns."""
        raise NotImplementedError

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the counterpart of an async function that needs no client."""
        raise NotImplementedError


class Proxy:
    """Base class of all proxies.

    Attributes:
        face_target: The handle in the Trio thread.
        face_host: Its host.
        face_unread: Fetched elements of an iteration that have not been returned yet, in reverse order.
        face_scopes: The scopes that were entered with this proxy.
    """

    _face: ClassVar[Presenter]
    __class_getitem__: ClassVar[Any] = classmethod(cast("Any", GenericAlias))
    __slots__ = ("__weakref__", "face_host", "face_scopes", "face_target", "face_unread")

    def __init__(self, host: Host, target: Any) -> None:
        self.face_host = host
        self.face_target = target
        self.face_unread: list[Any] = []
        self.face_scopes: list[Any] = []

    def __repr__(self) -> str:
        return repr(self.face_target)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proxy) and other.face_target is self.face_target

    def __hash__(self) -> int:
        return hash(id(self.face_target))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return wrap(self._face, self.face_host, getattr(self.face_target, name))

    def __dir__(self) -> list[str]:
        own = (name for name in dir(self.face_target) if not name.startswith("_"))
        return sorted({*own, *object.__dir__(self)})

    async def face_bound(self) -> None:  # noqa: ASYNC910  # does not wait
        """Wait until the host is known, which is always the case here."""

    def face_return_unread(self) -> None:
        """Put unread elements back into the buffer, because others read from it, too."""
        source = iterator_of(self.face_target) if self.face_unread else None
        if (put_back := getattr(source, "put_back", None)) is not None:
            self.face_host.post(put_back, self.face_unread[::-1])
            self.face_unread = []


def iterator_of(target: Any) -> Any:
    """Return the async iterator of a handle."""
    return target if (aiter_ := getattr(target, "__aiter__", None)) is None else aiter_()


async def take_some(target: Any) -> list[Any]:
    """Return the next element of an iteration and buffered ones after it, in reverse order."""
    source = iterator_of(target)
    try:
        taken = [await source.__anext__()]
    except StopAsyncIteration:
        return []  # noqa: ASYNC910  # the iterator's own checkpoint
    if (take := getattr(source, "take_buffered", None)) is not None:
        taken += take(CHUNK)
        taken.reverse()
    return taken


@functools.cache
def is_handle(cls: Any) -> bool:
    """Return whether objects of a class live in the Trio thread, because they or objects they hold have async members."""
    if (
        cls.__module__.partition(".")[0] != PACKAGE
        or issubclass(cls, BaseException)
        or issubclass(cls, Proxy)
    ):
        return False
    members = [inspect.getattr_static(cls, name) for name in dir(cls)]
    if hasattr(cls, "__aiter__") or any(map(inspect.iscoroutinefunction, members)):
        return True
    properties = (member.func for member in members if isinstance(member, functools.cached_property))
    held: list[object] = [each.__annotations__.get("return") for each in properties]
    held += inspect.get_annotations(cls).values()
    types = (vars(sys.modules[cls.__module__]).get(str(each)) for each in held)
    return any(isinstance(each, type) and each is not cls and is_handle(each) for each in types)


def wrap(face: Presenter, host: Host, value: Any) -> Any:
    """Return a value of the Trio API as a face presents it."""
    cls: Any = value.__class__
    if is_handle(cls):
        return proxy_class(face, cls)(host, value)
    if isinstance(value, AbstractAsyncContextManager):
        scope = cast("AbstractAsyncContextManager[Any]", value)
        return face.scope(lambda: scope, host)
    if isinstance(value, tuple):
        members = [wrap(face, host, each) for each in cast("Any", value)]
        return cls(*members) if hasattr(cls, "_fields") else tuple(members)
    return value


def unwrap(value: Any) -> Any:
    """Return an argument as the Trio API expects it."""
    return value.face_target if isinstance(value, Proxy) else value


def _unwrapped(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(unwrap, args)), {name: unwrap(value) for name, value in kwargs.items()}


@functools.cache
def proxy_class(face: Presenter, cls: type) -> type[Proxy]:
    """Return the proxy class for a class of handles."""
    members: dict[str, Any] = {"__slots__": (), "_face": face, "__doc__": cls.__doc__}
    members |= {"__module__": face.name, "__qualname__": cls.__name__}
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        if name in face.members:
            members |= face.members[name]
        elif not name.startswith("_"):
            made = _property(face, name, member) or _method(face, name, member)
            members |= dict.fromkeys((name, *face.aliases.get(name, ())), made)
    return type(cls.__name__, (Proxy,), {name: value for name, value in members.items() if value is not None})


def _property(face: Presenter, name: str, member: Any) -> property | None:
    if not isinstance(member, property | functools.cached_property):
        return None

    def read(self: Proxy) -> Any:
        return face.sync(self.face_host, getattr, (self.face_target, name), {})

    return property(read, doc=member.__doc__)


def _method(face: Presenter, name: str, member: Any) -> Any:
    if not inspect.isfunction(member):
        return None
    run = face.call if inspect.iscoroutinefunction(member) else face.sync

    @functools.wraps(member)
    def call(self: Proxy, *args: Any, **kwargs: Any) -> Any:
        host = self.face_host
        if name == "aclose" and host.close is not None and self.face_target is host.value:
            return host.close()
        self.face_return_unread()
        return run(host, getattr(self.face_target, name), *_unwrapped(args, kwargs))

    return call


class Surface:
    """The names of a module of the Trio API, as a face presents them: the module's ``__getattr__`` and ``__dir__``.

    Args:
        face: The face.
        module: The module.
        own: Names that differ: a value, the name of the face's submodule with the value, or ``None`` if the face
            lacks it.
    """

    def __init__(self, face: Presenter, module: Any, own: Mapping[str, Any]) -> None:
        self._face = face
        self._module = module
        self._own = own

    def names(self) -> list[str]:
        """Return all names."""
        return sorted(
            name for name in {*dir(self._module), *self._own} if not name.startswith("_") and self._has(name)
        )

    def _has(self, name: str) -> bool:
        return self._own.get(name, name) is not None and (name in self._own or hasattr(self._module, name))

    def find(self, name: str) -> Any:
        """Return what a name stands for.

        Raises:
            AttributeError: The face has no such name.
        """
        if name.startswith("_") or not self._has(name):
            raise AttributeError(f"module {self._face.name!r} has no attribute {name!r}")
        own = self._own.get(name)
        if isinstance(own, str):
            module = importlib.import_module(f"{self._face.name}.{own or name}")
            return getattr(module, name) if own else module
        return present(self._face, getattr(self._module, name)) if own is None else own


def package_surface(face: Presenter, package: Any, own: Mapping[str, Any] = MappingProxyType({})) -> Surface:
    """Return the surface of a face's package. ``own`` lists the names that differ in this face only."""
    shared = {
        "connect_codex": None,
        "batch": "",
        "policies": "",
        "tools": "",
        "Policy": "policies",
        "tool": "tools",
        "Scope": face.scope,
        "from_trio": partial(present, face),
    }
    return Surface(face, package, {**shared, **own})


def present(face: Presenter, value: Any) -> Any:
    """Return a class or a function of the Trio API as a face presents it."""
    if isinstance(value, type):
        return proxy_class(face, value) if is_handle(value) else value
    if inspect.iscoroutinefunction(value):
        return face.function(value)
    if not (inspect.isfunction(value) and inspect.isasyncgenfunction(inspect.unwrap(value))):
        return value

    @functools.wraps(value)
    def open_scope(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _unwrapped(args, kwargs)
        return face.scope(lambda: value(*args, **kwargs), None)

    return open_scope
