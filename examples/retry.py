"""Retry when a turn fails for a transient reason: the provider is overloaded or down, or limits the rate.

Each attempt has a thread of its own, because the prompt of a failed turn stays in the history of its thread.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from functools import partial

import trio
from _offline import example_config

from trio_codex import Codex, errors, is_transient_error, open_codex, retry_transient


async def review(codex: Codex, path: str) -> str | None:
    """Review a file in a new thread."""
    async with await codex.thread_start(ephemeral=True) as thread:
        try:
            return (await thread.run(f"Review {path}.")).final_response
        except errors.TurnFailed as exc:
            print(f"{path}: {'try again later' if is_transient_error(exc) else 'failed for good'}: {exc}")
            raise


async def main() -> None:
    """Run the example."""
    async with example_config("retry") as config, open_codex(config) as codex:
        for path in ("parser.py", "secrets.py"):
            try:
                text = await retry_transient(partial(review, codex, path), initial_delay=0.2)
                print(f"{path}: {text}")
            except errors.TurnFailed:
                print(f"{path}: given up")


if __name__ == "__main__":
    trio.run(main)
