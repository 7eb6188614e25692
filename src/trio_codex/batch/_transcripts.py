"""The transcripts of a batch: the contents of its threads, with times.

The contents come from the server. Servers before 0.166.0 do not store times of items, and no server stores the time
of a tool call, so times are read from the thread's file, if it exists. That file's format is internal to the server,
so unexpected lines are ignored.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from datetime import datetime  # noqa: TC003  # msgspec reads it
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import msgspec
import trio

from trio_codex import errors, open_codex, wire
from trio_codex.batch._batch import THREADS
from trio_codex.supervision import read_journal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_codex import Codex, CodexConfig
    from trio_codex.batch._values import Outcome

LIMITS: Final = (10_000, 2_000, 500, 100)
"""Limits on the length of a text in characters. The first one that makes a transcript fit is used."""

CALLS: Final = ("function_call", "custom_tool_call")
OUTPUTS: Final = ("function_call_output", "custom_tool_call_output")
STARTS: Final = ("task_started", "turn_started")
ENDS: Final = ("task_complete", "turn_complete", "turn_aborted")


@attrs.define(kw_only=True)
class Transcript:
    """The transcript of an attempt.

    Attributes:
        id: The id of its thread.
        attempt: The number of the attempt.
        home: The ``CODEX_HOME`` in which the thread was started, if known.
        span: When the first turn began and the last one ended, as Unix timestamps in milliseconds, if known.
        json: The transcript as JSON.
    """

    id: str
    attempt: int
    home: str | None = None
    span: list[int] = attrs.field(factory=list[int])
    json: msgspec.Raw = attrs.field(factory=msgspec.Raw)


class _Item(msgspec.Struct):
    id: str | None = None


class _Payload(msgspec.Struct):
    """The payload of a line, with the members of several kinds of lines."""

    type: str = ""
    turn_id: str | None = None
    item: _Item | None = None
    started_at_ms: int | None = None
    completed_at_ms: int | None = None
    call_id: str | None = None
    name: str = ""
    arguments: Any = None
    input: Any = None
    output: Any = None


class _Line(msgspec.Struct):
    timestamp: datetime
    payload: _Payload


class _Arguments(msgspec.Struct):
    sandbox_permissions: str | None = None
    justification: str | None = None


async def read_transcripts(
    out: Path, outcomes: Sequence[Outcome], config: CodexConfig, size: int
) -> dict[str, list[Transcript]]:
    """Return the transcripts of attempts by task, in order.

    Args:
        out: The directory of the batch.
        outcomes: Its outcomes.
        config: The configuration of the servers. If it has a ``codex_home``, all threads are read from there.
        size: The intended limit on a transcript, in bytes.

    Raises:
        JournalError: The journal of the supervisor cannot be read.
        StartError: A server did not start.
        ConnectionBroken: A server died.
    """
    await trio.lowlevel.checkpoint()
    found = _threads_of(out, outcomes)
    homes: defaultdict[str | None, list[Transcript]] = defaultdict(list)
    for threads in found.values():
        for thread in threads:
            homes[thread.home if config.codex_home is None else None].append(thread)
    for home, threads in homes.items():
        if home is not None and not Path(home).is_dir():  # noqa: ASYNC240  # a local disk; Trio's own starts a thread
            for thread in threads:
                _set(thread, size, missing=f"{home} does not exist on this machine")
            continue
        async with open_codex(config if home is None else attrs.evolve(config, codex_home=home)) as codex:
            for thread in threads:
                await _read(codex, thread, size)
    return found


def _threads_of(out: Path, outcomes: Sequence[Outcome]) -> dict[str, list[Transcript]]:
    """Return the threads of attempts by task; without the supervisor's journal, only the last thread of each task."""
    found: defaultdict[str, dict[str, Transcript]] = defaultdict(dict)
    if (out / THREADS).is_file():
        for row in read_journal(out / THREADS):
            name, _, attempt = row.name.rpartition("#")
            if attempt.isdecimal():
                found[name][row.id] = Transcript(id=row.id, attempt=int(attempt), home=row.codex_home)
    for outcome in outcomes:
        if outcome.thread_id is not None and outcome.thread_id not in found[outcome.task.id]:
            found[outcome.task.id][outcome.thread_id] = Transcript(
                id=outcome.thread_id, attempt=outcome.attempts
            )
    return {name: sorted(each.values(), key=lambda thread: thread.attempt) for name, each in found.items()}


