"""Check arguments; errors name the argument, the value's type, and what to pass instead.

Arguments are checked where they are passed, because an error at first use would come later and from somewhere else.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

_CO_COROUTINE: Final = inspect.CO_COROUTINE


def check_type(name: str, value: object, expected: type, hint: str) -> None:
    """Raise ``TypeError`` unless an argument has the expected type. ``hint`` says what to pass instead."""
    if not isinstance(value, expected):
        raise TypeError(f"{name} expects {_a(expected)}, got {described(value)}: {hint}")


def check_collection(name: str, value: object, hint: str) -> None:
    """Raise ``TypeError`` unless an argument is a collection, and not a bare string or a single member."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} expects a list, got {described(value)}: {hint}")


def check_positive(name: str, value: Any) -> None:
    """Raise ``TypeError`` unless an argument is a number, and ``ValueError`` unless it is positive."""
    try:
        is_positive = value > 0
    except TypeError:
        raise TypeError(f"{name} expects a number, got {described(value)}") from None
    if not is_positive:
        raise ValueError(f"{name} must be positive, not {value!r}")


def positive(_: object, attribute: Any, value: object) -> None:
    """Check that a field of an attrs class is ``None`` or a positive number."""
    if value is not None:
        check_positive(attribute.name, value)


def as_tuple(values: Iterable[T]) -> tuple[T, ...]:
    """Return the values as a tuple. Raise ``TypeError`` for a bare string or a value that is not iterable.

    A type checker accepts a bare string as an iterable of strings, and the first character of ``"/tmp"`` is the root of
    the file system.
    """
    given = cast("object", values)
    if isinstance(given, str):
        raise TypeError("expected a list of strings, got one string")
    if not isinstance(given, Iterable):
        raise TypeError(f"expected a list of strings, got {described(given)}")
    return tuple(values)


def is_async_callable(value: object) -> bool:
    """Return whether calling a value returns a coroutine, as far as that is known without calling it.

    True for an async function, even as a method, in a ``functools.partial`` or behind a decorator that sets
    ``__wrapped__``, and for an object with an async ``__call__``.
    """
    while True:
        if isinstance(value, functools.partial):
            value = cast("functools.partial[object]", value).func
        elif _makes_coroutine(value):
            return True
        elif (wrapped := getattr(value, "__wrapped__", None)) is not None:
            value = wrapped
        else:
            method = getattr(type(value), "__call__", None)  # noqa: B004  # the method itself, not whether there is one
            return not isinstance(value, type) and _makes_coroutine(method)


def _makes_coroutine(value: object) -> bool:
    # inspect.iscoroutinefunction() is not enough: unittest.mock.AsyncMock has the flag but is not a function.
    flags = getattr(getattr(value, "__code__", None), "co_flags", 0)
    return inspect.iscoroutinefunction(value) or (isinstance(flags, int) and bool(flags & _CO_COROUTINE))


def described(value: object) -> str:
    """Describe a value by its type: its content may be a secret or a prompt, and does not belong in an error."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isfunction(value) or inspect.ismethod(value) or inspect.isbuiltin(value):
        return f"the function {value.__name__}"
    return _a(type(value))


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[:1].lower() in 'aeiou' else 'a'} {kind.__name__}"
