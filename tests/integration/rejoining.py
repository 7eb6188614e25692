"""A program that rejoins the turn of each thread whose id it reads, and prints how the turn ended.

Run as ``python rejoining.py URL``. Each id is served by a new client, as after a restart.
"""

import json
import sys

import trio

from trio_codex import attach_codex, errors


async def outcome(url, thread_id):
    """Return the id, the status and the text of the newest turn, and whether it was still running."""
    async with attach_codex(url) as codex, await codex.thread_resume(thread_id) as thread:
        try:
            async with thread.rejoin() as turn:
                result = await turn.wait()
                texts = [item.text for item in result.items if hasattr(item, "text")]
                return result.id, str(result.status), texts, result.final_response, True
        except errors.NoTurnRuns:
            async for turn in thread.turns(items_view="full", page_size=1):
                texts = [item.text for item in turn.items if hasattr(item, "text")]
                return turn.id, str(turn.status), texts, texts[-1], False


async def main(url):
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        with trio.fail_after(20):
            sys.stdout.write(json.dumps(await outcome(url, line.strip())) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
