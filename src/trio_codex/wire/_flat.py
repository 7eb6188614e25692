"""Values of plain fields, read from JSON text in one go: by msgspec, straight into the slots of the class.

Most of what a server sends are deltas: objects of a few strings and numbers. To parse one, to look at its fields, and to call a
class that is frozen takes 1 µs; this takes 0.4 µs. Members that the class does not have are passed over, and not even looked at
for bytes that are no UTF-8. It knows nothing of cattrs, and reads only what fits exactly: null for
absent, unknown members of enums and whatever else the rules of :mod:`trio_codex.wire._base` allow is for
:mod:`trio_codex.wire._convert`, and so is to say what does not fit.
"""

from __future__ import annotations

from types import MemberDescriptorType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

import msgspec

from trio_codex.wire._base import Wire, wire_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import attrs

Text: TypeAlias = bytes | bytearray | memoryview | msgspec.Raw

_PLAIN: Final = (str, int, bool, type(None))
"""Types that a JSON value has or has not. Not ``float``: an integer is to stay one where a number is wanted."""


def flat_reader(cls: type[Wire], fields: Sequence[attrs.Attribute[Any]]) -> Callable[[Text], Any] | None:
    """Make what reads a class from JSON text.

    Args:
        cls: The class.
        fields: Its attributes, their types resolved.

    Returns:
        What gives the value, or raises a ``msgspec.MsgspecError`` if the text does not fit exactly; ``None`` for a class whose
        fields are not all plain.
    """
    if not (_is_flat(cls) and all(_is_plain(field.type) for field in fields)):
        return None
    names = {field.name: wire_name(cls, field.name) for field in fields}
    # msgspec sets attributes by the names that the text has, and has no names of its own for classes that are not its
    # own. So it gets a class under whose attributes of these names are the very slots of ours.
    by_wire_names: type[Any] = type(
        cls.__name__,
        (cls,),
        {
            "__slots__": (),
            "__setattr__": object.__setattr__,
            "__annotations__": {names[field.name]: field.type for field in fields},
            "__attrs_attrs__": tuple(field.evolve(name=names[field.name]) for field in fields),
            **{names[name]: cls.__dict__[name] for name in names},
        },
    )
    decode: Callable[[Text], Any] = msgspec.json.Decoder(by_wire_names).decode

    def read(text: Text) -> Any:
        value = decode(text)
        value.__class__ = cls  # the slots are the same
        return value

    return read


def _is_flat(cls: type[Wire]) -> bool:
    shape = cls.__wire__
    slots = (cls.__dict__.get(field.name) for field in cls.__attrs_attrs__)
    return (
        not shape.open and shape.key is None and all(isinstance(slot, MemberDescriptorType) for slot in slots)
    )


def _is_plain(type_: Any) -> bool:
    if get_origin(type_) in (Union, UnionType):
        return all(_is_plain(part) for part in get_args(type_))
    return type_ in _PLAIN or get_origin(type_) is Literal
