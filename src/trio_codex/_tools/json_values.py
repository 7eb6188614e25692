"""Strictly convert JSON from a model to values of any type, and back. Errors refer to the JSON, not to the types.

cattrs converts composite values, msgspec converts leaves. The only coercion is for numbers and booleans in tool
arguments, which models sometimes write as strings: ``"12"`` and ``"true"`` are accepted where a string is not. Unknown
members of an object are refused, so that a model learns of its mistake. If a field has a
default and does not accept null, null counts as absent: models write it, and the strict form of a schema requires it.
"""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from types import GenericAlias, NoneType
from typing import Any, Final, TypeAlias, cast, get_args

import msgspec
from cattrs import Converter, cols, gen
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import typeddicts

from trio_codex._core.arguments import described
from trio_codex._core.json import UNREADABLE
from trio_codex._tools.json_types import (
    ARRAYS,
    MAPPINGS,
    PATHS,
    Field,
    Type,
    annotated,
    choices,
    fields_of,
    is_named_tuple,
    is_object,
    is_typed_dict,
    members,
    origin,
    takes_null,
    unwrapped,
)
from trio_codex.wire import _convert
from trio_codex.wire._unions import Mismatch, is_wire, scalar

Hook: TypeAlias = Callable[[Any, Any], Any]

# cattrs declares no types for the parameters and results of these.
_make_class_hook: Final = cast("Callable[..., Hook]", gen.make_dict_structure_fn)
_make_typed_dict_hook: Final = cast("Callable[..., Hook]", typeddicts.make_dict_structure_fn)  # pyright: ignore[reportUnknownMemberType]
_make_mapping_hook: Final = cast("Callable[..., Hook]", gen.make_mapping_structure_fn)  # pyright: ignore[reportUnknownMemberType]
_NAMED_TUPLES: Final = cast(
    "tuple[Callable[..., Hook], Callable[..., Callable[[Any], Any]]]",
    (cols.namedtuple_dict_structure_factory, cols.namedtuple_dict_unstructure_factory),  # pyright: ignore[reportUnknownMemberType]
)

CHOICES_SHOWN: Final = 20
"""Maximum number of enum members that an error lists; more would hide the rest of the message."""


