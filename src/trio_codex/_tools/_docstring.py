"""Google-style docstrings, read for a model: what describes a thing, and what describes each of its fields."""

from __future__ import annotations

import inspect
import re
from typing import Final

import attrs

_SECTION: Final = re.compile(r"([A-Z][A-Za-z ]*):[ ]*$")
_FIELDS: Final = frozenset({"Args", "Arguments", "Parameters", "Attributes"})
_LEFT_OUT: Final = _FIELDS | {"Raises"}
"""An exception reaches the agent as text; which ones there may be is for the reader of the code."""

_ENTRY: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")


@attrs.frozen
class Docstring:
    """What a docstring says.

    Attributes:
        text: All of it but the sections on fields and exceptions.
        fields: What it says of each parameter or attribute.
    """

    text: str
    fields: dict[str, str]


def parse_docstring(doc: str | None) -> Docstring:
    """Read a docstring. One without sections is text as a whole."""
    text: list[str] = []
    fields: dict[str, list[str]] = {}
    section, margin = "", None
    current: list[str] | None = None
    for line in inspect.cleandoc(doc or "").splitlines():
        if line[:1].strip():
            match = _SECTION.match(line)
            section, margin, current = match[1] if match else "", None, None
        if section not in _LEFT_OUT:
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
