"""Continue a thread in another process. The server stores threads by id.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import CodexConfig, open_codex


async def first_session(config: CodexConfig) -> str:
    """Start a thread, run a turn, and return the thread's id."""
    async with open_codex(config) as codex:
        thread = await codex.thread_start()
        await thread.run("Remember the number 42.")
        print(f"server {codex.pid}: thread {thread.id}")
        return thread.id


async def second_session(config: CodexConfig, thread_id: str) -> None:
    """Resume the thread on a new server."""
    async with open_codex(config) as codex:
        thread = await codex.thread_resume(thread_id)
        result = await thread.run("Which number was it?")
        print(f"server {codex.pid}: {result.final_response}")


async def main() -> None:
    """Run the example."""
    async with example_config("resume") as config:
        thread_id = await first_session(config)
        await second_session(config, thread_id)


if __name__ == "__main__":
    trio.run(main)
