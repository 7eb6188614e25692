"""Looking into what somebody else's code raised, groups included."""

from __future__ import annotations

from typing import cast

from trio_codex.errors import PolicyError


def leaves_of(error: BaseException) -> list[BaseException]:
    """Give the exceptions in a group, at any depth; any other exception alone."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for inner in group.exceptions for leaf in leaves_of(inner)]
    return [error]


def text_of(error: BaseException) -> str:
    """Return the text of an exception, whatever its class makes of ``str()``."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"  # the words of the traceback module


def describe_error(error: BaseException) -> str:
    """Say in one line what was raised; of a group, what is in it."""
    return "; ".join(map(_describe, leaves_of(error)))


def _describe(error: BaseException) -> str:
    if isinstance(error, PolicyError):
        return error.problem
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
