"""Directives that document generated code: the wire types by domain, and the methods of ``codex.api``.

Both directives inspect the package itself, so they are never out of date. Each listed type becomes a target for references.
In all signatures, types have their public names: unions are not expanded, and private modules are hidden.
"""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyObject
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

from trio_codex import wire
from trio_codex._api import generated as _api_generated
from trio_codex.wire._index import HOME
from trio_codex.wire._registry import CLIENT_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sphinx.application import Sphinx

DOMAINS = {
    "_turns": "Turns",
    "_items": "Items of a turn",
    "_threads": "Threads",
    "_thread_admin": "Keeping threads",
    "_history": "History",
    "_session": "The session itself",
    "_approvals": "Approvals",
    "_elicitation": "Questions to the user",
    "_legacy": "Legacy approvals",
    "_models": "Models",
    "_account": "Accounts and logins",
    "_config": "Configuration",
    "_exec": "Commands and processes",
    "_fs": "Files",
    "_mcp": "MCP servers",
    "_plugins": "Plugins, skills and apps",
    "_realtime": "Realtime",
    "_remote": "Remote control and environments",
    "_registry": "Tables of methods",
}


class WireTypes(SphinxDirective):
    """``.. wire-types::``: one section for each domain."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        domains: dict[str, list[str]] = {}
        for name, module in HOME.items():
            domains.setdefault(module, []).append(name)
        order = [*DOMAINS, *sorted(set(domains) - set(DOMAINS))]
        return [self._section(module, sorted(domains[module])) for module in order if module in domains]

    def _section(self, module: str, names: list[str]) -> nodes.Node:
        title = DOMAINS.get(module, module.strip("_").replace("_", " ").capitalize())
        section = nodes.section(ids=[nodes.make_id(f"wire-{module}")], names=[f"wire{module}"])
        section += nodes.title(text=title)
        rows = [(self._target(name), _describe(name)) for name in names]
        section += _table(("Type", "What is in it"), (36, 64), rows)
        return section

    def _target(self, name: str) -> nodes.Node:
        full_name = f"trio_codex.wire.{name}"
        literal = nodes.literal(text=name, ids=[full_name])
        kind = "class" if isinstance(getattr(wire, name), type) else "data"
        domain = self.env.get_domain("py")
        domain.note_object(full_name, kind, full_name, location=literal)  # type: ignore[attr-defined]
        return nodes.paragraph("", "", literal)


class ApiMethods(SphinxDirective):
    """``.. api-methods::``: one section for each group of requests."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        own = [(name, method) for name, method in vars(_api_generated.Api).items() if _is_method(method)]
        groups = [
            (name, prop) for name, prop in vars(_api_generated.Api).items() if hasattr(prop, "attrname")
        ]
        sections = []
        for name, prop in sorted(groups):
            group = typing.get_type_hints(prop.func, vars(_api_generated))["return"]
            methods = [
                (f"{name}.{each}", method) for each, method in vars(group).items() if _is_method(method)
            ]
            sections.append(self._section(name, methods))
        if own:
            sections.append(self._section("Not grouped", own))
        return sections

    def _section(self, title: str, methods: list[tuple[str, Any]]) -> nodes.Node:
        section = nodes.section(ids=[nodes.make_id(f"api-{title}")], names=[f"api {title}"])
        section += nodes.title("", "", nodes.literal(text=title) if title[0].islower() else nodes.Text(title))
        requests = nodes.definition_list(classes=["requests"])
        section += requests
        for call, method in sorted(methods):
            requests += _request(call, method)
        return section


def _request(call: str, method: Any) -> nodes.Node:
    """Describe a request: its call, its result, its method on the wire, and its parameters."""
    docstring = inspect.getdoc(method) or ""
    # A summary may mention other methods first.
    wire_name = re.search(r"\bSends? ``([^`]+)``", docstring)
    assert wire_name is not None
    spec = CLIENT_REQUESTS[wire_name[1]]
    signature = inspect.signature(method)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    term = nodes.term("", "", nodes.literal(text=f"{call}({'…' if parameters else ''})"))
    facts = _names([wire_name[1]])
    facts += nodes.Text(" → ")
    facts += nodes.literal(text=str(signature.return_annotation))
    for mark, holds in (
        ("experimental", spec.experimental),
        ("no timeout", spec.deferred),
        (f"since {spec.since}", spec.since),
    ):
        if holds:
            facts += nodes.Text(", ")
            facts += nodes.emphasis(text=mark)
    body = nodes.definition("", facts)
    if parameters:
        described = _described(docstring)
        rows = nodes.bullet_list()
        for each in parameters:
            row = nodes.paragraph("", "", nodes.literal(text=f"{each.name}: {each.annotation}"))
            if each.default is inspect.Parameter.empty:
                row += nodes.Text(", required")
            if text := described.get(each.name):
                row += nodes.Text(". ")
                row += _inline(text)
            rows += nodes.list_item("", row)
        body += rows
    return nodes.definition_list_item("", term, body)


