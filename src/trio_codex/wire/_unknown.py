"""What this version does not know, as values: nothing is lost, nothing raises, and it is sent on unchanged."""

from __future__ import annotations

from typing import ClassVar

import attrs

from trio_codex.wire._base import JSON, Shape, Wire


@attrs.frozen(kw_only=True, eq=False, repr=False)
class UnknownVariant(Wire):
    """A member of a union that this version does not know.

    Attributes:
        tag: Its tag, or its only key, if it has one.
        raw: The whole JSON value.
    """

    tag: str | None
    raw: JSON

    __wire__: ClassVar[Shape] = Shape(elided=frozenset({"raw"}))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class UnknownNotification(Wire):
    """A notification that this version does not know, or whose payload does not fit the schema.

    Attributes:
        method: Its method.
        raw: Its ``params``, whatever they are.
        problem: What does not fit; ``None`` if the method is unknown.
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
        raw: Its ``params``, whatever they are.
    """

    method: str
    raw: JSON

    __wire__: ClassVar[Shape] = Shape(elided=frozenset({"raw"}))
