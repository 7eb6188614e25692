"""Raw JSON to values and back. The only module that knows cattrs; none of its exceptions gets out.

Two converters read with the same hooks. The fast one does not keep track of where it is. When it fails, the detailed one
reads the same value again to find out where, and why: it costs ten times as much, and only then. Notifications of plain
fields that come as text do not get here, unless they do not fit (:mod:`trio_codex.wire._flat`).

A hook is generated when its type is first read, and costs some 0.2 ms; :func:`preload` does it ahead of time.
"""

from __future__ import annotations

import re
from collections import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from types import GenericAlias, UnionType
from typing import Any, Final, Literal, TypeGuard, TypeVar, Union, get_args, overload

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

from trio_codex import wire
from trio_codex.errors import DecodeError
from trio_codex.wire import _registry
from trio_codex.wire._base import JSON, Null, Wire, wire_name
from trio_codex.wire._flat import Text, flat_reader
from trio_codex.wire._index import HOME
from trio_codex.wire._unions import (
    Hook,
    Mismatch,
    Type,
    is_wire,
    literal_hook,
    open_enum,
    origin,
    scalar,
    union_hook,
)
from trio_codex.wire._unknown import UnknownNotification, UnknownServerRequest, UnknownVariant

T = TypeVar("T")
_WORD: Final = re.compile(r"\w+")
_GENERICS: Final = {"Literal": Literal, "Mapping": Mapping, "Sequence": Sequence}

# -- reading -------------------------------------------------------------------------------------------------------


def fields_of(cls: type[Wire]) -> tuple[attrs.Attribute[Any], ...]:
    """Give the attributes of a class, their types resolved: that imports whatever they mention."""
    words = set(_WORD.findall(" ".join(str(field.type) for field in cls.__attrs_attrs__)))
    # A plain dictionary of what is needed: a lazy one would do for `eval`, but `typing` may copy it.
    names = {word: getattr(wire, word) for word in words & HOME.keys()}
    attrs.resolve_types(cls, localns={**_GENERICS, **names})
    return cls.__attrs_attrs__


def _is_enum(type_: Type) -> TypeGuard[type[StrEnum]]:
    return isinstance(type_, type) and issubclass(type_, StrEnum)


def _is_union(type_: Type) -> bool:
    return origin(type_) in (Union, UnionType)


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
    inner = converter.get_structure_hook(GenericAlias(dict, get_args(type_)))

    def structure(value: JSON, _: Any) -> Any:
        if value.__class__ is not dict:
            raise Mismatch("an object", value)
        return inner(value, None)

    return structure


def _structure_class(cls: type[Wire], converter: Converter) -> Hook:
    """Make what reads a class: the function that cattrs generates, inside what its :class:`Shape` asks for."""
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
    nullable = [wire_name(cls, field.name) for field in fields if _must_be_there_but_may_be_null(field)]
    if nullable:
        hook = _absent_as_null(nullable, hook)
    if shape.open:
        hook = _keep_unknown(cls, hook)
    if converter.detailed_validation or all(field.default is not attrs.NOTHING for field in fields):
        # The generated function asks for each required field, and so fails by itself for what is no object.
        hook = _only_objects(hook)
    if shape.key is not None:
        hook = _under_key(cls, shape.key, hook)
    return hook


def _null_as_default(inner: Hook, default: Any) -> Hook:
    """Read null, where the schema does not allow it, as if the field were absent."""
    make: Callable[[], Any] = getattr(default, "factory", lambda: default)

    def structure(value: JSON, _: Any) -> Any:
        return make() if value is None else inner(value, None)

    return structure


def _must_be_there_but_may_be_null(field: attrs.Attribute[Any]) -> bool:
    return field.default is attrs.NOTHING and _is_union(field.type) and type(None) in get_args(field.type)


def _absent_as_null(names: Sequence[str], inner: Hook) -> Hook:
    """Read fields that an older server does not know yet as null, where the schema allows null."""

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
            # Its `__new__` takes the class, too; type checkers see that of exception groups.
            raise ClassValidationError("", [error], cls) from None  # pyright: ignore[reportCallIssue]

    return structure


