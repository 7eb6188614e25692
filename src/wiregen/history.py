"""The history of the schema: the names that each release of the binary added and removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import attrs

from trio_codex.wire._schema import ir
from wiregen import tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trio_codex.wire._schema.read import Schema

FILE: Final = Path(__file__).parent / "schema" / "HISTORY.json"


@attrs.frozen(kw_only=True)
class History:
    """The releases, oldest first, with the names that each added and removed."""

    first: str
    """The first release. Its names are not recorded."""
    added: Mapping[str, Sequence[str]]
    removed: Mapping[str, Sequence[str]]

    @property
    def since(self) -> Mapping[str, str]:
        """The release that first added each name, even if the name was removed in between."""
        since: dict[str, str] = {}
        for version, added in self.added.items():
            for name in added:
                since.setdefault(name, version)
        return since

    def extended(self, version: str, old: set[str], new: set[str]) -> History:
        """Return the history with another release, given the names in the previous release and in this one."""
        return attrs.evolve(
            self,
            added={**self.added, version: sorted(new - old)},
            removed={**self.removed, version: sorted(old - new)},
        )


def load() -> History:
    """Load the recorded history."""
    return History(**json.loads(FILE.read_text(encoding="utf-8")))


def save(history: History) -> None:
    """Record a history. A release that changed nothing is left out."""
    content = attrs.asdict(history)
    for kind in ("added", "removed"):
        content[kind] = {version: names for version, names in content[kind].items() if names}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def names(definitions: Schema) -> set[str]:
    """Return the name of everything in a schema: ``turn/start``, ``Turn``, ``Turn.id``, ``TurnStatus: failed``.

    A member of a union is ``ThreadItem: plan``, and its property is ``ThreadItem: plan.text``.
    """
    found = {name for table in get_args(ir.Table) for name in definitions.methods(table)}
    for name in definitions.keys() - tables.ENVELOPES:
        found |= {name, *_inside(definitions[name], name)}
    return found


def label(union: str, class_: ir.Class) -> str:
    """Return the name of a member of a union: by its tag, else by its required keys."""
    constants = [ir.constant(field.type) for field in class_.fields]
    tag = next((constant for constant in constants if constant is not None), None)
    return f"{union}: {tag or '|'.join(field.wire for field in class_.fields if field.required)}"


def _inside(what: ir.Definition | ir.Type, name: str) -> Iterator[str]:
    match what:
        case ir.Enum(members=members):
            yield from (f"{name}: {member.value}" for member in members)
        case ir.Class(fields=fields):
            yield from (f"{name}.{field.wire}" for field in fields)
        case ir.Alias(type=ir.Union(members)):
            for member in members:
                yield from _inside(member, label(name, member) if isinstance(member, ir.Class) else name)
        case ir.Const(values):
            yield from (f"{name}: {value}" for value in values)
        case _:
            pass
