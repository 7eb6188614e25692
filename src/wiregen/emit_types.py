"""The domain modules of ``trio_codex.wire``: enums, classes and type aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_codex.wire._schema import ir
from wiregen import WiregenError, elisions, names
from wiregen.render import docstring, entry, field_doc, notes, quote, type_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wiregen.protocol import Protocol

_DECORATOR = "@attrs.frozen(kw_only=True, eq=False, repr=False)"
"""Classes inherit ``__eq__`` and ``__repr__`` from :class:`Wire`, which halves the import time of 600 classes."""


def emit(protocol: Protocol, header: str) -> dict[str, str]:
    """Emit every domain module.

    Returns:
        The text by module name.
    """
    modules: dict[str, list[ir.Definition]] = {}
    for name, module in sorted(protocol.home.items()):
        modules.setdefault(module, []).append(protocol.definitions[name])
    uses = _uses(protocol)
    return {
        module: _Module(protocol=protocol, module=module, uses=uses).write(definitions, header)
        for module, definitions in modules.items()
    }


def _uses(protocol: Protocol) -> dict[str, str]:
    """Return a summary for each type of params or results. Most have no description in the schema."""
    texts: dict[ir.Table, tuple[str, str]] = {
        "ClientRequest": ("Params of the request", "Result of the request"),
        "ServerRequest": ("Params of the server request", "Response to the server request"),
        "ServerNotification": ("Params of the notification", ""),
    }
    uses: dict[str, str] = {}
    for table, described in texts.items():
        for method in protocol.methods[table].values():
            for name, text in zip(ir.refs(method), described[method.params == ir.NONE :], strict=False):
                uses.setdefault(name, f"{text} `{method.name}`.")
    return uses


@attrs.define(kw_only=True)
class _Module:
    """The parts of one module."""

    protocol: Protocol
    module: str
    uses: Mapping[str, str]
    needed: set[str] = attrs.field(factory=set[str])
    """Definitions of other modules that aliases and defaults use, so they are needed at import time."""

    def write(self, definitions: Sequence[ir.Definition], header: str) -> str:
        """Emit the module."""
        enums = [item for item in definitions if isinstance(item, ir.Enum)]
        classes = [item for item in definitions if isinstance(item, ir.Class)]
        aliases = _in_order([item for item in definitions if isinstance(item, ir.Alias)])
        body: list[str] = []
        for enum in enums:
            body += self._enum(enum)
        for class_ in classes:
            body += self._class(class_)
        for alias in aliases:
            body += self._alias(alias)
        return "\n".join([header, *self._prologue(definitions), *body, ""])

    # -- imports ---------------------------------------------------------------------------------------------------

    def _prologue(self, definitions: Iterable[ir.Definition]) -> list[str]:
        """Emit the imports. Annotations are not evaluated at import time, so their names are imported type-only."""
        home = self.protocol.home
        foreign = {
            name
            for definition in definitions
            for name in ir.refs(definition)
            if home.get(name, self.module) != self.module
        }
        lines = [
            f'"""Types of the protocol: {self.module.strip("_").replace("_", " ")}."""',
            "",
            "from __future__ import annotations",
            "",
            "from collections.abc import Mapping, Sequence",
            "from enum import StrEnum",
            "from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias",
            "",
            "import attrs",
            "",
            "from trio_codex.wire._base import JSON, Null, Page, Shape, Wire, empty_dict, empty_list",
            *_imports(self.needed, home),
            "from trio_codex.wire._unknown import UnknownVariant",
            "",
        ]
        if later := foreign - self.needed:
            lines += ["if TYPE_CHECKING:", *(f"    {line}" for line in _imports(later, home)), ""]
        return lines

    def _need(self, name: str) -> str:
        """Record that a definition is needed at import time."""
        if self.protocol.home.get(name, self.module) != self.module:
            self.needed.add(name)
        return name

    # -- definitions -----------------------------------------------------------------------------------------------

    def _enum(self, enum: ir.Enum) -> list[str]:
        lines = ["", f"class {enum.name}(StrEnum):"]
        lines += docstring(enum.doc or f"Known values of `{enum.name}`.", notes(enum))
        lines.append("")
        for member in enum.members:
            lines.append(f"    {member.name} = {quote(member.value)}")
            if member.doc or member.since:
                lines += docstring(member.doc or notes(member), notes(member) if member.doc else "")
        return [*lines, ""]

    def _class(self, class_: ir.Class) -> list[str]:
        described = [field for field in class_.fields if field_doc(field)]
        section = "\n".join(["Attributes:", *(entry(field.name, field_doc(field)) for field in described)])
        is_page = {"data", "next_cursor"} <= {field.name for field in class_.fields}
        lines = ["", _DECORATOR, f"class {class_.name}({'Page' if is_page else 'Wire'}):"]
        lines += docstring(
            class_.doc or self._summary(class_),
            notes(class_),
            section if described else "",
        )
        for field in class_.fields:
            annotation = type_text(field.type, self.protocol.definitions)
            lines.append(f"    {field.name}: {annotation}{self._default(field)}")
        if class_.open:
            lines.append("    additional: Mapping[str, JSON] = attrs.field(factory=empty_dict)")
        if shape := self._shape(class_):
            lines += ["", f"    __wire__: ClassVar[Shape] = Shape({shape})"]
        return [*lines, ""]

    def _summary(self, class_: ir.Class) -> str:
        if class_.name in self.uses:
            return self.uses[class_.name]
        if class_.parent is not None:
            tag = next((field.default for field in class_.fields if field.name == class_.tag), class_.key)
            return f"A variant of `{class_.parent}`" + ("." if tag is None else f", `{tag}`.")
        return f"The type `{class_.name}`."

    def _default(self, field: ir.Field) -> str:
        match field.default:
            case ir.Missing():
                return ""
            case str(value):
                return f" = {self._text_default(field, field.type, value)}"
            case ():
                return " = attrs.field(factory=empty_list)"
            case tuple(values):
                item = field.type.item if isinstance(field.type, ir.Seq) else field.type
                written = ", ".join(self._text_default(field, item, value) for value in values)
                return f" = attrs.field(factory=lambda: [{written}])"
            case value:
                return f" = {value!r}"

    def _text_default(self, field: ir.Field, type_: ir.Type, value: str) -> str:
        """Emit the default of a string field, as an enum member if the type of the field is an enum."""
        definitions = self.protocol.definitions
        for name in ir.refs(type_):
            target = definitions[name]
            for enum in (target, *map(definitions.get, ir.refs(target))):
                if not isinstance(enum, ir.Enum):
                    continue
                for member in enum.members:
                    if member.value == value:
                        return f"{self._need(enum.name)}.{member.name}"
            raise WiregenError(f"the default {value!r} of {field.wire} is not in {name}")
        return quote(value)

    def _shape(self, class_: ir.Class) -> str:
        """Emit the arguments of a class's :class:`Shape`; an empty string if all have their defaults."""
        renamed = {field.name: field.wire for field in class_.fields if field.name != field.wire}
        elided = elisions.elided(class_, self.protocol.definitions)
        clears = {field.name for field in class_.fields if field.clears}
        texts = [f"{quote(name)}: {quote(wire)}" for name, wire in renamed.items()]
        parts = (
            renamed and f"names={{{', '.join(texts)}}}",
            class_.tag and f"tag={quote(class_.tag)}",
            class_.key and f"key={quote(class_.key)}",
            class_.closed and "closed=True",
            class_.open and "open=True",
            elided and f"elided={_frozenset(elided)}",
            clears and f"clears={_frozenset(clears)}",
        )
        return ", ".join(part for part in parts if isinstance(part, str) and part)

    def _alias(self, alias: ir.Alias) -> list[str]:
        for name in ir.refs(alias):
            self._need(name)
        is_short_name = alias.name in names.EXTRA_ALIASES
        text = type_text(alias.type, {} if is_short_name else self.protocol.definitions)
        lines = ["", f"{alias.name}: TypeAlias = {text}"]
        lines += docstring(alias.doc or f"The type `{alias.name}`.", notes(alias), indent=0)
        return lines


def _in_order(aliases: list[ir.Alias]) -> list[ir.Alias]:
    """Sort aliases so that each follows those it mentions."""
    by_name = {alias.name: alias for alias in aliases}
    done: dict[str, ir.Alias] = {}

    def visit(alias: ir.Alias) -> None:
        for name in ir.refs(alias):
            if name in by_name and name != alias.name:
                visit(by_name[name])
        done.setdefault(alias.name, alias)

    for alias in aliases:
        visit(alias)
    return list(done.values())


def _imports(wanted: Iterable[str], home: Mapping[str, str]) -> list[str]:
    by_module: dict[str, list[str]] = {}
    for name in sorted(wanted):
        by_module.setdefault(home[name], []).append(name)
    return [
        f"from trio_codex.wire.{module} import {', '.join(found)}"
        for module, found in sorted(by_module.items())
    ]


def _frozenset(items: Iterable[str]) -> str:
    return "frozenset({" + ", ".join(map(quote, sorted(items))) + "})"
