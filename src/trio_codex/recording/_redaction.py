"""Redact the content of messages and keep their structure.

The rule is an allowlist, so that anything unforeseen is redacted. It keeps:

* the protocol's field names, and its vocabulary: enum values, tags and methods;
* ids, where they look like ids, except those of people and accounts;
* numbers and booleans, except in free-form JSON and in maps with user-defined keys, such as environments;
* a few names that identify what ran: models, tools and versions.

Every other string is replaced by the same number of ``x``, keeping line breaks. Deltas therefore still add up to their
text, and sizes stay the same. Field names that the protocol does not define become ``key-1``, ``key-2``, ….

Redaction is deterministic, so that a replay can compare what a client sends with what was recorded.
"""

from __future__ import annotations

import enum
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from trio_codex import wire
from trio_codex._core.json import list_of
from trio_codex._session.retry import CUT_OFF
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
"""Fields whose strings are kept if they are plain words."""

PATHS: Final = frozenset(
    {
        "codexHome", "cwd", "fileName", "filePath", "grantRoot", "logDir", "movePath", "move_path", "path", "root",
        "scriptPath", "workdir", "workingDirectory", "working_directory",
    }
)  # fmt: skip
"""Fields whose strings are paths."""

_ID_NAME: Final = re.compile(r"^id$|Ids?$|_ids?$")
_PERSONAL: Final = re.compile(
    r"(account|user|workspace|installation|principal|credential|key|client)_?ids?$", re.IGNORECASE
)
_ID: Final = re.compile(r"[\w][\w.:/@-]{0,127}")
_WORD: Final = re.compile(r"[A-Za-z0-9][\w.:/-]{0,63}")
_PRODUCT: Final = re.compile(r"[\w.-]{1,64}/\d+\.\d+\.\d+[\w.+-]{0,32}")
_NAME: Final = re.compile(r"\w+")
_KNOWN_PROBLEMS: Final = re.compile(
    r"unknown variant `\w+(?:/\w+)+`|no active turn|retry limit|too many failed attempts|already has an active writer"
    r"|list_turns is not supported yet|\.jsonl is empty|expected active turn id `?[0-9A-Za-z-]+`? but found `?[0-9A-Za-z-]+`?",
    re.IGNORECASE,
)
"""Parts of error messages that the client parses. It tells errors apart by their texts (PROTOCOL Q1, Q4, Q12). They are no
wider than that: a message may quote any value that the server or a tool did not expect."""

NAMES_KEPT: Final = 1024
"""Size of the cache that records which field names hold ids; the protocol has about this many names."""


def _names(names: Iterable[str]) -> frozenset[str]:
    # Not frozenset itself: type checkers would take its type variable for the argument type.
    return frozenset(names)


@attrs.frozen
class Redaction:
    """Redacts the content of messages.

    Attributes:
        paths: Whether to keep paths.
        keep: Other field names whose content to keep, such as ``{"command"}``.
    """

    paths: bool = False
    keep: frozenset[str] = attrs.field(default=frozenset(), converter=_names)

    def message(self, message: Any) -> Any:
        """Return a JSON-RPC message without its content."""
        if not isinstance(message, dict) or _IDENTIFYING_MEMBERS.isdisjoint(cast("dict[str, Any]", message)):
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
        """Redact a member of the envelope, whose objects belong to the protocol."""
        if isinstance(value, dict) and name not in self.keep:
            return self._object(cast("dict[str, Any]", value), free=False)
        return self._value(value, name, free=False)

    def text(self, text: str) -> str:
        """Replace the characters of a string, but keep its line breaks."""
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
                written = name == "value" and "keyPath" in members  # a configuration change
                redacted[name] = self._value(value, name, free=free or written or name in known.free)
            else:
                key = name if self.paths and name.startswith("/") else f"key-{len(redacted) + 1}"
                # A value under a user-defined key is free-form. An object may be one of the protocol's.
                redacted[key] = self._value(value, "", free=free or not isinstance(value, dict))
        return redacted

    def _string(self, text: str, name: str, *, free: bool) -> str:
        if free or not text:
            return self.text(text)
        known = _vocabulary()
        if name in known.word_fields and text in known.words:
            return text
        if name == "userAgent":
            product = _PRODUCT.match(text)
            return product[0] if product else self.text(text)
        if _holds_id(name) and _ID.fullmatch(text):
            return text
        if name in KEPT and _WORD.fullmatch(text):
            return text
        if self.paths and name in PATHS:
            return text
        # The beginning by which is_transient_error() recognizes the failure of a turn.
        cut_off = CUT_OFF if name == "message" and text.startswith(CUT_OFF) else ""
        return cut_off + self.text(text[len(cut_off) :])


@lru_cache(maxsize=NAMES_KEPT)
def _holds_id(name: str) -> bool:
    return _ID_NAME.search(name) is not None and _PERSONAL.search(name) is None


@attrs.frozen
class _Vocabulary:
    """The protocol's own vocabulary, collected from its types.

    Attributes:
        names: Field names.
        words: Enum values, tags and methods.
        word_fields: Names of fields that hold such words.
        free: Names of fields that hold free-form JSON in every type.
    """

    names: frozenset[str]
    words: frozenset[str]
    word_fields: frozenset[str]
    free: frozenset[str]


_FREE_OBJECTS: Final = frozenset({"config", "content", "input", "params"})
"""Field names whose objects are free-form. Lists under these names have the protocol's form."""

_IDENTIFYING_MEMBERS: Final = frozenset({"method", "result", "error"})
"""The members that identify a message; an object with none of them is not a message of this protocol."""

_ENVELOPE: Final = frozenset(
    {"id", "method", "params", "result", "error", "code", "message", "data", "emittedAtMs"}
)


@cache
def _vocabulary() -> _Vocabulary:
    """Collect the vocabulary from all types. Takes about 0.3 s, once."""
    names, words, free, typed, word_fields = set(_ENVELOPE), set[str](), set[str](), set[str](), {"method"}
    elided = set[str]()
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
                if field.name in shape.elided:
                    elided.add(wire_name)
                # Compare the annotation as written: the type itself is replaced once such a value has been parsed.
                type_ = found.__annotations__[field.name]
                if type_.startswith("Literal["):
                    words.add(str(field.default))
                    word_fields.add(wire_name)
                elif any(mentioned in _index.HOME for mentioned in _NAME.findall(type_)):
                    typed.add(wire_name)
                    word_fields.add(wire_name)
                elif "JSON" in type_ or type_.startswith("Mapping["):
                    # Keys of such a map are user-defined, even if they look like the protocol's names.
                    free.add(wire_name)
    for table in (_registry.CLIENT_REQUESTS, _registry.SERVER_REQUESTS, _registry.NOTIFICATIONS):
        words.update(table)
    return _Vocabulary(
        frozenset(names),
        frozenset(words),
        # A field may hold a word in one type and text from the user in another.
        frozenset(word_fields - elided),
        frozenset(free - typed - _ENVELOPE),
    )