def _reader(*, detailed: bool) -> Converter:
    """Make a converter that reads. All its hooks are here: one that comes later would miss what is cached already."""
    converter = Converter(detailed_validation=detailed)
    for hook, kinds in (
        (scalar(str), str),
        (scalar(bool), bool),
        (scalar(int), int),
        (scalar(int, float), float),
    ):
        converter.register_structure_hook(kinds, hook)
    converter.register_structure_hook_factory(_is_union, _structure_union)
    converter.register_structure_hook_factory(
        lambda type_: origin(type_) is abc.Sequence, _structure_sequence
    )
    converter.register_structure_hook_factory(lambda type_: origin(type_) is abc.Mapping, _structure_mapping)
    converter.register_structure_hook_factory(lambda type_: origin(type_) is Literal, _structure_literal)
    converter.register_structure_hook_factory(is_wire, _structure_class)
    return converter


_FAST: Final = _reader(detailed=False)
_DETAILED: Final = _reader(detailed=True)


def _hook(type_: Type, converter: Converter = _FAST) -> Hook:
    # cattrs would find the hook of `str` for an enum, which is a subclass of it.
    if _is_enum(type_):
        return open_enum([type_])
    return converter.get_structure_hook(type_)


@overload
def decode(type_: type[T], data: JSON) -> T: ...
@overload
def decode(type_: object, data: JSON) -> object: ...
def decode(type_: object, data: JSON) -> object:
    """Read a raw JSON value.

    Args:
        type_: A class of the protocol, or an alias such as ``wire.ThreadItem``, or a type made of those.
        data: What a JSON parser gave.

    Returns:
        The value.

    Raises:
        DecodeError: It does not fit.
    """
    try:
        return _hook(type_)(data, None)
    except Exception as error:
        raise _explained(_name_of(type_), type_, data, error) from None


# -- what does not fit ---------------------------------------------------------------------------------------------


def _name_of(type_: Type) -> str:
    if isinstance(type_, type):
        return type_.__name__
    return next((name for name, value in vars(wire).items() if value is type_), "the value")


def _explained(what: str, type_: Type, data: JSON, error: Exception) -> DecodeError:
    """Read the value again to find out where it does not fit."""
    try:
        _hook(type_, _DETAILED)(data, None)
    except Exception as detailed:
        error = detailed
    path = ["$"]
    while isinstance(error, BaseValidationError):
        path.append(_step(error))
        error = error.exceptions[0]
    return DecodeError(what, "".join(path), _problem(error))


def _step(error: BaseValidationError) -> str:
    """Give the part of the path that leads to the first thing that is wrong."""
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
            return error.__class__.__name__  # its text may hold a part of the value


# -- writing -------------------------------------------------------------------------------------------------------


