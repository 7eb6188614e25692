"""The result of a dynamic tool."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Final

import attrs

from trio_codex import wire
from trio_codex._core.arguments import as_tuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
)
"""Signatures of the image formats that models accept: bytes, their offset, and the media type."""


@attrs.frozen
class Image:
    """An image for the agent. Create one with :func:`image`.

    Attributes:
        url: The URL of the image, which may be a ``data:`` URL.
    """

    url: str = attrs.field(repr=lambda url: f"<{len(url)} characters>")


def image(source: bytes | str | os.PathLike[str], media_type: str | None = None) -> Image:
    """Create an image from its data, its URL, or its file.

    A file is read synchronously, without a checkpoint; pass the data instead if the file system is slow.

    Args:
        source: The bytes of a PNG, JPEG, GIF or WebP; a ``data:`` or ``https:`` URL; or the path of a file, as a
            :class:`pathlib.Path`. The server may reject other URLs.
        media_type: The media type; by default detected from the bytes.

    Raises:
        ValueError: The media type cannot be detected, or a string is not a URL.
        OSError: The file cannot be read.
    """
    if isinstance(source, str):
        if not source.startswith(("data:", "https:", "http:")):
            raise ValueError("expected a URL as a string; pass a file as a pathlib.Path")
        return Image(source)
    if isinstance(source, os.PathLike):
        with open(source, "rb") as file:
            source = file.read()
    if media_type is None:
        kinds = (kind for start, at, kind in _SIGNATURES if source[at : at + len(start)] == start)
        media_type = next(kinds, None)
    if media_type is None:
        raise ValueError("these bytes are not a PNG, JPEG, GIF or WebP image; pass media_type")
    return Image(f"data:{media_type};base64,{base64.b64encode(source).decode()}")


def _items(
    content: Iterable[str | Image | wire.DynamicToolCallOutputContentItem],
) -> tuple[wire.DynamicToolCallOutputContentItem, ...]:
    return tuple(map(_item, as_tuple(content)))


def _item(
    value: str | Image | wire.DynamicToolCallOutputContentItem,
) -> wire.DynamicToolCallOutputContentItem:
    if isinstance(value, str):
        return wire.InputTextDynamicToolCallOutputContentItem(text=escape_surrogates(value))
    if isinstance(value, Image):
        return wire.InputImageDynamicToolCallOutputContentItem(image_url=value.url)
    if isinstance(value, wire.InputTextDynamicToolCallOutputContentItem):
        return value.evolve(text=escape_surrogates(value.text))
    return value


def escape_surrogates(text: str) -> str:
    """Escape lone surrogates, which some file names contain, because UTF-8 cannot encode them (PROTOCOL Q10)."""
    return text.encode(errors="backslashreplace").decode()


@attrs.frozen
class ToolResult:
    """The result of a tool.

    Attributes:
        content: Texts, images and audio for the agent. Accepts strings, :class:`Image` and wire values.
        success: Whether the tool succeeded. A failed tool does not fail the turn: the agent sees the failure.

    Raises:
        TypeError: The content is a single string instead of a list; use :meth:`of_text` for that.
    """

    content: tuple[wire.DynamicToolCallOutputContentItem, ...] = attrs.field(
        converter=_items,
        repr=lambda content: f"<{len(content)} items>",
    )
    success: bool = True

    @classmethod
    def of_text(cls, text: str, *, success: bool = True) -> ToolResult:
        """Create a result from a single string."""
        return cls((text,), success)
