"""Typed output: a JSON Schema that constrains the model's answer, and the conversion of the answer to the type.

The model's API requires the strict form of a schema: every property required, no additional ones, and an object at the
top level.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import attrs
import msgspec

from trio_codex._core.arguments import described
from trio_codex._tools.json_schema import fields_schema, object_schema
from trio_codex._tools.json_types import Field, is_object, unwrapped
from trio_codex._tools.json_values import ValidationFailure, fields_from_json, from_json
from trio_codex._values.turn_result import TurnResult, TurnStatus

if TYPE_CHECKING:
    from types import UnionType

T = TypeVar("T")

WRAPPED: Final = "value"
"""The property that wraps a value that is not an object. The model's API requires an object at the top level."""


class OutputType(Generic[T]):
    """A type for the final response of a turn.

    Raises:
        TypeError: It is not a type, or a model cannot be constrained to it.
    """

    def __init__(self, type_: type[T] | UnionType) -> None:
        _check(type_)
        self.schema: dict[str, Any]
        self._type: Any = type_
        self._wrapper: list[Field] = []
        bare, _ = unwrapped(type_)
        if is_object(bare):
            self.schema = object_schema(bare, strict=True)
        else:
            self._wrapper = [Field(WRAPPED, type_, required=True, default=attrs.NOTHING)]
            self.schema = fields_schema(self._wrapper, "output_type", strict=True)

    def settle(self, result: TurnResult[Any]) -> TurnResult[T | None]:
        """Set the output of a turn's result. A turn that did not complete has none."""
        if result.status != TurnStatus.completed:
            return result
        try:
            return attrs.evolve(result, output=self._read(result.final_response))
        except ValidationFailure as exc:
            return attrs.evolve(result, problem=str(exc))

    def _read(self, text: str | None) -> T:
        if text is None:
            raise ValidationFailure(["there is no final response"])
        try:
            json = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise ValidationFailure([f"it is not JSON: {exc}"]) from None
        if self._wrapper:
            value: T = fields_from_json(self._wrapper, json)[WRAPPED]
            return value
        read: T = from_json(self._type, json)
        return read


def with_output(result: TurnResult[Any], output_type: type[T] | UnionType) -> TurnResult[T | None]:
    """Return a result with its final response read as a type, as ``thread.run(output_type=…)`` does.

    Args:
        result: The result of a turn, for example one made from a thread's history.
        output_type: The type.

    Raises:
        TypeError: A model cannot be constrained to the type.
    """
    return OutputType(output_type).settle(result)


def _check(type_: object) -> None:
    """Reject values that are commonly passed instead of a type, such as a JSON Schema or a value of the type."""
    hint, got = "pass a class", described(type_)
    if isinstance(type_, dict):
        hint = "pass a JSON Schema as output_schema"
    elif isinstance(type_, list):
        hint = "write list[…]"
    elif is_object(type(type_)):
        hint = f"pass the class {type(type_).__name__} itself"
    elif not isinstance(type_, str | bytes | int | float) and not inspect.isroutine(type_):
        return
    raise TypeError(f"output_type expects a type, got {got}: {hint}")
