"""Redaction of configured secrets in what the server prints and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from trio_codex._core.json import list_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex.errors import RpcError

MIN_SECRET_LENGTH: Final = 8
"""Minimum length of an environment value to redact. Shorter ones are flags and occur inside ordinary words."""

MIN_REST_LENGTH: Final = 4
"""Minimum length of a partial value, where the text was truncated, to redact. Shorter ones reveal nothing."""

_PLAIN_NAMES: Final = frozenset(
    {"CODEX_HOME", "HOME", "LANG", "LC_ALL", "PATH", "PWD", "RUST_LOG", "TERM", "TMPDIR"}
)


class Secrets:
    """The configured environment values that no error may show."""

    def __init__(self, environment: Mapping[str, str | None], *, min_length: int = MIN_SECRET_LENGTH) -> None:
        # Longest first: if one value is a prefix of another, the remainder of the longer one would stay visible.
        self._values = sorted(
            (
                (value, f"<{name}>")
                for name, value in environment.items()
                if value is not None and len(value) >= min_length and name not in _PLAIN_NAMES
            ),
            key=lambda secret: len(secret[0]),
            reverse=True,
        )

    def hide(self, text: str) -> str:
        """Redact a complete text."""
        for value, name in self._values:
            text = text.replace(value, name)
        return text

    def hide_in_tail(self, text: str) -> str:
        """Redact a text that may begin in the middle of a value."""
        for value, name in self._values:
            text = _without_rest(text, value, name).replace(value, name)
        return text

    def hide_if_cut(self, text: str) -> str:
        """Redact a text that may end in the middle of a value."""
        text = self.hide(text)
        for value, name in self._values:
            length = _overlap(text, value[:-1])
            if length >= MIN_REST_LENGTH:
                text = text[:-length] + name
        return text

    def hide_in_error(self, error: RpcError) -> RpcError:
        """Return an error whose message and data contain no secrets."""
        if not self._values:
            return error
        try:
            data = self._hide_in_json(error.data)
        except RecursionError:
            data = None  # nested beyond the recursion limit
        return type(error)(error.code, self.hide(error.message), data, error.method)

    def _hide_in_json(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, dict):
            members = cast("dict[str, Any]", value)
            return {self.hide(str(name)): self._hide_in_json(each) for name, each in members.items()}
        if isinstance(value, list):
            return [self._hide_in_json(each) for each in list_of(value)]
        return value


def _without_rest(text: str, value: str, name: str) -> str:
    """Redact the end of a value at the beginning of a truncated text."""
    length = _overlap(value[1:], text)
    return text if length < MIN_REST_LENGTH else name + text[length:]


def _overlap(first: str, second: str) -> int:
    """Return the length of the longest suffix of one text that is a prefix of the other.

    Uses Knuth–Morris–Pratt, because comparing every suffix takes quadratic time for a value of one repeated character.
    """
    first = first[-len(second) :] if second else ""
    matched, shorter = 0, [0] * (len(second) + 1)
    for index in range(1, len(second)):
        while matched and second[index] != second[matched]:
            matched = shorter[matched]
        matched += second[index] == second[matched]
        shorter[index + 1] = matched
    matched = 0
    for character in first:
        while matched and (matched == len(second) or character != second[matched]):
            matched = shorter[matched]
        matched += character == second[matched]
    return matched
