"""Converts between raw JSON and values, and knows the type that each method carries.

cattrs does the conversion (:mod:`trio_codex.wire._converter`). None of its exceptions leaves this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from trio_codex.errors import DecodeError
from trio_codex.wire._converter import CONVERTER, explain, parse
from trio_codex.wire._lookup import look_up, name_of
from trio_codex.wire._registry import CLIENT_REQUESTS, NOTIFICATIONS, SERVER_REQUESTS
from trio_codex.wire._unknown import UnknownNotification, UnknownServerRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from trio_codex.wire._base import JSON, Wire
    from trio_codex.wire._flat import Text
    from trio_codex.wire._unions import Hook, Type

T = TypeVar("T")
HookT = TypeVar("HookT")


@overload
def decode(type_: type[T], data: JSON) -> T: ...
@overload
def decode(type_: object, data: JSON) -> object: ...
def decode(type_: object, data: JSON) -> object:
    """Convert raw JSON to a value.

    Args:
        type_: A class of the protocol, an alias such as ``wire.ThreadItem``, or a type made of those.
        data: Raw JSON, as returned by a JSON parser.

    Returns:
        The value.

    Raises:
        DecodeError: ``data`` does not match the type.
    """
    kind: Type = type_
    try:
        return CONVERTER.structure(data, kind)
    except Exception as error:
        name = kind.__name__ if isinstance(kind, type) else name_of(kind)
        raise _decode_error(name or "the value", kind, data, error) from None


def encode(value: object) -> JSON:
    """Convert a value to raw JSON.

    Args:
        value: A value of the protocol, an enum member, raw JSON, or lists, tuples and dictionaries of those.

    Returns:
        Raw JSON, as accepted by a JSON encoder.

    Raises:
        TypeError: A string was passed for a field that takes a list.
    """
    return CONVERTER.unstructure(value)


def _decode_error(what: str, type_: Type, data: JSON, error: Exception) -> DecodeError:
    path, problem = explain(type_, data, error)
    return DecodeError(what, path, problem)


# -- by method -----------------------------------------------------------------------------------------------------


class _HooksByMethod(dict[str, HookT]):
    """The hook of each method's payload. Types are imported and hooks generated on first use."""

    def __init__(self, types: Mapping[str, str], hook_for: Callable[[Type], HookT]) -> None:
        super().__init__()
        self.types = types
        self._hook_for = hook_for

    def __missing__(self, method: str) -> HookT:
        hook = self[method] = self._hook_for(self.type(method))
        return hook

    def type(self, method: str) -> Type:
        """Return the type of the payload. Raise ``KeyError`` if there is no such method."""
        return look_up(self.types[method])


_NOTIFICATIONS: Final[_HooksByMethod[Hook]] = _HooksByMethod(NOTIFICATIONS, CONVERTER.get_structure_hook)
_NOTIFICATION_LOADS: Final[_HooksByMethod[Callable[[Text], Any]]] = _HooksByMethod(
    NOTIFICATIONS, CONVERTER.get_loads_hook
)
_SERVER_REQUESTS: Final[_HooksByMethod[Hook]] = _HooksByMethod(
    {name: spec.params for name, spec in SERVER_REQUESTS.items()}, CONVERTER.get_structure_hook
)
_RESULTS: Final[_HooksByMethod[Hook]] = _HooksByMethod(
    {name: spec.result for name, spec in CLIENT_REQUESTS.items()}, CONVERTER.get_structure_hook
)
_PARAMS: Final = _HooksByMethod(
    {name: spec.params for name, spec in CLIENT_REQUESTS.items() if spec.params is not None},
    CONVERTER.get_unstructure_hook,
)


def decode_notification(method: str, params: JSON) -> Wire:
    """Convert the params of a notification. Never raises.

    Args:
        method: The method of the notification.
        params: Its params, as raw JSON.

    Returns:
        The value; an :class:`~trio_codex.wire.UnknownNotification` if the method is unknown or the params do not match
        its schema.
    """
    try:
        return _NOTIFICATIONS[method](params, None)  # type: ignore[no-any-return]
    except Exception as error:
        if method not in _NOTIFICATIONS.types:
            return UnknownNotification(method=method, raw=params)
        path, problem = explain(_NOTIFICATIONS.type(method), params, error)
        return UnknownNotification(method=method, raw=params, problem=f"{path}: {problem}")


def decode_notification_json(method: str, params: Text) -> Wire:
    """Convert the params of a notification from JSON text. Never raises.

    Args:
        method: The method of the notification.
        params: Its params, as JSON text.

    Returns:
        The value; an :class:`~trio_codex.wire.UnknownNotification` if the method is unknown, the params do not match its
        schema, or the text is not JSON.
    """
    try:
        # Most of the cost of reading an event is in this line.
        return _NOTIFICATION_LOADS[method](params)  # type: ignore[no-any-return]
    except Exception:
        try:
            parsed = parse(params)
        except Exception as error:
            problem = f"$: not JSON ({error.__class__.__name__})"
            return UnknownNotification(method=method, raw=None, problem=problem)
        return decode_notification(method, parsed)


def decode_server_request(method: str, params: JSON) -> Wire:
    """Convert the params of a server request.

    Args:
        method: The method of the request.
        params: Its params, as raw JSON.

    Returns:
        The value; an :class:`~trio_codex.wire.UnknownServerRequest` if the method is unknown.

    Raises:
        DecodeError: The params do not match the schema of the method.
    """
    if method not in _SERVER_REQUESTS.types:
        return UnknownServerRequest(method=method, raw=params)
    try:
        return _SERVER_REQUESTS[method](params, None)  # type: ignore[no-any-return]
    except Exception as error:
        raise _decode_error(method, _SERVER_REQUESTS.type(method), params, error) from None


def decode_result(method: str, result: JSON) -> JSON:
    """Convert the result of a client request.

    Args:
        method: The method of the request.
        result: The result, as raw JSON.

    Returns:
        The value; ``result`` itself if the method is unknown.

    Raises:
        DecodeError: The result does not match the schema of the method.
    """
    if method not in _RESULTS.types:
        return result
    try:
        return _RESULTS[method](result, None)
    except Exception as error:
        raise _decode_error(method, _RESULTS.type(method), result, error) from None


SESSION: Final = (
    "initialize", "thread/start", "thread/started", "thread/status/changed", "thread/tokenUsage/updated",
    "turn/start", "turn/started", "turn/completed", "turn/interrupt", "item/started", "item/completed",
    "item/agentMessage/delta", "account/rateLimits/updated", "error",
)  # fmt: skip
"""Methods that nearly every session uses. The default of :func:`preload`."""


def preload(methods: Iterable[str] = SESSION) -> None:
    """Import the types of these methods and generate their hooks, which otherwise happens on first use.

    Args:
        methods: Methods of requests and notifications. Unknown ones are ignored.
    """
    for method in methods:
        for table in (_NOTIFICATION_LOADS, _SERVER_REQUESTS, _RESULTS, _PARAMS):
            if method in table.types:
                _ = table[method]
