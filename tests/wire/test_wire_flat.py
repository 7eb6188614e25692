"""The fast path and cattrs decode any text to the same value."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_classes import QUICK

from trio_codex import wire
from trio_codex.testing.strategies import json_values, wire_values
from trio_codex.wire._flat import flat_decoder
from trio_codex.wire._lookup import fields_of
from trio_codex.wire._registry import NOTIFICATIONS, TEXT_DELTAS
from trio_codex.wire._unions import is_wire

if TYPE_CHECKING:
    from trio_codex.wire._base import Wire

CLASSES: dict[str, type[Wire]] = {method: getattr(wire, name) for method, name in NOTIFICATIONS.items()}
READERS = {method: flat_decoder(cls, fields_of(cls)) for method, cls in CLASSES.items() if is_wire(cls)}
FLAT = sorted(method for method, read in READERS.items() if read is not None)
DELTA = wire.AgentMessageDeltaNotification(delta="hi", item_id="i", thread_id="t", turn_id="u")


def read_both_ways(method: str, text: bytes) -> tuple[Wire, Wire]:
    return (
        wire.decode_notification_json(method, text),
        wire.decode_notification(method, msgspec.json.decode(text)),
    )


def test_text_deltas_are_read_by_the_fast_path() -> None:
    assert len(FLAT) >= 35
    assert {method for method in TEXT_DELTAS if method in CLASSES} <= set(FLAT)


@pytest.mark.parametrize("method", FLAT)
@given(data=st.data())
@QUICK
def test_both_paths_read_the_same_value(method: str, data: st.DataObject) -> None:
    value = data.draw(wire_values(CLASSES[method]))
    read = READERS[method]
    assert read is not None
    assert read(msgspec.json.encode(wire.encode(value))) == value
    one, other = read_both_ways(method, msgspec.json.encode(wire.encode(value)))
    assert one == other == value
    assert type(one) is CLASSES[method]


@given(method=st.sampled_from(FLAT), data=st.data())
def test_both_paths_read_the_same_from_drifted_values(method: str, data: st.DataObject) -> None:
    params: dict[str, Any] = wire.encode(data.draw(wire_values(CLASSES[method])))
    for name in data.draw(st.lists(st.sampled_from([*params, "more"]), max_size=3)):
        change = data.draw(st.none() | json_values() | st.just(KeyError))
        if change is KeyError:
            params.pop(name, None)
        else:
            params[name] = change
    one, other = read_both_ways(method, msgspec.json.encode(params))
    assert one == other
    assert type(one) is type(other)


@given(method=st.sampled_from(FLAT), params=json_values())
def test_both_paths_read_the_same_from_any_json(method: str, params: Any) -> None:
    one, other = read_both_ways(method, msgspec.json.encode(params))
    assert one == other
    assert type(one) is type(other)


@pytest.mark.parametrize(
    ("number", "fits"), [(b"1", True), (b"1.0", False), (b"1e0", False), (b"true", False), (b"-0", True), (b"9" * 30, True)]
)  # fmt: skip
def test_integers_and_floats_are_distinguished(number: bytes, fits: bool) -> None:
    text = b'{"delta":"x","itemId":"i","summaryIndex":%s,"threadId":"t","turnId":"u"}' % number
    one, other = read_both_ways("item/reasoning/summaryTextDelta", text)
    assert one == other
    assert isinstance(one, wire.ReasoningSummaryTextDeltaNotification) is fits


def test_the_last_of_duplicate_members_wins() -> None:
    text = b'{"itemId":"first","delta":"hi","threadId":"t","turnId":"u","itemId":"i"}'
    one, other = read_both_ways("item/agentMessage/delta", text)
    assert one == other == DELTA


def test_a_value_read_by_the_fast_path_is_like_any_other() -> None:
    value = wire.decode_notification_json("item/agentMessage/delta", msgspec.json.encode(wire.encode(DELTA)))
    assert repr(value) == repr(DELTA)
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == DELTA
    assert value.evolve(delta="ho") == DELTA.evolve(delta="ho")
    assert not hasattr(value, "itemId")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        value.item_id = "other"  # type: ignore[attr-defined]
    match value:
        case wire.AgentMessageDeltaNotification(item_id=item_id):
            assert item_id == "i"
        case _:
            pytest.fail("it matches its class")


def test_classes_with_other_fields_use_the_slow_path() -> None:
    for cls in (
        wire.ItemStartedNotification,
        wire.ThreadTokenUsageUpdatedNotification,
        wire.AgentMessageThreadItem,
    ):
        assert flat_decoder(cls, fields_of(cls)) is None


def test_invalid_bytes_in_skipped_members_do_not_affect_other_members() -> None:
    text = b'{"delta":"hi","itemId":"i","threadId":"t","turnId":"u","\xff":"\xfe"}'
    assert wire.decode_notification_json("item/agentMessage/delta", text) == DELTA
    broken = wire.decode_notification_json("item/agentMessage/delta", text.replace(b"hi", b"\xff"))
    assert isinstance(broken, wire.UnknownNotification)
