"""Inspect exceptions raised by other code, including groups."""

from __future__ import annotations

from typing import cast

from trio_codex.errors import PolicyError


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return the leaf exceptions of a group, at any depth; for any other exception, just that one."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for inner in group.exceptions for leaf in leaves_of(inner)]
    return [error]


def text_of(error: BaseException) -> str:
    """Return the text of an exception, even if its ``str()`` raises."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"  # the same text as in the traceback module


def describe_error(error: BaseException) -> str:
    """Describe an exception in one line; for a group, describe its members."""
    return "; ".join(map(_describe, leaves_of(error)))


def _describe(error: BaseException) -> str:
    if isinstance(error, PolicyError):
        return error.problem
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
