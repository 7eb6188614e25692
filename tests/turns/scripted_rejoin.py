"""Answers and events of a scripted server on which a turn is running."""

import trio
import trio.testing

from trio_codex import CodexConfig
from trio_codex.testing._fake import DEFAULTS

OPENED = DEFAULTS["thread/resume"]
GAP = "trio_codex/gap"
ENDING = CodexConfig(interrupt_grace=2, on_stuck_turn="abandon")


def message(text, item_id="message-1", **fields):
    return {"type": "agentMessage", "id": item_id, "text": text, **fields}


def record(turn_id="turn-1", status="completed", items=(), **fields):
    return {"id": turn_id, "status": status, "items": list(items), "itemsView": "full", **fields}


def page(*records, cursor=None):
    return {"data": list(records), "nextCursor": cursor}


def running(turn_id="turn-1", items=(), **fields):
    return {**OPENED, "initialTurnsPage": page(record(turn_id, "inProgress", items, **fields))}


def usage(tokens):
    counts = {
        "totalTokens": tokens,
        "inputTokens": tokens,
        "cachedInputTokens": 0,
        "outputTokens": 0,
        "reasoningOutputTokens": 0,
        "cacheWriteInputTokens": 0,
    }
    return {
        "threadId": "thread-1",
        "turnId": "turn-1",
        "tokenUsage": {"total": counts, "last": counts, "modelContextWindow": None},
    }


async def resumed(codex, server, *items, **options):
    """Resume a thread on which another client's turn is running."""
    server.give("thread/resume", running(items=items))
    return await codex.thread_resume("thread-1", **options)


async def settle():
    await trio.testing.wait_all_tasks_blocked()
