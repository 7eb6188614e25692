"""The output of the scripted server: the same bytes for every client, prepared before the measurements.

A turn resembles a long answer. Of 100 events, 97 are deltas of 200 to 300 bytes (text, reasoning and command output,
8 : 1 : 1), two start and complete an item, and one reports token usage.
"""

import itertools
import json
from pathlib import Path

from benchmarks import app_server
from benchmarks.app_server import notification, thread_id, turn_id
from faults.server import RESULTS

TEXT = "the quick brown fox jumps over the lazy dog and says “thank you” to nobody in particular "
CYCLE = 100
"""Events after which the mix repeats."""


def prepare_results(directory):
    """Write the responses to plain requests."""
    (Path(directory) / "results.json").write_text(json.dumps(RESULTS))


def prepare_turn(directory, name, count, thread=1):
    """Write the stream ``name``: a turn of ``count`` events on a thread."""
    lines = turn_lines(thread_id(thread), name, count)
    (Path(directory) / name).write_bytes(b"".join(lines))


def prepare_turns(directory, name, turns, total):
    """Write the stream ``name``: this many turns, each on its own thread, interleaved event by event."""
    text = f"{name} {turns}"
    each = [turn_lines(thread_id(number), text, total // turns) for number in range(1, turns + 1)]
    (Path(directory) / name).write_bytes(b"".join(itertools.chain.from_iterable(zip(*each, strict=True))))


def turn_lines(thread, text, count):
    """Return the lines of a turn of ``count`` events, including its start and end."""
    turn = turn_id(thread, text)
    yield app_server.started(thread, text)
    yield from itertools.islice(_mix(thread, turn), count - 2)
    yield app_server.ended(thread, text)


def _mix(thread, turn):
    where = {"threadId": thread, "turnId": turn}
    for cycle in itertools.count():
        item = f"msg_{cycle:048x}"
        message = {"type": "agentMessage", "id": item, "text": "", "phase": None}
        yield notification("item/started", item=message, **where, startedAtMs=1795221091894)
        for number in range(CYCLE - 3):
            start = (7 * number) % (len(TEXT) // 2)
            piece = TEXT[start : start + 5 + number % 40]
            if number % 10 == 8:
                method, more = (
                    "item/reasoning/summaryTextDelta",
                    {"itemId": f"rs_{cycle:048x}", "summaryIndex": 0},
                )
            elif number % 10 == 9:
                method, more = "item/commandExecution/outputDelta", {"itemId": f"call_{cycle:024x}"}
            else:
                method, more = "item/agentMessage/delta", {"itemId": item}
            yield notification(method, **where, **more, delta=piece)
        message = {**message, "text": TEXT * 4}
        yield notification("item/completed", item=message, **where, completedAtMs=1795221091894)
        tokens = {
            "totalTokens": cycle,
            "inputTokens": cycle,
            "cachedInputTokens": 0,
            "cacheWriteInputTokens": 0,
            "outputTokens": 0,
            "reasoningOutputTokens": 0,
        }
        usage = {"total": tokens, "last": tokens, "modelContextWindow": 272_000}
        yield notification("thread/tokenUsage/updated", **where, tokenUsage=usage)