class ValidationFailure(Exception):
    """A JSON value does not match a type.

    Attributes:
        problems: The problems, each with its path, as in ``items[2].name: is missing``.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def from_json(type_: type | Type, value: object) -> Any:
    """Convert a parsed JSON value to a type.

    Raises:
        ValidationFailure: The value does not match the type.
        TypeError: The type is not supported.
    """
    hook = _converter().get_structure_hook(type_)
    try:
        return hook(value, type_)
    except Exception as exc:
        raise ValidationFailure(list(_problems(exc, ""))) from exc


def fields_from_json(fields: Sequence[Field], value: object, *, spelled: bool = False) -> dict[str, Any]:
    """Convert the members of a parsed JSON object to these fields. Absent optional fields are left out.

    With ``spelled``, numbers and booleans may be written as strings.

    Raises:
        ValidationFailure: The object does not match the fields.
        TypeError: A type is not supported.
    """
    if not isinstance(value, dict):
        raise ValidationFailure([str(Mismatch("an object", value))])
    given = cast("dict[str, Any]", value)
    read: dict[str, Any] = {}
    problems: list[str] = []
    for field in fields:
        if field.name not in given:
            problems += [f"{field.name}: is missing"] if field.required else []
        elif given[field.name] is None and field.absent_as_null:
            continue
        else:
            hook = _converter(spelled).get_structure_hook(field.type)
            try:
                read[field.name] = hook(given[field.name], field.type)
            except Exception as exc:
                problems += _problems(exc, field.name)
    unknown = given.keys() - {field.name for field in fields}
    problems += [f"{name}: is not a known field" for name in sorted(unknown)]
    if problems:
        raise ValidationFailure(problems)
    return read


def to_json(value: object) -> bytes:
    """Convert a value to JSON. Raise ``TypeError`` if it, or something in it, is not supported."""
    plain = _converter().unstructure(value)
    try:
        return msgspec.json.encode(plain, enc_hook=_encode_other)
    except UnicodeEncodeError:
        # A lone surrogate, as in some file names: JSON can carry it only as an escape.
        builtins = msgspec.to_builtins(plain, enc_hook=_encode_other)
        return json.dumps(builtins, separators=(",", ":")).encode()


def _encode_other(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"cannot serialize {described(value)} as JSON")


@functools.cache
def _converter(spelled: bool = False) -> Converter:
    """Create a converter. The factory registered last is tried first."""
    converter = Converter(detailed_validation=True)
    # cattrs has its own hooks for these and prefers them over any factory.
    for kind in (str, bytes, bool, int, float, Enum, Path):
        converter.register_structure_hook(kind, _read_leaf)
    for kind in (bool, int, float) if spelled else ():
        converter.register_structure_hook(kind, _read_spelled)
    hooks: tuple[tuple[Callable[[Type], bool], Callable[[Type, Converter], Hook]], ...] = (
        (lambda _: True, lambda type_, _: _leaf_hook(type_)),
        (is_object, _object_hook),
        (lambda type_: origin(type_) in MAPPINGS, _mapping_hook),
        (lambda type_: origin(type_) in ARRAYS and not is_object(type_), _array_hook),
        (lambda type_: members(type_) is not None, _spelled_union_hook if spelled else _union_hook),
        (lambda type_: unwrapped(type_)[0] is not type_, _annotated_hook),
    )
    for matches, factory in hooks:
        converter.register_structure_hook_factory(matches, factory)
    converter.register_unstructure_hook_factory(is_named_tuple, _NAMED_TUPLES[1])
    converter.register_unstructure_hook_func(is_wire, _convert.encode)
    return converter


def _checked(kind: type, called: str, inner: Hook) -> Hook:
    """Refuse every kind of JSON except the one that a hook handles."""

    def structure(value: Any, type_: Any) -> Any:
        if value.__class__ is not kind:
            raise Mismatch(called, value)
        return inner(value, type_)

    return structure


# -- leaves --------------------------------------------------------------------------------------------------------

_SCALARS: Final[dict[Type, Hook]] = {
    str: scalar(str),
    bool: scalar(bool),
    int: scalar(int),
    float: scalar(int, float),
    NoneType: scalar(NoneType),
    None: scalar(NoneType),
}


def _read_leaf(value: Any, type_: Type) -> Any:
    return _leaf_hook(type_)(value, type_)


def _read_spelled(value: Any, type_: Type) -> Any:
    """Convert a number or a boolean, which may be written as a JSON string."""
    if value.__class__ is str:
        try:
            spelled = msgspec.json.decode(value) if value == value.strip() else None
        except (UnicodeEncodeError, *UNREADABLE):
            spelled = None
        # Accept only digits for an integer: "12.0" is an integer, too, but a long fraction loses precision.
        if spelled.__class__ in ((int, float) if type_ is float else (type_,)):
            value = spelled
    return _read_leaf(value, type_)


@functools.lru_cache
def _leaf_hook(type_: Type) -> Hook:
    if (by_json := choices(type_)) is not None:
        return _choice_hook(by_json)
    if type_ in (Any, object):
        return lambda value, _: value
    if type_ in PATHS:
        return _checked(str, "a string", lambda value, _: type_(value))
    if type_ is int:
        # In JSON Schema, 3.0 is an integer.
        return lambda value, _: _SCALARS[int](
            int(value) if value.__class__ is float and value.is_integer() else value, _
        )
    if type_ is float:
        return lambda value, _: float(_SCALARS[float](value, _))
    if type_ in _SCALARS:
        return _SCALARS[type_]
    try:
        msgspec.json.schema(type_)
    except TypeError:
        raise TypeError(f"{type_!r} cannot be converted from JSON") from None
    return lambda value, _: msgspec.convert(value, type_)


def _choice_hook(by_json: Mapping[tuple[type, Any], object]) -> Hook:
    shown = ["null" if value is None else repr(value) for _, value in by_json]
    expected = ", ".join(shown[:CHOICES_SHOWN]) + (", …" if len(shown) > CHOICES_SHOWN else "")
    only = "" if len(shown) == 1 else "one of "

    def structure(value: Any, _: Any) -> Any:
        try:
            return by_json[value.__class__, value]
        except (KeyError, TypeError):  # a list is not hashable
            raise ValueError(f"expected {only}{expected}") from None

    return structure


def _annotated_hook(type_: Type, converter: Converter) -> Hook:
    bare, notes = unwrapped(type_)
    inner = converter.get_structure_hook(bare)
    if not notes.metas:
        return lambda value, _: inner(value, bare)
    bounds = annotated(_bounded(bare), notes.metas)

    def structure(value: Any, _: Any) -> Any:
        result = inner(value, bare)
        # msgspec accepts neither 3.0 as an integer nor "3" as a number.
        msgspec.convert(result if bare in (int, float, bool) else value, bounds)
        return result

    return structure


def _bounded(type_: Type) -> Type:
    """Return the plain JSON type whose bounds are checked."""
    if members(type_) is not None or choices(type_) is not None:
        return Any
    if is_object(type_) or origin(type_) in MAPPINGS:
        return dict
    if origin(type_) in ARRAYS:
        return list
    return str if type_ in PATHS else type_


# -- composites ----------------------------------------------------------------------------------------------------


def _object_hook(cls: Type, converter: Converter) -> Hook:
    if is_named_tuple(cls):
        inner = _NAMED_TUPLES[0](cls, converter, True, True)
    else:
        make = _make_typed_dict_hook if is_typed_dict(cls) else _make_class_hook
        inner = make(cls, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True)
    absent_as_null = {field.name for field in fields_of(cls) if field.absent_as_null}

    def structure(value: Any, type_: Any) -> Any:
        present = {key: each for key, each in value.items() if each is not None or key not in absent_as_null}
        return inner(present, type_)

    return _checked(dict, "an object", structure)


def _mapping_hook(type_: Type, converter: Converter) -> Hook:
    _, item = get_args(type_) or (str, Any)
    inner = _make_mapping_hook(GenericAlias(dict, (str, item)), converter, detailed_validation=True)
    return _checked(dict, "an object", inner)


def _array_hook(type_: Type, converter: Converter) -> Hook:
    items = get_args(type_)
    if origin(type_) is tuple and items and items[-1:] != (...,):
        return _checked(list, "an array", _tuple_hook(items, converter))
    inner = cols.list_structure_factory(cast("Any", GenericAlias(list, items[:1] or (Any,))), converter)
    make = ARRAYS[origin(type_)]
    return _checked(list, "an array", lambda value, _: make(inner(value, None)))


def _tuple_hook(items: tuple[Type, ...], converter: Converter) -> Hook:
    hooks = [converter.get_structure_hook(item) for item in items]

    def structure(value: Any, type_: Any) -> Any:
        if len(value) != len(items):
            raise ValueError(f"expected {len(items)} items, got {len(value)}")
        read: list[Any] = []
        errors: list[Exception] = []
        for index, (item, item_type, hook) in enumerate(zip(value, items, hooks, strict=True)):
            try:
                read.append(hook(item, item_type))
            except Exception as exc:
                exc.add_note(IterableValidationNote("", index, item_type))
                errors.append(exc)
        if errors:
            # Its `__new__` also takes the class; type checkers see only that of exception groups.
            raise IterableValidationError("", errors, type_)  # pyright: ignore[reportCallIssue]
        return tuple(read)

    return structure


def _union_hook(type_: Type, converter: Converter) -> Hook:
    """Return a hook for the first member that matches. Nothing is coerced, so the order rarely matters."""
    parts = members(type_) or ()
    hooks: list[Hook] = []
    nullable = takes_null(type_)
    real = [part for part in parts if part is not NoneType]

    def structure(value: Any, _: Any) -> Any:
        if value is None and nullable:
            return None
        if not hooks:  # on first use: a class may refer to itself
            hooks.extend(converter.get_structure_hook(part) for part in real)
        tried: list[Exception] = []
        for part, hook in zip(real, hooks, strict=True):
            try:
                return hook(value, part)
            except Exception as exc:  # try the next one
                tried.append(exc)
        raise tried[0] if len(tried) == 1 else _NoMember(real, tried)

    return structure


def _spelled_union_hook(type_: Type, converter: Converter) -> Hook:
    """Return a hook that prefers an exact match; a string is converted to a number or boolean only if it matches no member."""
    strict = _converter().get_structure_hook(type_)
    lenient = _union_hook(type_, converter)

    def structure(value: Any, _: Any) -> Any:
        try:
            return strict(value, type_)
        except Exception:  # the second attempt reports the error
            return lenient(value, type_)

    return structure


class _NoMember(Exception):
    """No member of a union matches."""

    def __init__(self, parts: list[Type], errors: list[Exception]) -> None:
        super().__init__()
        self.pairs = list(zip(parts, errors, strict=True))


# -- problems ------------------------------------------------------------------------------------------------------


def _problems(error: BaseException, path: str) -> Iterator[str]:
    """Yield a description of each problem, with its path in the JSON."""
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            yield from _problems(inner, path + _step(inner, path))
    elif isinstance(error, ForbiddenExtraKeysError):
        yield from (f"{_below(path, name)}: is not a known field" for name in sorted(error.extra_fields))
    elif isinstance(error, _NoMember):
        failures = (f"as {_name(part)}: {', '.join(_problems(inner, ''))}" for part, inner in error.pairs)
        yield _at(path, f"matches none of these types ({'; '.join(failures)})")
    elif isinstance(error, KeyError):
        yield _at(path, "is missing")
    elif isinstance(error, (Mismatch, ValueError, TypeError)):
        text = str(error)
        yield _at(path, text[:1].lower() + text[1:])
    else:
        yield _at(path, f"{error.__class__.__name__}: {error}")


def _step(error: BaseException, path: str) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f".{note.name}" if path else note.name
        if isinstance(note, IterableValidationNote):
            return f"[{note.index!r}]"
    return ""


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _at(path: str, problem: str) -> str:
    return f"{path}: {problem}" if path else problem


def _name(type_: Type) -> str:
    bare, _ = unwrapped(type_)
    return bare.__name__ if isinstance(bare, type) and not typing.get_args(bare) else str(bare)
