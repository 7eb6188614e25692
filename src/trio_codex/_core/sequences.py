"""Reject a bare string where a list of strings is expected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from trio_codex._core.arguments import described

T = TypeVar("T")


def as_tuple(values: Iterable[T]) -> tuple[T, ...]:
    """Return several values as a tuple.

    Raises:
        TypeError: The value is not a list, or it is a bare string. To Python and to type checkers that is an iterable of strings, and the
            first character of ``"/tmp"`` is the root of the file system.
    """
    given: object = values
    if isinstance(given, str):
        raise TypeError("expected a list of strings, got one string")
    if not isinstance(given, Iterable):
        raise TypeError(f"expected a list of strings, got {described(given)}")
    return tuple(values)
