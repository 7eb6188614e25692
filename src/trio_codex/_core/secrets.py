"""Redact configured secrets in the server's output and responses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from trio_codex._core.json import list_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_codex.errors import RpcError

MIN_SECRET_LENGTH: Final = 8
"""Minimum length of an environment value to redact. Shorter ones are flags and occur inside ordinary words."""

MIN_NAMED_LENGTH: Final = 4
"""Minimum length of the value of a variable whose name suggests a secret."""

MIN_REST_LENGTH: Final = 4
"""Minimum length of a truncated value to redact. Shorter ones reveal nothing."""

_PLAIN_NAMES: Final = frozenset(
    {"CODEX_HOME", "HOME", "LANG", "LC_ALL", "PATH", "PWD", "RUST_LOG", "TERM", "TMPDIR"}
)

_FLAGS: Final = frozenset({"auto", "false", "none", "null", "true"})
"""Values that are never secrets, even if the name of the variable suggests one, as TOKENIZERS_PARALLELISM does."""

_SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|PIN\b", re.IGNORECASE)

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters that are removed from what the server prints."""

_ESCAPED: Final = re.compile(r'[\x00-\x1f"\\]')
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7e]")
_SHORT_ESCAPES: Final = {
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\b": "\\b",
    "\f": "\\f",
    '"': '\\"',
    "\\": "\\\\",
}

_QUOTED: Final = tuple(map(re.compile, (rb"[^\w.~-]", rb"[^\w.~/-]", rb"[\x00- \"#<>\x7f-\xff]")))
"""The characters that are percent-encoded in a component of a URL, in its path, and in its query."""

LONGEST_QUOTED: Final = 8192
"""Maximum length of a value to look for in encoded form. Longer ones occur neither in URLs nor in JSON on stderr."""


class Secrets:
    """The configured environment values that no error may show, even as part of JSON or of a URL."""

    def __init__(self, environment: Mapping[str, str | None], *, min_length: int | None = None) -> None:
        # Longest first: if one value is a prefix of another, the remainder of the longer one would stay visible.
        self._values = sorted(
            (
                (_forms(value), f"<{name}>")
                for name, value in environment.items()
                if value
                and name not in _PLAIN_NAMES
                and len(value) >= (min_length or _min_length(name, value))
            ),
            key=lambda secret: len(secret[0][0]),
            reverse=True,
        )

    def hide(self, text: str) -> str:
        """Redact a complete text."""
        for forms, name in self._values:
            text = _without(text, forms, name)
        return text

    def hide_in_tail(self, text: str) -> str:
        """Redact a text that may begin in the middle of a value."""
        for forms, name in self._values:
            # Complete values first: the beginning of one may look like the end of another, as in PEM.
            text = _without(text, forms, name)
            for form in forms:
                text = _without_rest(text, form, name)
        return text

    def hide_if_cut(self, text: str) -> str:
        """Redact a text that may end in the middle of a value."""
        text = self.hide(text)
        for forms, name in self._values:
            for form in forms:
                length = _overlap(text, form[:-1])
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


NO_SECRETS: Final = Secrets({})


def _min_length(name: str, value: str) -> int:
    may_be_secret = _SECRET_NAME.search(name) and value.lower() not in _FLAGS
    return MIN_NAMED_LENGTH if may_be_secret else MIN_SECRET_LENGTH


def _forms(value: str) -> tuple[str, ...]:
    """Return a value, and the forms in which a server may print it or send it back."""
    forms = [value, _CONTROL.sub("", value)]
    if len(value) <= LONGEST_QUOTED:
        escaped = _ESCAPED.sub(_escape, value)
        forms += [escaped, _NOT_ASCII.sub(lambda match: _escape_utf16(match[0]), escaped)]
        data = value.encode("utf-8", "surrogatepass")
        for pattern in _QUOTED:
            quoted = pattern.sub(lambda match: b"%%%02X" % match[0][0], data).decode("ascii")
            forms += [quoted, quoted.replace("%20", "+")]
    return tuple(form for form in dict.fromkeys(forms) if len(form) >= min(len(value), MIN_REST_LENGTH))


def _escape(match: re.Match[str]) -> str:
    return _SHORT_ESCAPES.get(match[0]) or _escape_utf16(match[0])


def _escape_utf16(char: str) -> str:
    data = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{data[at : at + 4]}" for at in range(0, len(data), 4))


def _without(text: str, forms: Iterable[str], name: str) -> str:
    for form in forms:
        text = text.replace(form, name)
    return text


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
