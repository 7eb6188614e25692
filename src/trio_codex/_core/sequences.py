"""Reject a bare string where a list of strings is expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def as_tuple(values: Iterable[T]) -> tuple[T, ...]:
    """Return several values as a tuple.

    Raises:
        TypeError: The value is a bare string. To Python and to type checkers that is an iterable of strings, and the
            first character of ``"/tmp"`` is the root of the file system.
    """
    if isinstance(values, str):
        raise TypeError("expected a list of strings, got one string")
    return tuple(values)