async def _read(codex: Codex, thread: Transcript, size: int) -> None:
    await trio.lowlevel.checkpoint()
    try:
        path = (await codex.thread_read(thread.id)).path
        pages = codex.thread_turns(thread.id, sort_direction="asc", items_view="full")
        stored = [turn async for turn in pages]
    except (errors.RpcError, errors.RemoteProtocolError) as exc:
        _set(thread, size, missing=str(exc))
        return
    times, calls = ({}, {}) if path is None else _times_of(Path(path))
    turns: list[dict[str, Any]] = []
    for turn in stored:
        span = [None if each is None else each * 1000 for each in (turn.started_at, turn.completed_at)]
        turns.append({**wire.encode(turn), "span": times.get(turn.id) or span})
    known = {item["id"] for turn in turns for item in turn["items"]}
    for name, call in calls.items():
        if name in known:
            # The item contains them, too.
            del call["input"], call["output"]
    ends = [time for turn in turns for time in turn["span"] if time is not None]
    thread.span = [min(ends), max(ends)] if ends else []
    _set(thread, size, turns=turns, times=times, calls=calls)


def _set(thread: Transcript, size: int, *, missing: str | None = None, **members: Any) -> None:
    whole = {"id": thread.id, "attempt": thread.attempt, "missing": missing, **members}
    thread.json = msgspec.Raw(fitted(whole, size))


def fitted(value: Any, size: int) -> bytes:
    """Return a value as JSON. The longest texts are shortened to limit it to this size in bytes, if possible."""
    json = b""
    for limit in LIMITS:
        json = msgspec.json.encode(_shortened(value, limit))
        if len(json) <= size:
            break
    return json


def _shortened(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        if len(value) <= limit:
            return value
        end = limit // 4
        omitted = len(value) - limit
        return f"{value[: limit - end]}\n[… {omitted:,} characters omitted …]\n{value[-end:]}"
    if isinstance(value, dict):
        return {key: _shortened(each, limit) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_shortened(each, limit) for each in cast("list[Any]", value)]
    return value


def _times_of(path: Path) -> tuple[dict[str, list[int | None]], dict[str, dict[str, Any]]]:
    """Return the start and end of turns and items, in milliseconds, and the model's calls."""
    times: dict[str, list[int | None]] = {}
    calls: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return times, calls
    decode = msgspec.json.Decoder(_Line).decode
    turn = None
    with path.open("rb") as file:
        for line in file:
            try:
                entry = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # the format is internal to the server
            at, payload = round(entry.timestamp.timestamp() * 1000), entry.payload
            if payload.type in STARTS and payload.turn_id:
                turn = payload.turn_id
                times[turn] = [at, None]
            elif payload.type in ENDS and payload.turn_id in times:
                times[payload.turn_id][1] = at
            elif (
                payload.type == "item_completed" and payload.item is not None and payload.item.id is not None
            ):
                times[payload.item.id] = [payload.started_at_ms, payload.completed_at_ms]
            elif payload.type in CALLS and payload.call_id:
                calls[payload.call_id] = {
                    "turn": turn,
                    "name": payload.name,
                    "span": [at, None],
                    **_asked(payload),
                }
            elif payload.type in OUTPUTS and payload.call_id in calls:
                calls[payload.call_id]["span"][1] = at
                calls[payload.call_id]["output"] = payload.output
    return times, calls


def _asked(payload: _Payload) -> dict[str, Any]:
    """Return the input of a call, and whether it needs an approval or an answer."""
    given = payload.input if payload.arguments is None else payload.arguments
    arguments = _Arguments()
    if isinstance(given, str):
        # Some inputs are not JSON, such as patches.
        with suppress(msgspec.DecodeError):
            arguments = msgspec.json.decode(given, type=_Arguments)
    permissions = arguments.sandbox_permissions
    asks = permissions not in {None, "use_default"} or payload.name.startswith("request_")
    return {"input": given, "output": None, "asks": asks, "why": arguments.justification}
