"""Render types and docstrings as Python source."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from trio_codex.wire._schema import ir
from wiregen import WiregenError

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDTH = 116
"""Maximum width of a docstring, which the formatter does not wrap."""


def type_text(type_: ir.Type, definitions: Mapping[str, ir.Definition], *, prefix: str = "") -> str:
    """Render a type. ``prefix`` precedes the names of ``trio_codex.wire``."""

    def write(inner: ir.Type) -> str:
        match inner:
            case ir.Plain(name):
                return f"{prefix}{name}" if inner in (ir.ANY, ir.NULL) else name
            case ir.Const(values):
                return f"Literal[{', '.join(map(quote, values))}]"
            case ir.Seq(item):
                return f"Sequence[{write(item)}]"
            case ir.Map(value):
                return f"Mapping[str, {write(value)}]"
            case ir.Union(members):
                parts = dict.fromkeys(part for member in members for part in alternatives(member))
                # An open enum beside text would otherwise become `A | str | str`.
                return " | ".join(sorted(parts, key=lambda part: part == "None"))
            case ir.Ref():
                return " | ".join(alternatives(inner))
            case ir.Class():
                raise WiregenError(f"an object without a name has no annotation: {inner}")

    def alternatives(inner: ir.Type) -> tuple[str, ...]:
        """Return the parts that a member adds to a union; an open enum adds two."""
        if not isinstance(inner, ir.Ref):
            return (write(inner),)
        name = f"{prefix}{inner.name}"
        return (name, "str") if isinstance(definitions.get(inner.name), ir.Enum) else (name,)

    return write(type_)


def quote(text: str) -> str:
    """Render a string literal, with double quotes unless they need escapes."""
    return f'"{text}"' if text.isprintable() and not set('"\\') & set(text) else repr(text)


def docstring(summary: str, *sections: str, indent: int = 4) -> list[str]:
    """Render a docstring: the first sentence as summary, then the rest, then sections."""
    head, _, rest = prose(summary).partition("\n\n")
    first, tail = _split_sentence(head)
    body = [first]
    for block in (tail, rest, *sections):
        if block.strip():
            body += ["", *_wrap(block, WIDTH - indent)]
    pad = " " * indent
    mark = 'r"""' if any("\\" in line for line in body) else '"""'
    if len(body) == 1 and len(body[0]) + indent + 7 <= WIDTH:
        return [f"{pad}{mark}{body[0]}{_close(body[0])}"]
    lines = [f"{mark}{body[0]}", *body[1:], '"""']
    return [f"{pad}{line}".rstrip() for line in lines]


def prose(text: str) -> str:
    """Convert the Markdown of Rust doc comments, as in the schema, to reST."""
    text = text.replace('"""', "'''").strip()
    text = re.sub(r"^@deprecated:?\s*", "Deprecated: ", text)
    text = re.sub(r"^EXPERIMENTAL:?\s*-?\s*", "Experimental: ", text)
    text = re.sub(r"\[`?([\w:/]+)`?\](?!\()", r"`\1`", text)
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text)
    text = re.sub(r"(?<![\w`*])\*(?=\w)", r"\\*", text)
    # Rewrap prose, but keep the lines of lists.
    blocks = [
        block if re.search(r"^\s*[-*0-9]+[.)]?\s", block, re.MULTILINE) else " ".join(block.split())
        for block in re.split(r"\n\s*\n", text)
    ]
    return "\n\n".join(blocks)


def entry(name: str, text: str) -> str:
    """Render an entry of an ``Attributes:`` or ``Args:`` section."""
    return f"    {name}: {' '.join(prose(text).split())}"


def notes(what: ir.Definition | ir.Field | ir.Member | ir.Method) -> str:
    """Render a note that an item is experimental, unless its description says so, and the release that added it."""
    parts: list[str] = []
    if getattr(what, "experimental", False) and not what.doc.upper().startswith("EXPERIMENTAL"):
        parts.append("Experimental.")
    if what.since is not None:
        parts.append(f"Since codex {what.since}.")
    return " ".join(parts)


def field_doc(field: ir.Field) -> str:
    """Render the description of a field."""
    clears = "`NULL` sends null, and `None` omits the field." if field.clears else ""
    parts = (field.doc, clears, notes(field))
    return " ".join(part if part.endswith((".", ")", ":")) else f"{part}." for part in parts if part)


def _split_sentence(text: str) -> tuple[str, str]:
    """Split off the first sentence. An abbreviation does not end it."""
    text = " ".join(text.split())
    match = re.match(r"(.+?(?<!e\.g)(?<!i\.e)(?<!etc)[.!?])\s+(?=[A-Z`\[(])", text)
    first, rest = (match.group(1), text[match.end() :]) if match else (text, "")
    if first and first[-1] not in ".!?:":
        first += "."
    return first[:1].upper() + first[1:] if first[:1] != "`" else first, rest


def _wrap(block: str, width: int) -> list[str]:
    lines: list[str] = []
    for line in block.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        deeper = indent + "    " if indent else indent
        lines += textwrap.wrap(
            line.strip(),
            width,
            initial_indent=indent,
            subsequent_indent=deeper,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return lines


def _close(line: str) -> str:
    return ' """' if line.endswith('"') else '"""'
