"""Build minimal protocol values: a test sets the fields it cares about, and the rest are filled in.

Depends only on the types of :mod:`trio_codex.wire` and their fields.
"""

from __future__ import annotations

from collections import abc
from enum import EnumMeta, StrEnum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Union, cast, get_args

import attrs

from trio_codex import wire
from trio_codex.wire._lookup import fields_of
from trio_codex.wire._unions import is_wire, origin

if TYPE_CHECKING:
    from collections.abc import Mapping

W = TypeVar("W", bound=wire.Wire)

THREAD_ID: Final = "thread-1"
TURN_ID: Final = "turn-1"
ITEM_ID: Final = "item-1"

_IDS: Final[Mapping[str, str]] = {"thread_id": THREAD_ID, "turn_id": TURN_ID, "item_id": ITEM_ID}

CHOICES: Final[Mapping[str, frozenset[str]]] = {
    "AudioUserInput": frozenset({"url", "file_id"}),
    "ImageGenerationThreadItem": frozenset({"result", "file_id"}),
    "ImageUserInput": frozenset({"url", "file_id"}),
    "InputAudioContentItem": frozenset({"audio_url", "file_id"}),
    "InputAudioFunctionCallOutputContentItem": frozenset({"audio_url", "file_id"}),
    "InputImageContentItem": frozenset({"image_url", "file_id"}),
    "InputImageFunctionCallOutputContentItem": frozenset({"image_url", "file_id"}),
}
"""Optional fields of which the schema requires one. If none is given, the one that is not a file id is set."""


def build(cls: type[W], **fields: Any) -> W:
    """Build a protocol value, filling in required fields that are not given.

    Ids are ``"thread-1"``, ``"turn-1"`` and ``"item-1"``; strings are the names of their fields; numbers are 0; lists
    are empty; nullable fields are null; statuses are ``completed``.

    Args:
        cls: The class, such as ``wire.Turn``.
        **fields: Field values, by attribute name.

    Raises:
        TypeError: The class has no such field.
    """
    return _Filler("completed").instance(cls, fields)


def notification(method: str, /, **fields: Any) -> wire.Wire:
    """Build the parameters of a server notification, as :func:`build` does.

    The status is ``inProgress`` in ``…/started`` notifications and ``completed`` in all others.

    Args:
        method: The method, such as ``"item/agentMessage/delta"``.
        **fields: Fields of its type, such as :class:`~trio_codex.wire.AgentMessageDeltaNotification`.

    Raises:
        KeyError: The protocol has no such notification.
        TypeError: The type has no such field.
    """
    status = "inProgress" if method.endswith("/started") else "completed"
    return cast("wire.Wire", _Filler(status).of_type(getattr(wire, wire.NOTIFICATIONS[method]), fields))


def item(kind: str, /, **fields: Any) -> wire.Wire:
    """Build a thread item, as :func:`build` does.

    Args:
        kind: The item's ``type``, such as ``"commandExecution"``.
        **fields: Fields of its class, such as :class:`~trio_codex.wire.CommandExecutionThreadItem`.

    Raises:
        KeyError: The protocol has no such item.
        TypeError: The class has no such field.
    """
    return build(item_classes()[kind], **fields)


def server_request(method: str, /, **fields: Any) -> wire.Wire:
    """Build the parameters of a server request, as :func:`build` does.

    Args:
        method: The method, such as ``"item/commandExecution/requestApproval"``.
        **fields: Fields of its type.

    Raises:
        KeyError: The protocol has no such request.
        TypeError: The type has no such field.
    """
    type_ = getattr(wire, wire.SERVER_REQUESTS[method].params)
    return cast("wire.Wire", _Filler("inProgress").of_type(type_, fields))


def result(method: str, /, **fields: Any) -> Any:
    """Build the result of a client request, as :func:`build` does.

    Args:
        method: The method, such as ``"model/list"``.
        **fields: Fields of its type.

    Raises:
        KeyError: The protocol has no such request.
        TypeError: The type has no such field.
    """
    type_ = getattr(wire, wire.CLIENT_REQUESTS[method].result)
    return _Filler("inProgress").of_type(type_, fields)


def item_classes() -> dict[str, type[wire.Wire]]:
    """Return the item classes, keyed by their ``type``."""
    members: list[type[wire.Wire]] = [
        each for each in get_args(wire.ThreadItem) if each is not wire.UnknownVariant
    ]
    return {str(attrs.fields_dict(cls)["type"].default): cls for cls in members}


@attrs.frozen
class _Filler:
    """Fills in missing fields.

    Attributes:
        status: The status to use, where the enum has it.
    """

    status: str

    def instance(self, cls: type[W], fields: Mapping[str, Any]) -> W:
        choice = CHOICES.get(cls.__name__, frozenset())
        chosen = {} if choice & fields.keys() else {name: name for name in choice - {"file_id"}}
        missing = {
            field.name: self._field(cls, field)
            for field in fields_of(cls)
            if field.name not in fields and field.default is attrs.NOTHING
        }
        return cls(**missing, **chosen, **fields)

    def of_type(self, type_: Any, fields: Mapping[str, Any]) -> Any:
        """Build a value of a class, or of the first union member that has these fields."""
        members: list[Any] = [
            each for each in _members(type_) if is_wire(each) and each is not wire.UnknownVariant
        ]
        for cls in members:
            if fields.keys() <= {field.name for field in attrs.fields(cls)}:
                return self.instance(cls, fields)
        return self.instance(members[0], fields) if members else self._value(type_, "value")

    def _field(self, cls: type[wire.Wire], field: attrs.Attribute[Any]) -> Any:
        if field.name == "id" and field.type is str:
            return {"Thread": THREAD_ID, "Turn": TURN_ID}.get(cls.__name__, ITEM_ID)
        return self._value(field.type, field.name)

    def _value(self, type_: Any, name: str) -> Any:
        members = _members(type_)
        if NoneType in members:
            return None
        first = next((each for each in members if isinstance(each, EnumMeta)), members[0])
        match origin(first) or first:
            case abc.Sequence:
                return []
            case abc.Mapping:
                return {}
            case EnumMeta():
                return self._member(cast("type[StrEnum]", first))
            case _ if origin(first) is Literal:
                return get_args(first)[0]
            case _ if is_wire(first):
                return self.instance(first, {})
            case _:
                return _scalar(first, name)

    def _member(self, enum: type[StrEnum]) -> StrEnum:
        return next((member for member in enum if member == self.status), next(iter(enum)))


def _members(type_: Any) -> tuple[Any, ...]:
    return get_args(type_) if origin(type_) in (Union, UnionType) else (type_,)


def _scalar(type_: Any, name: str) -> Any:
    if type_ is str:
        is_path = name == "cwd" or name.endswith(("path", "root", "home"))
        return _IDS.get(name) or (f"/{name}" if is_path else name)
    zeros: dict[Any, Any] = {int: 0, float: 0.0, bool: False, Any: {}}
    return zeros[type_]
