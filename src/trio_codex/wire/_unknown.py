"""Values for anything this version does not know. They keep the raw JSON and are sent on unchanged."""

from __future__ import annotations

from typing import ClassVar

import attrs

from trio_codex.wire._base import JSON, Shape, Wire


@attrs.frozen(kw_only=True, eq=False, repr=False)
class UnknownVariant(Wire):
    """A member of a union that this version does not know.

    Attributes:
        tag: Its tag, or else its only key; ``None`` if it has neither.
        raw: The complete JSON value.
    """

    tag: str | None
    raw: JSON

    __wire__: ClassVar[Shape] = Shape(elided=frozenset({"raw"}))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class UnknownNotification(Wire):
    """A notification that this version does not know, or whose params do not match the schema.

    Attributes:
        method: Its method.
        raw: Its ``params``, as raw JSON.
        problem: What does not match the schema; ``None`` if the method is unknown.
    """

    method: str
    raw: JSON
    problem: str | None = None

    __wire__: ClassVar[Shape] = Shape(elided=frozenset({"raw"}))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class UnknownServerRequest(Wire):
    """A server request whose method this version does not know.

    Attributes:
        method: Its method.
        raw: Its ``params``, as raw JSON.
    """

    method: str
    raw: JSON

    __wire__: ClassVar[Shape] = Shape(elided=frozenset({"raw"}))
