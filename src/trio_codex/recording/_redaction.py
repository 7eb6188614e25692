"""What is left of a message when its content is taken out: owns the rule of what is structure and what is content.

The rule is a list of what stays, so that what nobody thought of goes:

* the names of the protocol's fields, and its words: values of enumerations and tags, methods;
* ids, where they look like ids, but for those of persons and accounts;
* numbers and truth values, except in JSON whose form the protocol does not know, and in maps whose names are the user's, such
  as environments;
* a few names that say what ran: of the model, of a tool, versions.

Every other text becomes as many ``x`` as it has characters, its line breaks kept. So deltas still add up to their text, and
sizes are what they were. Names of fields that the protocol does not know become ``key-1``, ``key-2``, ….

A message gives the same result every time, so what a client sends at a replay can be held against what was recorded.
"""

from __future__ import annotations

import enum
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from trio_codex import wire
from trio_codex._core._json import list_of
from trio_codex.wire import _index, _registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FILLER: Final = "x"

KEPT: Final = frozenset(
    {
        "cliVersion", "jsonrpc", "method", "mimeType", "model", "modelProvider", "platformFamily", "platformOs",
        "processHandle", "role", "server", "status", "tool", "type", "version",
    }
)  # fmt: skip
"""Names whose texts stay where they are plain words."""

PATHS: Final = frozenset(
    {
        "codexHome", "cwd", "fileName", "filePath", "grantRoot", "logDir", "movePath", "move_path", "path", "root",
        "scriptPath", "workdir", "workingDirectory", "working_directory",
    }
)  # fmt: skip
"""Names whose texts are paths."""

_ID_NAME: Final = re.compile(r"^id$|Ids?$|_ids?$")
_PERSONAL: Final = re.compile(
    r"(account|user|workspace|installation|principal|credential|key|client)_?ids?$", re.IGNORECASE
)
_ID: Final = re.compile(r"[\w][\w.:/@-]{0,127}")
_WORD: Final = re.compile(r"[A-Za-z0-9][\w.:/-]{0,63}")
_PRODUCT: Final = re.compile(r"[\w.-]{1,64}/\d+\.\d+\.\d+[\w.+-]{0,32}")
_NAME: Final = re.compile(r"\w+")
_KNOWN_PROBLEMS: Final = re.compile(
    r"unknown variant `[\w/]+`|no active turn|but found `?[0-9A-Za-z-]+`?|retry limit|too many failed attempts",
    re.IGNORECASE,
)
"""What the client reads in the message of an error (PROTOCOL Q1, Q4, Q12)."""

NAMES_KEPT: Final = 1024
"""Names of fields of which it is remembered whether they are of ids: about as many as the protocol has."""


def _names(names: Iterable[str]) -> frozenset[str]:
    # Not frozenset itself: type checkers take its type variable for what a caller has to give.
    return frozenset(names)


