"""Unknown values and fields of a later version, anywhere in the schema: none raises, and all are sent on unchanged."""

from __future__ import annotations

import gzip
import json
from typing import Any

from trio_codex import wire
from trio_codex._values.event import Event
from trio_codex.wire._index import HOME
from wiregen import schema

BUNDLE = json.loads(gzip.decompress((schema.SCHEMA / schema.FILES["experimental"]).read_bytes()))
DEFINITIONS = {**BUNDLE["definitions"]["v2"], **BUNDLE["definitions"]}
LATER = "~later"


def resolved(node: Any) -> dict[str, Any]:
    if not isinstance(node, dict):  # ``true`` allows any value
        return {}
    if "$ref" in node:
        return resolved(DEFINITIONS[node["$ref"].rpartition("/")[2]])
    return resolved(node["allOf"][0]) if len(node.get("allOf", ())) == 1 else node


def alternatives(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [resolved(inner) for inner in (*node.get("oneOf", ()), *node.get("anyOf", ()))]


def least(node: Any) -> Any:
    """Return the smallest value that the schema allows."""
    node = resolved(node)
    if "enum" in node:
        return node["enum"][0]
    if "const" in node:
        return node["const"]
    if found := alternatives(node):
        return {**least(found[0]), **least_object(node)} if "properties" in node else least(found[0])
    match node.get("type"):
        case [kind, *_] | str(kind) if kind in _LEAST:
            return _LEAST[kind]
        case "array" | ["array", *_]:
            return []
        case _:
            return least_object(node) if "properties" in node or node.get("type") == "object" else None


def least_object(node: dict[str, Any]) -> dict[str, Any]:
    return {name: least(node["properties"][name]) for name in node.get("required", ())}


_LEAST = {"string": "x", "integer": 1, "number": 1, "boolean": True, "null": None}


def drifts(node: Any) -> list[Any]:
    """Return values that a later version may send in this place, and that are unknown to this one."""
    node = resolved(node)
    members = alternatives(node)
    told = [member for member in members if member.get("type") != "null"]
    if node.get("type") == "array":
        return [[later] for later in drifts(node["items"])]
    if isinstance(node.get("additionalProperties"), dict):
        return [{"key": later} for later in drifts(node["additionalProperties"])]
    if len(told) == 1 < len(members):
        return drifts(told[0])
    found: list[Any] = []
    if len(node.get("enum", ())) > 1 or any("enum" in member for member in told):
        found.append(LATER)
    tags = [set(member.get("properties", {})) & TAGS for member in told]
    if len(told) > 1 and all(tags):
        found.append({min(set.intersection(*tags)): LATER, "more": [{"a": None}]})
    return found


TAGS = {"type", "kind", "mode"}
BINARY_TAGS = {("McpElicitationNumberSchema", "type")}
"""Tags with two values: a third one makes the whole object an unknown member of its union."""
CASES = [
    (name, property_)
    for name, node in sorted(DEFINITIONS.items())
    if name in HOME
    for property_, inner in resolved(node).get("properties", {}).items()
    if drifts(inner) and (name, property_) not in BINARY_TAGS
]
OBJECTS = [
    name for name, node in sorted(DEFINITIONS.items()) if name in HOME and resolved(node).get("properties")
]


# Each test covers all cases, because a test for each case would take longer to collect than to run.


def test_an_unknown_value_of_any_field_is_read_and_sent_on_unchanged() -> None:
    for name, property_ in CASES:
        node = resolved(DEFINITIONS[name])
        for later in drifts(node["properties"][property_]):
            raw = {**least(node), property_: later}
            written: Any = wire.encode(wire.decode(getattr(wire, name), raw))
            assert written[property_] == later, f"{name}.{property_}"


def test_an_unknown_field_of_any_object_does_not_change_the_known_ones() -> None:
    for name in OBJECTS:
        type_, raw = getattr(wire, name), least(DEFINITIONS[name])
        later: Any = wire.encode(wire.decode(type_, {**raw, LATER: {"deep": [1]}}))
        if isinstance(later, dict):
            later.pop(LATER, None)  # unknown fields of an open class are data
        assert later == wire.encode(wire.decode(type_, raw)), name


def test_the_raw_parameters_of_any_event_contain_unknown_fields() -> None:
    for method, params in sorted(wire.NOTIFICATIONS.items()):
        raw = {**least(DEFINITIONS[params]), LATER: {"deep": [1]}}
        text = json.dumps(raw).encode()
        event = Event(method, text, len(text))
        assert not isinstance(event.params, wire.UnknownNotification), method
        assert event.raw == raw, method


def test_the_cases_cover_the_whole_schema() -> None:
    assert len(CASES) > 250
    assert len(OBJECTS) > 550
