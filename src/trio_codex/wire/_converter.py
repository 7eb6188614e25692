"""The cattrs converter of the wire. The only module that uses cattrs.

:class:`WireConverter` has all hooks: for reading values, for writing them, and for reading JSON text. Only
:meth:`WireConverter.get_loads_hook` ever reads a class without cattrs.

``CONVERTER`` converts everything. It does not track its position in a value. When it rejects a value,
:func:`explain` reads the value again with detailed validation, which takes ten times as long and finds the position.

cattrs generates the hook of a class on first use, in about 0.2 ms.
"""

from __future__ import annotations

from collections import abc
from enum import StrEnum
from types import GenericAlias, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args

import attrs
import msgspec
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    IterableValidationNote,
)
from cattrs.fns import identity
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from trio_codex.wire._base import JSON, Null, Wire, wire_name
from trio_codex.wire._flat import Text, flat_decoder
from trio_codex.wire._lookup import fields_of
from trio_codex.wire._unions import (
    Hook,
    Mismatch,
    Type,
    is_wire,
    literal_hook,
    origin,
    scalar,
    union_hook,
)
from trio_codex.wire._unknown import UnknownNotification, UnknownServerRequest, UnknownVariant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

parse: Final = msgspec.json.Decoder().decode
"""Parse JSON text to raw JSON."""


class WireConverter(Converter):
    """A cattrs converter for all types of the protocol, with loads hooks as in ``cattrs.preconf.msgspec``.

    cattrs caches hooks, and those would not use a hook that is registered later. All are therefore registered here.
    """

    def __init__(self, *, detailed_validation: bool) -> None:
        super().__init__(detailed_validation=detailed_validation)
        for hook, kind in (
            (scalar(str), str),
            (scalar(bool), bool),
            (scalar(int), int),
            (scalar(int, float), float),
            (_structure_enum, StrEnum),
        ):
            self.register_structure_hook(kind, hook)
        self.register_structure_hook_factory(_is_union, _structure_union)
        self.register_structure_hook_factory(_is_generic(abc.Sequence), _structure_sequence)
        self.register_structure_hook_factory(_is_generic(abc.Mapping), _structure_mapping)
        self.register_structure_hook_factory(_is_generic(Literal), _structure_literal)
        self.register_structure_hook_factory(is_wire, _structure_class)
        self.register_unstructure_hook_factory(is_wire, _unstructure_class)
        for unknown in (UnknownVariant, UnknownNotification, UnknownServerRequest):
            self.register_unstructure_hook(unknown, lambda value: value.raw)
        self.register_unstructure_hook(Null, lambda _: None)
        self.register_unstructure_hook(StrEnum, lambda member: member.value)
        self.register_unstructure_hook(tuple, lambda value: [self.unstructure(item) for item in value])

    def get_loads_hook(self, type_: Type) -> Callable[[Text], Any]:
        """Return a function that reads JSON text as ``type_``.

        Flat classes, such as deltas, are decoded by msgspec alone, and only if the text matches exactly. The function may
        raise any exception for text that it rejects; ``structure`` may still accept the parsed text.
        """
        decoder = flat_decoder(type_, fields_of(type_)) if is_wire(type_) else None
        if decoder is not None:
            return decoder
        structure = self.get_structure_hook(type_)
        return lambda text: structure(parse(text), type_)


# -- reading -------------------------------------------------------------------------------------------------------


def _is_union(type_: Type) -> bool:
    return origin(type_) in (Union, UnionType)


def _is_generic(generic: object) -> Callable[[Type], bool]:
    return lambda type_: origin(type_) is generic


def _structure_enum(value: JSON, type_: type[StrEnum]) -> str:
    if value.__class__ is not str:
        raise Mismatch("a string", value)
    try:
        return type_(value)
    except ValueError:
        return value


def _structure_union(type_: Type, converter: Converter) -> Hook:
    return union_hook(get_args(type_), converter.get_structure_hook)


def _structure_literal(type_: Type, _: Converter) -> Hook:
    return literal_hook(get_args(type_))


def _structure_sequence(type_: Type, converter: Converter) -> Hook:
    inner = converter.get_structure_hook(GenericAlias(list, get_args(type_)))

    def structure(value: JSON, _: Any) -> Any:
        if value.__class__ is not list:
            raise Mismatch("an array", value)
        return inner(value, None)

    return structure


def _structure_mapping(type_: Type, converter: Converter) -> Hook:
    return _only_objects(converter.get_structure_hook(GenericAlias(dict, get_args(type_))))


def _structure_class(cls: type[Wire], converter: Converter) -> Hook:
    """Create the hook of a class: the function that cattrs generates, wrapped as its :class:`Shape` requires."""
    shape, fields = cls.__wire__, fields_of(cls)
    overrides: dict[str, Any] = {
        field.name: override(
            rename=wire_name(cls, field.name),
            omit=shape.open and field.name == "additional",
            struct_hook=None
            if field.default in (attrs.NOTHING, None)
            else _null_as_default(converter.get_structure_hook(field.type), field.default),
        )
        for field in fields
    }
    hook: Hook = make_dict_structure_fn(
        cls, converter, _cattrs_detailed_validation=converter.detailed_validation, **overrides
    )
    nullable = [wire_name(cls, field.name) for field in fields if _is_required_but_nullable(field)]
    if nullable:
        hook = _absent_as_null(nullable, hook)
    if shape.open:
        hook = _keep_unknown(cls, hook)
    if converter.detailed_validation or all(field.default is not attrs.NOTHING for field in fields):
        # Without this, a class without required fields would accept any value. With required fields, the generated
        # function subscripts the value, and so rejects everything but objects.
        hook = _only_objects(hook)
    if shape.key is not None:
        hook = _under_key(cls, shape.key, hook)
    return hook