@attrs.frozen
class Redaction:
    """Takes the content out of messages.

    Attributes:
        paths: Whether paths stay.
        keep: Further names of fields whose content stays, such as ``{"command"}``.
    """

    paths: bool = False
    keep: frozenset[str] = attrs.field(default=frozenset(), converter=_names)

    def message(self, message: Any) -> Any:
        """Give a JSON-RPC message without its content."""
        if not isinstance(message, dict) or _SAYS_WHAT_IT_IS.isdisjoint(cast("dict[str, Any]", message)):
            return self._value(message, "", free=True)
        envelope = cast("dict[str, Any]", message)
        redacted = {name: self._member(value, name) for name, value in envelope.items()}
        error = envelope.get("error")
        if isinstance(error, dict) and "id" in envelope and self.keep.isdisjoint(("error", "message")):
            text = cast("dict[str, Any]", error).get("message")
            known = " ".join(_KNOWN_PROBLEMS.findall(text)) if isinstance(text, str) else ""
            redacted["error"] = {**redacted["error"], **({"message": known} if known else {})}
            if "data" in error and "data" not in self.keep:
                redacted["error"]["data"] = self._value(cast("dict[str, Any]", error)["data"], "", free=True)
        return redacted

    def _member(self, value: Any, name: str) -> Any:
        """Redact a member of the envelope, whose objects are of the protocol."""
        if isinstance(value, dict) and name not in self.keep:
            return self._object(cast("dict[str, Any]", value), free=False)
        return self._value(value, name, free=False)

    def text(self, text: str) -> str:
        """Give a text without its content."""
        return "\n".join([FILLER * len(line) for line in text.split("\n")])

    def _value(self, value: Any, name: str, *, free: bool, listed: bool = False) -> Any:
        if name in self.keep:
            return value
        if isinstance(value, str):
            return self._string(value, name, free=free)
        if isinstance(value, list):
            return [self._value(each, name, free=free, listed=True) for each in list_of(value)]
        if isinstance(value, dict):
            free = free or name in _vocabulary().free or (name in _FREE_OBJECTS and not listed)
            return self._object(cast("dict[str, Any]", value), free=free)
        if free and not isinstance(value, bool) and value is not None:
            return 0
        return value

    def _object(self, members: Mapping[str, Any], *, free: bool) -> dict[str, Any]:
        known = _vocabulary()
        redacted: dict[str, Any] = {}
        for name, value in members.items():
            if name in known.names or name in self.keep:
                written = name == "value" and "keyPath" in members  # a change of the configuration
                redacted[name] = self._value(value, name, free=free or written or name in known.free)
            else:
                key = name if self.paths and name.startswith("/") else f"key-{len(redacted) + 1}"
                # What a name of the user's stands for is of the user's form, too, unless the protocol's words are in it.
                redacted[key] = self._value(value, "", free=free or not isinstance(value, dict))
        return redacted

    def _string(self, text: str, name: str, *, free: bool) -> str:
        if free or not text:
            return self.text(text)
        known = _vocabulary()
        if name in known.wordy and text in known.words:
            return text
        if name == "userAgent":
            product = _PRODUCT.match(text)
            return product[0] if product else self.text(text)
        if _is_of_an_id(name) and _ID.fullmatch(text):
            return text
        if name in KEPT and _WORD.fullmatch(text):
            return text
        if self.paths and name in PATHS:
            return text
        return self.text(text)


@lru_cache(maxsize=NAMES_KEPT)
def _is_of_an_id(name: str) -> bool:
    return _ID_NAME.search(name) is not None and _PERSONAL.search(name) is None


@attrs.frozen
class _Vocabulary:
    """What the protocol itself says, taken from its types.

    Attributes:
        names: Names of fields.
        words: Values of enumerations, tags and methods.
        wordy: Names of fields that hold such words.
        free: Names of fields that hold JSON of any form, wherever they are.
    """

    names: frozenset[str]
    words: frozenset[str]
    wordy: frozenset[str]
    free: frozenset[str]


_FREE_OBJECTS: Final = frozenset({"config", "content", "input", "params"})
"""Names under which an object within a message has any form. As lists they have the protocol's, or elsewhere."""

_SAYS_WHAT_IT_IS: Final = frozenset({"method", "result", "error"})
"""What an object without all of these is no message by: something else has written it."""

_ENVELOPE: Final = frozenset(
    {"id", "method", "params", "result", "error", "code", "message", "data", "emittedAtMs"}
)


@cache
def _vocabulary() -> _Vocabulary:
    """Collect it from all types. It takes some 0.3 s, once."""
    names, words, free, typed, wordy = set(_ENVELOPE), set[str](), set[str](), set[str](), {"method"}
    for name in _index.HOME:
        found = getattr(wire, name)
        if isinstance(found, type) and issubclass(found, enum.Enum):
            words.update(str(member.value) for member in found)
        elif isinstance(found, type) and issubclass(found, wire.Wire):
            shape = found.__wire__
            names.update(filter(None, [shape.key]))
            for field in found.__attrs_attrs__:
                wire_name = shape.names.get(field.name, field.name)
                names.add(wire_name)
                # As it is written: the type itself is another one once somebody has read such a value.
                type_ = found.__annotations__[field.name]
                if type_.startswith("Literal["):
                    words.add(str(field.default))
                    wordy.add(wire_name)
                elif any(mentioned in _index.HOME for mentioned in _NAME.findall(type_)):
                    typed.add(wire_name)
                    wordy.add(wire_name)
                elif "JSON" in type_ or type_.startswith("Mapping["):
                    # The names in such a map are the user's, whichever of the protocol's they look like.
                    free.add(wire_name)
    for table in (_registry.CLIENT_REQUESTS, _registry.SERVER_REQUESTS, _registry.NOTIFICATIONS):
        words.update(table)
    return _Vocabulary(
        frozenset(names), frozenset(words), frozenset(wordy), frozenset(free - typed - _ENVELOPE)
    )
