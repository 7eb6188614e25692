"""A prompt: its key, input and options, and the hash that identifies them."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import attrs

from trio_codex import LocalImageInput, MentionInput, SkillInput, TurnInput, TurnResult, wire
from trio_codex.supervision._spending import Spent

if TYPE_CHECKING:
    from types import UnionType

CONTINUE: Final = "You were interrupted. Check what is already done, and continue."
"""The default follow-up after a death."""

MAX_KEY: Final = 200
"""Maximum length of a key in characters."""

SEPARATOR: Final = "~"
"""Separates a key from the number of a follow-up."""

NOT_HASHED: Final = frozenset({"policy", "budget", "idle_limit"})
"""Options that do not affect the model."""

OnInterrupted: TypeAlias = (
    Literal["continue", "raise"] | Callable[[TurnResult[Any]], Awaitable[TurnInput | None]]
)
"""What to do after a death: continue, raise ``TurnInterrupted``, or call a function that returns the follow-up,
``None`` for the default."""


OnFailed: TypeAlias = Literal["raise", "continue"]
"""What to do with a prompt whose turn has failed for a transient reason."""


@attrs.define(eq=False, repr=False)
class Prompt:
    """One call of ``run`` or ``turn``.

    Attributes:
        key: The key.
        value: The input.
        options: The options of its turns.
        output_type: The type of the final response.
        on_interrupted: What to do after a death.
        continue_with: The default input of the follow-up.
        on_failed: What to do if its turn has failed for a transient reason.
        digest: The hash of input and options.
        is_stopped: Whether the program asked to interrupt it.
        spent: The usage of its turns in this program.
    """

    key: str
    value: TurnInput
    options: dict[str, Any]
    output_type: type[Any] | UnionType | None
    on_interrupted: OnInterrupted
    continue_with: TurnInput
    on_failed: OnFailed
    digest: str
    is_stopped: bool = False
    spent: Spent = attrs.field(factory=Spent)


def message_of(key: str, attempt: int) -> str:
    """Return the id of a message: the key, or that of a follow-up."""
    return key if attempt == 1 else f"{key}{SEPARATOR}{attempt}"


def key_of(key: str | None, *, required: bool) -> str:
    """Check a key, or generate one.

    Raises:
        ValueError: The key is required and missing, or invalid.
        TypeError: The key is not a string.
    """
    if key is None:
        if required:
            raise ValueError("with a journal, every prompt needs a key: pass key=…")
        return uuid.uuid4().hex
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not be typed
        raise TypeError(f"key expects a string, got {type(key).__name__}")
    if not 0 < len(key) <= MAX_KEY:
        raise ValueError(f"a key has 1 to {MAX_KEY} characters, not {len(key)}")
    if SEPARATOR in key:
        raise ValueError(f"a key cannot contain {SEPARATOR!r}, which separates the number of a follow-up")
    check_storable("a key", key)
    return key


def check_storable(what: str, text: str) -> None:
    """Check that a text can be written to the journal.

    Raises:
        ValueError: It contains a lone surrogate, as the names of some files do.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"{what} cannot contain a lone surrogate, as at index {exc.start}") from exc


def digest_of(
    value: TurnInput, options: Mapping[str, object], output_type: object, directory: str | os.PathLike[str]
) -> str:
    """Return the hash of input and options. Files are hashed by content.

    Args:
        value: The input.
        options: The options.
        output_type: The type of the final response.
        directory: The directory to which relative paths refer.
    """
    hashed = {
        name: _plain(each, directory)
        for name, each in options.items()
        if name not in NOT_HASHED and each is not None
    }
    plain = [_plain(value, directory), hashed, _plain(output_type, directory)]
    return hashlib.sha256(_encode(plain).encode("utf-8", "surrogatepass")).hexdigest()


_encode = json.JSONEncoder(sort_keys=True).encode


def _plain(value: object, directory: str | os.PathLike[str]) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    match value:
        case LocalImageInput() | SkillInput() | MentionInput():
            fields = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
            fields["path"] = _content(os.fspath(value.path), directory)
            return {type(value).__name__: _plain(fields, directory)}
        case wire.Wire():
            return wire.encode(value)
        case os.PathLike():
            return os.fspath(cast("os.PathLike[str]", value))
        case Mapping():
            pairs = cast("Mapping[object, object]", value).items()
            return {str(name): _plain(each, directory) for name, each in pairs}
        case Sequence():
            return [_plain(each, directory) for each in cast("Sequence[object]", value)]
        case type():
            return f"{value.__module__}.{value.__qualname__}"
        case _ if attrs.has(kind := type(value)):
            fields = {field.name: getattr(value, field.name) for field in attrs.fields(kind)}
            return {kind.__name__: _plain(fields, directory)}
        case _:
            return repr(value)


def _content(path: str, directory: str | os.PathLike[str]) -> str:
    if "://" in path:
        return path
    try:
        return hashlib.sha256(Path(directory, Path(path).expanduser()).read_bytes()).hexdigest()
    except (OSError, RuntimeError):
        # If the file cannot be read, the server reports it.
        return path
