"""Parse Google-style docstrings into a description of an object and of each of its fields, for a model."""

from __future__ import annotations

import inspect
import re
from typing import Final

import attrs

_SECTION: Final = re.compile(r"([A-Z][A-Za-z ]*):[ ]*$")
_FIELDS: Final = frozenset({"Args", "Arguments", "Parameters", "Attributes"})
_OMITTED: Final = _FIELDS | {"Raises"}
"""Sections that the agent does not see. It receives exceptions as text, so it does not need a list of them."""

_ENTRY: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")


@attrs.frozen
class Docstring:
    """A parsed docstring: its text without the sections on fields and exceptions, and the descriptions of the fields."""

    text: str
    fields: dict[str, str]


def parse_docstring(doc: str | None) -> Docstring:
    """Parse a docstring. Without sections, all of it is text."""
    text: list[str] = []
    fields: dict[str, list[str]] = {}
    section, margin = "", None
    current: list[str] | None = None
    for line in inspect.cleandoc(doc or "").splitlines():
        if line[:1].strip():
            match = _SECTION.match(line)
            section, margin, current = match[1] if match else "", None, None
        if section not in _OMITTED:
            text.append(line)
        elif section in _FIELDS and line[:1].isspace():
            indent = len(line) - len(line.lstrip())
            margin = indent if margin is None else margin
            entry = _ENTRY.match(line.strip()) if indent <= margin else None
            if entry is not None:
                current = fields[entry[1]] = [entry[2]]
            elif current is not None:
                current.append(line.strip())
    joined = {name: " ".join(filter(None, parts)) for name, parts in fields.items()}
    return Docstring("\n".join(text).strip(), joined)