def _unstructure_class(cls: type[Wire], converter: Converter) -> Callable[[Any], JSON]:
    shape = cls.__wire__
    overrides: dict[str, Any] = {
        field.name: override(
            rename=wire_name(cls, field.name),
            omit=shape.open and field.name == "additional",
            # The one rule: see _base.
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
    """Choose how a field is written: as it is, if its type says that this is JSON, else by the class of the value."""
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
            # To a type checker, a string is a sequence of strings.
            raise TypeError(f"{name} must be a list, not a string")
        return list(value)

    return unstructure


def _value_of(member: StrEnum) -> JSON:
    return member.value


def _writer() -> Converter:
    converter = Converter()
    converter.register_unstructure_hook_factory(is_wire, _unstructure_class)
    converter.register_unstructure_hook(UnknownVariant, lambda value: value.raw)
    converter.register_unstructure_hook(UnknownNotification, lambda value: value.raw)
    converter.register_unstructure_hook(UnknownServerRequest, lambda value: value.raw)
    converter.register_unstructure_hook(Null, lambda _: None)
    converter.register_unstructure_hook(StrEnum, _value_of)
    converter.register_unstructure_hook(tuple, lambda value: [converter.unstructure(item) for item in value])
    return converter


_WRITER: Final = _writer()


def encode(value: object) -> JSON:
    """Write a value as raw JSON.

    Args:
        value: A value of the protocol, an enum member, raw JSON, or lists, tuples and dictionaries of those.

    Returns:
        What a JSON encoder takes.

    Raises:
        TypeError: A field that takes a list has a string.
    """
    return _WRITER.unstructure(value)


# -- by method -----------------------------------------------------------------------------------------------------


class _ByMethod(dict[str, Hook]):
    """What reads the payload of each method, looked up and generated on first use."""

    def __init__(self, types: Mapping[str, str]) -> None:
        super().__init__()
        self.types = types

    def __missing__(self, method: str) -> Hook:
        hook = self[method] = _hook(self.type(method))
        return hook

    def type(self, method: str) -> Type:
        """Give the type of the payload. A ``KeyError`` if there is no such method."""
        return getattr(wire, self.types[method])

    def explained(self, method: str, payload: JSON, error: Exception) -> DecodeError:
        """Say why a payload does not fit."""
        return _explained(method, self.type(method), payload, error)


class _FromText(dict[str, Callable[[Text], Any]]):
    """What reads the payload of each method from JSON text: in one go if all its fields are plain, else parsed first."""

    def __init__(self, hooks: _ByMethod) -> None:
        super().__init__()
        self._hooks = hooks

    def __missing__(self, method: str) -> Callable[[Text], Any]:
        type_ = self._hooks.type(method)
        flat = flat_reader(type_, fields_of(type_)) if is_wire(type_) else None
        read = self[method] = flat or _parsing(self._hooks[method])
        return read


def _parsing(hook: Hook) -> Callable[[Text], Any]:
    return lambda text: hook(_parse(text), None)


_parse: Final = msgspec.json.Decoder().decode
_NOTIFICATIONS: Final = _ByMethod(_registry.NOTIFICATIONS)
_NOTIFICATION_TEXTS: Final = _FromText(_NOTIFICATIONS)
_SERVER_REQUESTS: Final = _ByMethod({name: spec.params for name, spec in _registry.SERVER_REQUESTS.items()})
_RESULTS: Final = _ByMethod({name: spec.result for name, spec in _registry.CLIENT_REQUESTS.items()})
_PARAMS: Final = {
    name: spec.params for name, spec in _registry.CLIENT_REQUESTS.items() if spec.params is not None
}


def decode_notification(method: str, params: JSON) -> Wire:
    """Read a notification's params. Never raises.

    Returns:
        The value; an :class:`~trio_codex.wire.UnknownNotification` if the method is unknown or the params do not fit.
    """
    try:
        return _NOTIFICATIONS[method](params, None)  # type: ignore[no-any-return]
    except Exception as error:
        if method not in _NOTIFICATIONS.types:
            return UnknownNotification(method=method, raw=params)
        why = _NOTIFICATIONS.explained(method, params, error)
        return UnknownNotification(method=method, raw=params, problem=f"{why.path}: {why.problem}")


def decode_notification_json(method: str, params: Text) -> Wire:
    """Read a notification's params from JSON text. Never raises: text that is no JSON is not known, either."""
    try:
        # What reading an event costs is mostly this line.
        return _NOTIFICATION_TEXTS[method](params)  # type: ignore[no-any-return]
    except Exception:
        try:
            parsed = _parse(params)
        except Exception as error:
            problem = f"$: not JSON ({error.__class__.__name__})"
            return UnknownNotification(method=method, raw=None, problem=problem)
        return decode_notification(method, parsed)


def decode_server_request(method: str, params: JSON) -> Wire:
    """Read a server request's params.

    Returns:
        The value; an :class:`~trio_codex.wire.UnknownServerRequest` if the method is unknown.

    Raises:
        DecodeError: The params do not fit.
    """
    if method not in _SERVER_REQUESTS.types:
        return UnknownServerRequest(method=method, raw=params)
    try:
        return _SERVER_REQUESTS[method](params, None)  # type: ignore[no-any-return]
    except Exception as error:
        raise _SERVER_REQUESTS.explained(method, params, error) from None


def decode_result(method: str, result: JSON) -> JSON:
    """Read the result of a request of ours.

    Returns:
        The value; the raw result itself if the method is unknown.

    Raises:
        DecodeError: The result does not fit.
    """
    if method not in _RESULTS.types:
        return result
    try:
        return _RESULTS[method](result, None)
    except Exception as error:
        raise _RESULTS.explained(method, result, error) from None


SESSION: Final = (
    "initialize", "thread/start", "thread/started", "thread/status/changed", "thread/tokenUsage/updated",
    "turn/start", "turn/started", "turn/completed", "turn/interrupt", "item/started", "item/completed",
    "item/agentMessage/delta", "account/rateLimits/updated", "error",
)  # fmt: skip
"""What nearly every session sends and gets: the default of :func:`preload`."""


def preload(methods: Iterable[str] = SESSION) -> None:
    """Import and prepare the types of these methods, which otherwise happens when the first one arrives.

    Args:
        methods: Methods of any table; unknown ones are passed over.
    """
    for method in methods:
        if method in _NOTIFICATIONS.types:
            _ = _NOTIFICATION_TEXTS[method]
        for table in (_SERVER_REQUESTS, _RESULTS):
            if method in table.types:
                _ = table[method]
        if method in _PARAMS:
            _WRITER.get_unstructure_hook(getattr(wire, _PARAMS[method]))
