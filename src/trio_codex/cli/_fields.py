"""Ask for answers beyond yes and no: the agent's questions, and the fields of forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
from rich.text import Text

from trio_codex.cli._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_codex import wire
    from trio_codex.cli._render import Screen
    from trio_codex.cli._terminal import Terminal

BOUNDS: Final = ("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum")
"""Keywords that limit an answer by a number."""

_YES: Final = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}


class UnsupportedForm(Exception):
    """A form has a field that a terminal cannot ask for."""


class _Unfit(Exception):
    """The input is not valid; the message says why."""


async def ask_question(
    screen: Screen, terminal: Terminal, question: wire.ToolRequestUserInputQuestion
) -> tuple[str, ...] | None:
    """Ask one of the agent's questions; return ``None`` if an empty line skips it."""
    screen.note(_shown(question.question), "bold", indent=2)
    options = [(option.label, option.label, option.description) for option in question.options or ()]
    _show_options(screen, options)
    free = question.is_other or not options
    hint = "number, or your own words" if options and free else "number" if options else "answer"
    while True:
        line = await terminal.line(_prompt(hint, "empty: none"), secret=question.is_secret)
        if not line:
            return None
        try:
            return (_chosen(line, options),)
        except _Unfit as exc:
            if free:
                return (line,)
            screen.note(str(exc), "yellow", indent=2)


async def fill_in(screen: Screen, terminal: Terminal, schema: wire.JSON) -> dict[str, wire.JSON]:
    """Ask for the fields of a form.

    Args:
        screen: The screen to ask on.
        terminal: The terminal to read from.
        schema: The JSON Schema of the form, limited to what MCP allows: an object with simple fields.

    Raises:
        UnsupportedForm: The form has other fields. Nothing has been asked.
        InputEndedError: The input has ended.
    """
    await trio.lowlevel.checkpoint()
    content: dict[str, wire.JSON] = {}
    for field in _fields(schema):
        screen.note(_shown(field.title), "bold", indent=2)
        _show_options(screen, field.options)
        while True:
            line = await terminal.line(_prompt(field.hint, field.if_empty))
            if not line and field.default is None and not field.required:
                break
            try:
                content[field.name] = field.parse(line) if line else field.given_default()
                break
            except _Unfit as exc:
                screen.note(str(exc), "yellow", indent=2)
    return content


@attrs.frozen
class _Field:
    """A field of a form.

    Attributes:
        name: The key.
        schema: The JSON Schema.
        required: Whether the field is required.
        options: The values of a choice, with their titles and descriptions.
    """

    name: str
    schema: Mapping[str, Any]
    required: bool
    options: list[tuple[str, str, str]]

    @property
    def title(self) -> str:
        title = self.schema.get("title") or self.name
        description = self.schema.get("description")
        return f"{title}: {description}" if description else str(title)

    @property
    def hint(self) -> str:
        match self.schema["type"]:
            case "array":
                return "numbers separated by commas"
            case "boolean":
                return "yes or no"
            case "string" if self.options:
                return "number"
            case "string":
                return str(self.schema.get("format") or "text")
            case kind:
                return str(kind)

    @property
    def default(self) -> Any:
        return self.schema.get("default")

    @property
    def if_empty(self) -> str | None:
        if self.default is not None:
            return f"empty: {self.default}"
        return None if self.required else "empty: none"

    def given_default(self) -> Any:
        if self.default is None:
            raise _Unfit("an answer is required")
        return self.default

    def parse(self, line: str) -> Any:
        """Parse the input."""
        schema = self.schema
        match schema["type"]:
            case "boolean":
                if (answer := _YES.get(line.lower())) is None:
                    raise _Unfit("enter yes or no")
                return answer
            case "integer" | "number" as kind:
                return _number(line, kind, schema)
            case "array":
                parts = [_chosen(part.strip(), self.options) for part in line.split(",")]
                _check_bounds(len(parts), schema.get("minItems"), schema.get("maxItems"), "choices")
                return parts
            case _ if self.options:
                return _chosen(line, self.options)
            case _:
                _check_bounds(len(line), schema.get("minLength"), schema.get("maxLength"), "characters")
                return line


def _fields(schema: Any) -> list[_Field]:
    try:
        required = frozenset(schema.get("required") or ())
        fields = [
            _Field(name, field, name in required, _options(field))
            for name, field in schema.get("properties", {}).items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise UnsupportedForm from exc
    if not all(map(_is_simple, fields)):
        raise UnsupportedForm
    return fields


def _is_simple(field: _Field) -> bool:
    """Return whether a field is one that MCP allows. The server passes some forms on unchecked."""
    bounds = [field.schema.get(name) for name in BOUNDS]
    texts: list[object] = [text for option in field.options for text in option]
    return all(isinstance(bound, int | float | None) for bound in bounds) and all(
        isinstance(text, str) for text in texts
    )


def _options(field: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    kind = field["type"]
    if kind not in ("string", "number", "integer", "boolean", "array"):
        raise UnsupportedForm
    source = field["items"] if kind == "array" else field
    if titled := source.get("oneOf") or source.get("anyOf"):
        return [(option["const"], option["title"], "") for option in titled]
    values = source.get("enum") or ()
    if kind == "array" and not values:
        raise UnsupportedForm
    titles = source.get("enumNames") or values
    return [(value, title, "") for value, title in zip(values, titles, strict=True)]


def _show_options(screen: Screen, options: Iterable[tuple[str, str, str]]) -> None:
    for number, (_, title, description) in enumerate(options, 1):
        text = Text.assemble((f"[{number}]", "bold"), " ", _shown(title))
        if description:
            text.append(f"  {_shown(description)}", "dim")
        screen.note(text, indent=4)


def _chosen(line: str, options: list[tuple[str, str, str]]) -> str:
    if line.isascii() and line.isdecimal() and 1 <= int(line) <= len(options):
        return options[int(line) - 1][0]
    for value, title, _ in options:
        if line.lower() in (value.lower(), title.lower()):
            return value
    raise _Unfit(f"enter a number from 1 to {len(options)}")


def _number(line: str, kind: str, schema: Mapping[str, Any]) -> int | float:
    try:
        value = int(line) if kind == "integer" else float(line)
    except ValueError:
        raise _Unfit(f"enter a valid {kind}") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise _Unfit(f"enter a valid {kind}")
    _check_bounds(value, schema.get("minimum"), schema.get("maximum"), "")
    return value


def _check_bounds(value: float, low: float | None, high: float | None, what: str) -> None:
    if low is not None and value < low:
        raise _Unfit(f"at least {low} {what}".strip())
    if high is not None and value > high:
        raise _Unfit(f"at most {high} {what}".strip())


def _prompt(hint: str, if_empty: str | None) -> Text:
    more = f", {if_empty}" if if_empty else ""
    return Text(f"  ({_shown(hint + more)}) > ", "dim")


def _shown(text: str) -> str:
    return printable(" ".join(text.split()), strict=True)
