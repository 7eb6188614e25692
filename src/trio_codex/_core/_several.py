"""Where several values are wanted: one text is not taken for as many as it has letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def several(values: Iterable[T]) -> tuple[T, ...]:
    """Give several values as a tuple.

    Raises:
        TypeError: It is one text. To Python, and to type checkers, that is an iterable of texts: of ``"/tmp"`` the first
            would be the root of the file system.
    """
    if isinstance(values, str):
        raise TypeError("several texts are wanted here, as a list: this is one")
    return tuple(values)
