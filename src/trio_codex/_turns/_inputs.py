"""What a turn is given: the input values, and how they look on the wire.

Their reprs never show what they hold, because prompts do not belong in logs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from trio_codex import wire
from trio_codex._core._arguments import described
from trio_codex._launch._paths import expand

_CALLER_OF_INIT: Final = 4
"""Which frame a warning points at: past the validator, what attrs generates, and ours that warns."""


def _elided(value: str) -> str:
    return f"<{len(value)} characters>"


def _warn_of_low(detail: object) -> None:
    if detail == "low":
        warnings.warn(
            "the server replaces an image with detail='low' by a note that it was omitted; use 'high', 'original' or 'auto'",
            UserWarning,
            stacklevel=_CALLER_OF_INIT,
        )


def _image_detail(_: object, __: object, value: object) -> None:
    _warn_of_low(value)


def _content_details(
    _: object, __: object, value: str | Sequence[wire.FunctionCallOutputContentItem]
) -> None:
    if not isinstance(value, str):
        for item in value:
            _warn_of_low(getattr(item, "detail", None))


@attrs.frozen
class TextInput:
    """Text for the agent. At most 1,048,576 characters (the server's bound)."""

    text: str = attrs.field(repr=_elided)


@attrs.frozen
class ImageInput:
    """An image by URL. ``data:`` URLs always work; remote ones need a feature of the server.

    Attributes:
        url: The URL.
        detail: The resolution at which the model sees it. The server accepts ``"low"`` but sends a note in place of the
            image, which is a :class:`UserWarning` here: the protocol has the value, and another server may honor it.
    """

    url: str = attrs.field(repr=_elided)
    detail: Literal["high", "original", "auto"] | str | None = attrs.field(  # noqa: PYI051  # the known values are documentation
        default=None, validator=_image_detail
    )


@attrs.frozen
class LocalImageInput:
    """An image file; the server reads it and sends its content to the model. For relative paths, see :meth:`Codex.watch`.

    Attributes:
        path: The file.
        detail: As in :class:`ImageInput`.
    """

    path: str | os.PathLike[str]
    detail: Literal["high", "original", "auto"] | str | None = attrs.field(  # noqa: PYI051  # as above
        default=None, validator=_image_detail
    )


@attrs.frozen
class SkillInput:
    """A skill, by its name and the path of its ``SKILL.md``. For relative paths, see :meth:`Codex.watch`."""

    name: str
    path: str | os.PathLike[str]


@attrs.frozen
class MentionInput:
    """A mention of a file or an app, by its name and path: a URL such as ``app://…``, or as in :class:`SkillInput`."""

    name: str
    path: str | os.PathLike[str]


@attrs.frozen
class ExternalMessage:
    """Content that comes from another agent, tool or application, and that nobody vouches for.

    It has the authority of a tool's output, below that of the user and the developer, and approves of nothing. It must
    be the whole input of a turn, which it starts: it cannot steer one that is running. Wait until that turn has ended.

    Attributes:
        tool_name: The tool that delivers it.
        content: Text, or content items.
        namespace: The tool's namespace.
    """

    tool_name: str = attrs.field(validator=attrs.validators.min_len(1))
    content: str | Sequence[wire.FunctionCallOutputContentItem] = attrs.field(
        repr=lambda content: f"<{len(content)}>", validator=_content_details
    )
    namespace: str | None = None


AbsolutePath: TypeAlias = Callable[[str | os.PathLike[str]], str]
InputItem: TypeAlias = TextInput | ImageInput | LocalImageInput | SkillInput | MentionInput
TurnInput: TypeAlias = str | InputItem | Sequence[str | InputItem] | ExternalMessage
"""What a turn is given: a string, an input value, several of them, or an external message."""


def wire_input(
    value: TurnInput, absolute: AbsolutePath = expand
) -> tuple[list[wire.UserInput], wire.TurnToolOutput | None]:
    """Return an input as it goes over the wire: user input, and tool output.

    Args:
        value: The input.
        absolute: Makes the path of a file absolute.

    Raises:
        TypeError: It is no input.
        ValueError: There is none.
    """
    if isinstance(value, ExternalMessage):
        content = value.content if isinstance(value.content, str) else list(value.content)
        return [], wire.TurnToolOutput(name=value.tool_name, namespace=value.namespace, output=content)
    items = [value] if isinstance(value, str | bytes) or not isinstance(value, Sequence) else list(value)
    if not items:
        raise ValueError("a turn needs at least one input")
    return [_wire_item(item, absolute) for item in items], None


def _wire_item(item: str | InputItem, absolute: AbsolutePath) -> wire.UserInput:
    match item:
        case str():
            return wire.TextUserInput(text=item)
        case TextInput():
            return wire.TextUserInput(text=item.text)
        case ImageInput():
            return wire.ImageUserInput(url=item.url, detail=item.detail)
        case LocalImageInput():
            return wire.LocalImageUserInput(path=absolute(item.path), detail=item.detail)
        case SkillInput():
            return wire.SkillUserInput(name=item.name, path=_unless_url(item.path, absolute))
        case MentionInput():
            return wire.MentionUserInput(name=item.name, path=_unless_url(item.path, absolute))
    raise TypeError(f"the input of a turn cannot be {described(item)}: {_hint(item)}")


def _unless_url(path: str | os.PathLike[str], absolute: AbsolutePath) -> str:
    text = os.fspath(path)
    return text if "://" in text else absolute(text)


def _hint(item: Any) -> str:
    match item:
        case bytes():
            return "decode it to a string"
        case os.PathLike():
            return "write LocalImageInput(path) for an image, or read the file and pass its text"
        case ExternalMessage():
            return "pass it alone, not in a list"
        case _:
            return "pass a string, an input such as TextInput or ImageInput, or a list of those"
