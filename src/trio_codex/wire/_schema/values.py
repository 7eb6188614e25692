"""The values that a type allows in one place, by kind of JSON. A comparison of two protocols compares these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from trio_codex.wire._schema import ir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORDS: Final = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "None": "null"}
"""The words of JSON Schema for plain types."""


@attrs.frozen
class Values:
    """The possible values in one place, by kind, with references and aliases resolved."""

    scalars: frozenset[ir.Plain] = frozenset()
    strings: frozenset[str] | None = None
    """The allowed strings; if ``str`` is among the scalars, any string is allowed."""
    objects: tuple[ir.Class, ...] = ()
    item: ir.Type | None = None
    """The items, if it is an array."""
    value: ir.Type | None = None
    """The values, if it is an object with arbitrary keys."""
    any: bool = False
    unknown: bool = False
    """Whether other objects are allowed, too."""

    @classmethod
    def of(cls, type_: ir.Type, definitions: Mapping[str, ir.Definition]) -> Values:
        """Resolve a type."""
        parts = [*_resolved(type_, definitions)]
        if ir.ANY in parts:
            return cls(any=True)
        strings = [part.values for part in parts if isinstance(part, ir.Const)]
        return cls(
            scalars=frozenset(
                ir.NONE if part == ir.NULL else part for part in parts if isinstance(part, ir.Plain)
            ),
            strings=frozenset[str]().union(*strings) if strings else None,
            objects=tuple(part for part in parts if isinstance(part, ir.Class)),
            item=next((part.item for part in reversed(parts) if isinstance(part, ir.Seq)), None),
            value=next((part.value for part in reversed(parts) if isinstance(part, ir.Map)), None),
            unknown=ir.UNKNOWN in parts,
        )

    @property
    def closed(self) -> bool:
        """Whether strings other than the allowed ones are invalid."""
        return self.strings is not None and ir.STR not in self.scalars

    @property
    def has_objects(self) -> bool:
        """Whether any object is allowed."""
        return bool(self.objects) or self.value is not None or self.unknown

    def without_null(self) -> Values:
        """Return these values except null."""
        return attrs.evolve(self, scalars=self.scalars - {ir.NONE})

    def kinds(self) -> frozenset[str]:
        """Return the kinds of JSON that are allowed; a number may be an integer."""
        kinds = {WORDS[scalar.name] for scalar in self.scalars}
        kinds |= {"integer"} if ir.FLOAT in self.scalars else set()
        kinds |= {"string"} if self.strings is not None else set()
        kinds |= {"array"} if self.item is not None else set()
        kinds |= {"object"} if self.has_objects else set()
        return frozenset(kinds)

    def describe(self) -> str:
        """Describe the kinds, for a message."""
        words = sorted(WORDS[scalar.name] for scalar in self.scalars if scalar != ir.NONE)
        words += ["enum"] if self.closed else []
        words += ["object"] if self.has_objects else []
        words += ["array"] if self.item is not None else []
        words += ["null"] if ir.NONE in self.scalars else []
        return "anything" if self.any else " or ".join(words)


def _resolved(type_: ir.Type, definitions: Mapping[str, ir.Definition]) -> Iterator[ir.Type]:
    """Iterate over the members of a type, references and aliases resolved."""
    for part in ir.members(type_):
        match part if part == ir.UNKNOWN or not isinstance(part, ir.Ref) else definitions[part.name]:
            case ir.Alias(type=target):
                yield from _resolved(target, definitions)
            case ir.Enum(members=members):
                yield ir.Const(tuple(member.value for member in members))
            case found:
                yield found