def _described(docstring: str) -> dict[str, str]:
    """Return the descriptions in the section ``Args`` of a docstring."""
    args = docstring.partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^    (?=\w+: )", args, flags=re.MULTILINE)
    pairs = (entry.partition(": ") for entry in entries if entry.strip())
    return {name: " ".join(text.split()) for name, _, text in pairs}


def _inline(text: str) -> list[nodes.Node]:
    """Parse double backticks, the only markup in these descriptions."""
    parts = re.split(r"``([^`]*)``", text)
    return [nodes.literal(text=part) if number % 2 else nodes.Text(part) for number, part in enumerate(parts)]


def _is_method(member: object) -> bool:
    return inspect.iscoroutinefunction(member)


def _describe(name: str) -> nodes.Node:
    value = getattr(wire, name)
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return _names((repr(member.value) for member in value), "one of ")
    if isinstance(value, type) and issubclass(value, wire.Wire):
        fields = [field.name for field in value.__attrs_attrs__]
        return _names(fields) if fields else nodes.paragraph(text="nothing")
    if isinstance(value, Mapping):
        return nodes.paragraph(text=f"a table of {len(value)} rows, by method")
    members = typing.get_args(value)
    if members:
        return _names((_type_name(member) for member in members), "any of ")
    return _names([_type_name(value)], "another name of ")


def _type_name(value: Any) -> str:
    return "None" if value is type(None) else getattr(value, "__name__", str(value))


def _names(names: Iterable[str], before: str = "") -> nodes.Node:
    paragraph = nodes.paragraph(text=before)
    for index, name in enumerate(names):
        if index:
            paragraph += nodes.Text(", ")
        paragraph += nodes.literal(text=name)
    return paragraph


def _table(
    head: tuple[str, ...], widths: tuple[int, ...], rows: Iterable[tuple[nodes.Node, ...]]
) -> nodes.Node:
    table = nodes.table(classes=["protocol-table"])
    group = nodes.tgroup(cols=len(widths))
    table += group
    for width in widths:
        group += nodes.colspec(colwidth=width)
    group += nodes.thead("", _row(nodes.paragraph(text=text) for text in head))
    group += nodes.tbody("", *(_row(row) for row in rows))
    return table


def _row(cells: Iterable[nodes.Node]) -> nodes.Node:
    return nodes.row("", *(nodes.entry("", cell) for cell in cells))


def _names_of_unions() -> dict[str, str]:
    """Return the public name of each wire union, keyed by its expanded form."""
    return {
        stringify_annotation(value, mode): f"{'~' if mode == 'smart' else ''}trio_codex.wire.{name}"
        for name in HOME
        if isinstance(value := getattr(wire, name), types.UnionType)
        for mode in ("smart", "fully-qualified")
    }


_HOMES = {"_launch._binary": "binary", "_tools.tool": "tools", "_values.tool_result": "tools"}
"""Private modules whose names are exported by a module other than ``trio_codex`` itself."""


class _PublicNames:
    def __init__(self) -> None:
        unions = _names_of_unions()
        self._unions = sorted(unions.items(), key=lambda each: -len(each[0]))

    def apply(self, text: str | None) -> str | None:
        """Replace expanded unions and names in private modules by public names."""
        if not text or "trio_codex." not in text:
            return text
        for expanded, name in self._unions:
            text = text.replace(expanded, name)
        for private, public in _HOMES.items():
            text = text.replace(f"trio_codex.{private}.", f"trio_codex.{public}.")
        text = re.sub(r"trio_codex\._\w+(?:\.\w+)?\.(?=[A-Za-z_]\w*)", "trio_codex.", text)
        return re.sub(r"(trio_codex\.[a-z]\w*)(?:\._\w+)+\.", r"\1.", text)

    def in_docstring(
        self, _app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]
    ) -> None:
        """Rewrite a docstring. Called by autodoc."""
        lines[:] = [self.apply(line) or "" for line in lines]

    def in_signature(
        self, _app: Any, _what: str, _name: str, _obj: Any, _options: Any, signature: str, returns: str
    ) -> tuple[str | None, str | None]:
        """Rewrite a signature. Called by autodoc."""
        # attrs shows the default of a factory as ``NOTHING``.
        return self.apply(signature and signature.replace("NOTHING", "...")), self.apply(returns)


def name_wire_types(_app: Sphinx, doctree: nodes.document) -> None:
    """Show wire types as ``wire.Thread`` in signatures, because some handles have the same names."""
    for signature in doctree.findall(addnodes.desc_signature):
        for reference in signature.findall(addnodes.pending_xref):
            module, _, name = reference.get("reftarget", "").rpartition(".")
            if module in ("trio_codex.wire", "wire"):
                reference.children = [nodes.Text(f"wire.{name}")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.connect("doctree-read", name_wire_types)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Fields"
    names = _PublicNames()
    app.connect("autodoc-process-docstring", names.in_docstring, priority=900)  # after napoleon
    app.connect("autodoc-process-signature", names.in_signature, priority=900)
    app.add_directive("wire-types", WireTypes)
    app.add_directive("api-methods", ApiMethods)
    return {"parallel_read_safe": True, "version": "1"}