def _null_as_default(inner: Hook, default: Any) -> Hook:
    """Read null as an absent field, where the schema does not allow null."""
    make: Callable[[], Any] = getattr(default, "factory", lambda: default)

    def structure(value: JSON, _: Any) -> Any:
        return make() if value is None else inner(value, None)

    return structure


def _is_required_but_nullable(field: attrs.Attribute[Any]) -> bool:
    return field.default is attrs.NOTHING and _is_union(field.type) and type(None) in get_args(field.type)


def _absent_as_null(names: Sequence[str], inner: Hook) -> Hook:
    """Read absent fields as null: an older server may not have them."""

    def structure(value: JSON, _: Any) -> Any:
        if value.__class__ is dict and not all(name in value for name in names):
            value = {**dict.fromkeys(names), **value}
        return inner(value, None)

    return structure


def _keep_unknown(cls: type[Wire], inner: Hook) -> Hook:
    known = {wire_name(cls, field.name) for field in attrs.fields(cls)}

    def structure(value: JSON, _: Any) -> Any:
        additional = {key: item for key, item in value.items() if key not in known}
        return inner(value, None).evolve(additional=additional)

    return structure


def _only_objects(inner: Hook) -> Hook:
    def structure(value: JSON, _: Any) -> Any:
        if value.__class__ is not dict:
            raise Mismatch("an object", value)
        return inner(value, None)

    return structure


def _under_key(cls: type[Wire], key: str, inner: Hook) -> Hook:
    def structure(value: JSON, _: Any) -> Any:
        try:
            return inner(value[key], None)
        except Exception as error:
            error.add_note(AttributeValidationNote(f"under {key}", key, cls))
            # Its `__new__` takes the class, too. Type checkers see only that of exception groups.
            raise ClassValidationError("", [error], cls) from None  # pyright: ignore[reportCallIssue]

    return structure


# -- writing -------------------------------------------------------------------------------------------------------


def _unstructure_class(cls: type[Wire], converter: Converter) -> Callable[[Any], JSON]:
    shape = cls.__wire__
    overrides: dict[str, Any] = {
        field.name: override(
            rename=wire_name(cls, field.name),
            omit=shape.open and field.name == "additional",
            # "Omitted fields" in _base.
            omit_if_default=field.default is None,
            unstruct_hook=_unstructure_field(f"{cls.__name__}.{field.name}", field.type, converter),
        )
        for field in fields_of(cls)
    }
    inner: Callable[[Any], dict[str, JSON]] = make_dict_unstructure_fn(cls, converter, **overrides)
    if shape.open:
        return lambda value: {**value.additional, **inner(value)}
    if shape.key is not None:
        return lambda value: {shape.key: inner(value)}
    return inner


def _unstructure_field(name: str, type_: Type, converter: Converter) -> Callable[[Any], JSON]:
    """Choose the hook of a field: a value that is already JSON is sent unchanged, any other is converted by its class."""
    parts = [part for part in (get_args(type_) if _is_union(type_) else (type_,)) if part is not type(None)]
    if all(_is_scalar(part) for part in parts):
        return identity
    if len(parts) == 1 and origin(parts[0]) is abc.Sequence and _is_scalar(get_args(parts[0])[0]):
        return _as_list(name)
    return converter.unstructure


def _is_scalar(type_: Type) -> bool:
    return type_ in (str, int, float, bool, Any) or origin(type_) is Literal


def _as_list(name: str) -> Callable[[Any], JSON]:
    def unstructure(value: Any) -> JSON:
        if value is None or value.__class__ is list:
            return value
        if isinstance(value, str):
            # Type checkers accept a string as a sequence of strings.
            raise TypeError(f"{name} must be a list, not a string")
        return list(value)

    return unstructure


CONVERTER: Final = WireConverter(detailed_validation=False)
_EXPLAINING: Final = WireConverter(detailed_validation=True)

# -- errors --------------------------------------------------------------------------------------------------------


def explain(type_: Type, data: JSON, error: Exception) -> tuple[str, str]:
    """Find out why ``CONVERTER`` rejected a value.

    Returns:
        A path such as ``$.turn.items[2].id``, and the problem there. Neither contains any part of the value.
    """
    try:
        _EXPLAINING.structure(data, type_)
    except Exception as detailed:
        error = detailed
    path = ["$"]
    while isinstance(error, BaseValidationError):
        path.append(_step(error))
        error = error.exceptions[0]
    return "".join(path), _problem(error)


def _step(error: BaseValidationError) -> str:
    """Return the part of the path that leads to the first mismatch."""
    for note in getattr(error.exceptions[0], "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f".{wire_name(error.cl, note.name)}"
        if isinstance(note, IterableValidationNote):
            return f"[{note.index}]" if isinstance(note.index, int) else f".{note.index}"
    return ""


def _problem(error: Exception) -> str:
    match error:
        case KeyError():
            return "required field missing"
        case Mismatch():
            return str(error)
        case _:
            return error.__class__.__name__  # its text may contain a part of the value
