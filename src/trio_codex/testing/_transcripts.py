"""Hypothesis strategies for whole turns, as a server would report them. Imported only by ``strategies``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from hypothesis import strategies as st

from trio_codex import TurnStatus, wire

from ._build import build, item_classes, notification
from ._transcript import Said, Transcript

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    ValuesOf = Callable[[type[wire.Wire]], st.SearchStrategy[wire.Wire]]

MAX_ITEMS: Final = 5

_DELTAS: Final = {
    "agentMessage": "item/agentMessage/delta",
    "plan": "item/plan/delta",
    "commandExecution": "item/commandExecution/outputDelta",
}
"""Items whose text is streamed, with the notifications that carry it."""

_NOT_ALONE: Final = {"collabAgentToolCall", "subAgentActivity", "enteredReviewMode", "exitedReviewMode"}
"""Items that refer to turns of other threads, or mark this turn as a review."""

_ITEMS: Final[dict[str, type[wire.Wire]]] = {
    kind: cls for kind, cls in item_classes().items() if kind not in _NOT_ALONE
}


@st.composite
def item_stories(
    draw: st.DrawFn, values_of: ValuesOf, text: st.SearchStrategy[str], item_id: str, ids: dict[str, str]
) -> list[Said]:
    """Generate the notifications of one item: its start, its deltas, and its end unless it is cut off."""
    # Half of the items are messages, because the result of a turn depends on messages.
    kind = draw(st.just("agentMessage") | st.sampled_from(sorted(_ITEMS)))
    pieces = draw(st.lists(text, max_size=3)) if kind in _DELTAS else []
    whole = draw(values_of(_ITEMS[kind])).evolve(id=item_id)
    started = whole
    if kind == "commandExecution":
        started = whole.evolve(aggregated_output=None, status=wire.CommandExecutionStatus.in_progress)
        whole = whole.evolve(aggregated_output="".join(pieces))
    elif kind in _DELTAS:
        if kind == "agentMessage":
            whole = whole.evolve(phase=draw(st.none() | st.sampled_from(wire.MessagePhase)))
        started, whole = whole.evolve(text=""), whole.evolve(text="".join(pieces))
    said = [Said("item/started", notification("item/started", item=started, **ids))]
    for piece in pieces:
        params = notification(_DELTAS[kind], delta=piece, item_id=item_id, **ids)
        said.append(Said(_DELTAS[kind], params))
    if draw(st.integers(0, 4)):
        said.append(Said("item/completed", notification("item/completed", item=whole, **ids)))
    return said


@st.composite
def turns(
    draw: st.DrawFn, values_of: ValuesOf, text: st.SearchStrategy[str], thread_id: str, turn_id: str
) -> Transcript:
    """Generate transcripts of one turn."""
    ids = {"thread_id": thread_id, "turn_id": turn_id}
    count = draw(st.integers(0, MAX_ITEMS))
    stories = [draw(item_stories(values_of, text, f"item-{number}", ids)) for number in range(count)]
    stories += [[each] for each in draw(st.lists(_remarks(text, ids), max_size=3))]
    status = draw(st.sampled_from([TurnStatus.completed, TurnStatus.interrupted, TurnStatus.failed]))
    error = build(wire.TurnError, message=draw(text)) if status is TurnStatus.failed else None
    said = [_turn("turn/started", "inProgress", ids)]
    while any(stories):
        said.append(draw(st.sampled_from([story for story in stories if story])).pop(0))
    said.append(_turn("turn/completed", status, ids, error=error))
    items = [cast("Any", each.params).item for each in said if each.method == "item/completed"]
    diffs = [cast("Any", each.params).diff for each in said if each.method == "turn/diff/updated"]
    return Transcript(
        **ids,
        said=said,
        status=status,
        error=error,
        final_response=_final_response(items),
        items=items,
        diff=diffs[-1] if diffs else None,
    )


def _turn(method: str, status: str, ids: dict[str, str], **fields: Any) -> Said:
    turn = build(wire.Turn, id=ids["turn_id"], status=status, **fields)
    return Said(method, notification(method, thread_id=ids["thread_id"], turn=turn))


def _remarks(text: st.SearchStrategy[str], ids: dict[str, str]) -> st.SearchStrategy[Said]:
    """Generate the other notifications that a server sends during a turn."""

    def retried(message: str) -> Said:
        error = build(wire.TurnError, message=message)
        return Said("error", notification("error", error=error, will_retry=True, **ids))

    def changed(diff: str) -> Said:
        return Said("turn/diff/updated", notification("turn/diff/updated", diff=diff, **ids))

    def planned(explanation: str) -> Said:
        params = notification("turn/plan/updated", explanation=explanation, **ids)
        return Said("turn/plan/updated", params)

    return text.flatmap(lambda words: st.sampled_from([retried(words), changed(words), planned(words)]))


def _final_response(items: Sequence[Any]) -> str | None:
    messages = [each for each in items if isinstance(each, wire.AgentMessageThreadItem)]
    for phase in (wire.MessagePhase.final_answer, None):
        texts = [each.text for each in messages if each.phase == phase]
        if texts:
            return texts[-1]
    return None
