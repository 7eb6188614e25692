"""The result of a turn, and the reducer that builds it from the turn's events.

The reader feeds the reducer, which keeps items as raw JSON until the result is read. It is independent of consumers'
buffers, so a result is complete even without a consumer or after an overflow. Unexpected values never raise.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, cast

import attrs

from trio_codex import wire
from trio_codex._core.json import Json, integer_of, list_of, object_of, parse_object, string_of
from trio_codex._core.secrets import NO_SECRETS
from trio_codex.errors import DecodeError, OutputError
from trio_codex.wire import _convert

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import TypeVar

    from trio_codex._core.secrets import Secrets
    from trio_codex._values.usage import TokenUsage

    # The default is for type checkers: a bare ``TurnResult`` accepts any output type.
    OutputT_co = TypeVar("OutputT_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    OutputT_co = TypeVar("OutputT_co", covariant=True)

T = TypeVar("T")

OWN_WORK: Final = frozenset(
    {
        "agentMessage", "contextCompaction", "enteredReviewMode", "exitedReviewMode", "hookPrompt", "plan",
        "reasoning", "userMessage",
    }
)  # fmt: skip
"""Item types that are not the work of a tool or an agent. During these, the turn is waiting for the model."""


class TurnStatus(enum.StrEnum):
    """The status of a turn that has ended. A status unknown to this version remains a plain string."""

    completed = "completed"
    interrupted = "interrupted"
    failed = "failed"
    lost = "lost"
    """The end was never observed because the connection ended first or the turn was abandoned."""


@attrs.frozen(kw_only=True)
class TurnResult(Generic[OutputT_co]):
    """The complete result of a turn. ``TurnResult[Plan]`` is the result of a turn with ``output_type=Plan``.

    Attributes:
        id: The id of the turn; empty if the server never reported it.
        thread_id: The id of its thread.
        status: How the turn ended.
        error: Why it failed, if the server reported that.
        final_response: The last ``final_answer`` agent message, else the last without a phase, else ``None``.
        items: The completed items, in order of completion. Items cut off by the end of the turn are not included.
        usage: The thread's token usage as last reported in this turn, with totals over the whole life of the thread;
            ``None`` if it was not reported.
        turn_usage: Tokens used by this turn, including those of agents it spawned; ``None`` if none were reported.
        agents_usage: The part of ``turn_usage`` used by those agents.
        diff: Unified diff of the file changes made by its patches, as last reported. Changes made by commands are not
            included.
        started_at: Unix time in seconds, as reported by the server.
        completed_at: Unix time in seconds, as reported by the server.
        duration_ms: Milliseconds from start to end, as reported by the server.
        parts: The results of the individual turns, if a :class:`~trio_codex.supervision.SupervisedThread` needed
            several.
    """

    id: str
    thread_id: str
    status: TurnStatus | str
    error: wire.TurnError | None = None
    final_response: str | None = attrs.field(default=None, repr=False)
    items: tuple[wire.ThreadItem, ...] = attrs.field(default=(), repr=lambda items: f"<{len(items)} items>")
    usage: wire.ThreadTokenUsage | None = None
    turn_usage: TokenUsage | None = None
    agents_usage: TokenUsage | None = None
    diff: str | None = attrs.field(default=None, repr=False)
    started_at: int | None = None
    completed_at: int | None = None
    duration_ms: int | None = None
    parts: tuple[TurnResult[Any], ...] = attrs.field(default=(), repr=lambda parts: f"<{len(parts)} parts>")
    _output: OutputT_co = attrs.field(default=None, repr=False)
    _problem: str | None = attrs.field(default=None, repr=False)

    @property
    def output(self) -> OutputT_co:
        """The final response as a value of ``output_type``; ``None`` without one, or if the turn did not complete.

        Raises:
            OutputError: The final response does not match the type.
        """
        if self._problem is not None:
            raise OutputError(self.final_response, self._problem, self)
        return self._output


class TurnReducer:
    """Builds the outcome of one turn from its events.

    Attributes:
        children: Thread ids of the agents that the turn spawned.
        terminals: Process ids of commands it started that have not completed, by item.
        changes: File changes that are proposed or in progress, by item, because an approval request does not repeat
            them.
        running: Types of the items in progress that are not the model's own work, by id.
    """

    def __init__(self) -> None:
        self.children: dict[str, None] = {}
        self.terminals: dict[str, str] = {}
        self.changes: dict[str, Any] = {}
        self.running: dict[str, str] = {}
        self._items: list[dict[str, Any]] = []
        self._usage: Any = None
        self._diff: Any = None
        self._error: Any = None
        self._turn: dict[str, Any] = {}
        self._status: TurnStatus | str | None = None

    def feed(self, method: str, json: Json) -> None:
        handle = self.HANDLERS.get(method)
        if handle is not None:
            handle(self, parse_object(json))

    def end(self) -> None:
        """Fix the outcome from the terminal event, or as lost if there was none. Only the first call has an effect."""
        if self._status is None:
            reported = string_of(self._turn.get("status"))
            self._status = TurnStatus.lost if reported is None else _status(reported)

    def complete(self, items: list[Any]) -> None:
        """Replace the items with those that the server has stored for the turn."""
        self._items = [item for item in map(object_of, items) if item.get("status") != "inProgress"]

    @property
    def status(self) -> TurnStatus | str:
        """How the turn ended; ``lost`` until the outcome is fixed."""
        return TurnStatus.lost if self._status is None else self._status

    def result(
        self,
        turn_id: str,
        thread_id: str,
        turn_usage: TokenUsage | None = None,
        agents_usage: TokenUsage | None = None,
        secrets: Secrets = NO_SECRETS,
    ) -> TurnResult:
        """Return the result. Items and errors are structured here."""
        error = _structured(wire.TurnError, self._turn.get("error") or self._error)
        return TurnResult(
            id=turn_id,
            thread_id=thread_id,
            status=self.status,
            error=without_secrets(error, secrets),
            final_response=_final_response(self._items),
            items=tuple(_structure_item(item) for item in self._items),
            usage=_structured(wire.ThreadTokenUsage, self._usage),
            turn_usage=turn_usage,
            agents_usage=agents_usage,
            diff=string_of(self._diff),
            started_at=integer_of(self._turn.get("startedAt")),
            completed_at=integer_of(self._turn.get("completedAt")),
            duration_ms=integer_of(self._turn.get("durationMs")),
        )

    def _on_item_started(self, params: dict[str, Any]) -> None:
        item = object_of(params.get("item"))
        self._note_remote(item)
        kind = string_of(item.get("type"))
        if kind is not None and kind not in OWN_WORK:
            self.running[str(item.get("id"))] = kind

    def _on_item_completed(self, params: dict[str, Any]) -> None:
        item = object_of(params.get("item"))
        self._note_remote(item)
        self.terminals.pop(str(item.get("id")), None)
        self.changes.pop(str(item.get("id")), None)
        self.running.pop(str(item.get("id")), None)
        if item:
            self._items.append(item)

    def _note_remote(self, item: dict[str, Any]) -> None:
        """Record agents and commands, because an interrupt of the turn does not end them (PROTOCOL Q24, 6)."""
        kind = item.get("type")
        if kind == "collabAgentToolCall":
            receivers = map(string_of, list_of(item.get("receiverThreadIds")))
            self.children.update((child, None) for child in receivers if child is not None)
        elif kind == "subAgentActivity" and (child := string_of(item.get("agentThreadId"))):
            self.children[child] = None
        elif kind == "commandExecution" and (process_id := string_of(item.get("processId"))):
            self.terminals[str(item.get("id"))] = process_id
        elif kind == "fileChange":
            self.changes[str(item.get("id"))] = item.get("changes")

    def _on_usage(self, params: dict[str, Any]) -> None:
        self._usage = params.get("tokenUsage")

    def _on_diff(self, params: dict[str, Any]) -> None:
        self._diff = params.get("diff")

    def _on_error(self, params: dict[str, Any]) -> None:
        # With willRetry the server retries on its own, so the error is not final (Q15).
        if params.get("willRetry") is not True:
            self._error = params.get("error")

    def _on_turn(self, params: dict[str, Any]) -> None:
        self._turn = object_of(params.get("turn"))

    HANDLERS: ClassVar[dict[str, Callable[[TurnReducer, dict[str, Any]], None]]] = {
        "item/started": _on_item_started,
        "item/completed": _on_item_completed,
        "thread/tokenUsage/updated": _on_usage,
        "turn/diff/updated": _on_diff,
        "error": _on_error,
        "turn/completed": _on_turn,
    }


REDUCED: Final = frozenset(TurnReducer.HANDLERS)
"""The events that affect the outcome. Most events, such as text deltas, do not."""


def without_secrets(error: wire.TurnError | None, secrets: Secrets) -> wire.TurnError | None:
    """Return the error of a turn without secrets: the model's provider may quote the key that it rejects."""
    if error is None:
        return None
    details = error.additional_details
    return attrs.evolve(
        error,
        message=secrets.hide(error.message),
        additional_details=secrets.hide(details) if isinstance(details, str) else details,
    )


def _structured(type_: type[T], value: Any) -> T | None:
    if value is None:
        return None
    try:
        return _convert.decode(type_, value)
    except DecodeError:
        return None


def _structure_item(item: dict[str, Any]) -> wire.ThreadItem:
    try:
        return cast("wire.ThreadItem", _convert.decode(wire.ThreadItem, item))
    except DecodeError:
        return wire.UnknownVariant(tag=string_of(item.get("type")), raw=item)


def _status(reported: str) -> TurnStatus | str:
    try:
        return TurnStatus(reported)
    except ValueError:
        return reported


def _final_response(items: list[dict[str, Any]]) -> str | None:
    messages = [
        item for item in items if item.get("type") == "agentMessage" and isinstance(item.get("text"), str)
    ]
    for phase in ("final_answer", None):
        for item in reversed(messages):
            if item.get("phase") == phase:
                return string_of(item.get("text"))
    return None
