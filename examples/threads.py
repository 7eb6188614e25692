"""Manage a thread: name it, page through its history, fork it, roll back a turn, archive and unarchive it.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import Thread, open_codex, wire


async def print_history(title: str, thread: Thread) -> None:
    """Print the history, two items per page; without pages the server would send it all in one line."""
    print(f"{title}:")
    async for entry in thread.items(page_size=2):
        match entry.item:
            case wire.UserMessageThreadItem(content=[wire.TextUserInput(text=text), *_]):
                print(f"  > {text}")
            case wire.AgentMessageThreadItem(text=text):
                print(f"  < {text}")
            case _:
                pass


async def main() -> None:
    """Run the example."""
    async with example_config("threads") as config, open_codex(config) as codex:
        thread = await codex.thread_start()
        await thread.run("Pick a color.")
        second = await thread.run("Pick another one.")
        await thread.set_name("Colors")
        await print_history("the thread", thread)

        fork = await thread.fork()
        await fork.run("Mix the two.")
        await print_history("its fork", fork)

        await thread.revert(second.id)
        await print_history("with its second turn rolled back", thread)

        await thread.archive()
        archived = [stored.name async for stored in codex.threads(archived=True)]
        thread = await codex.thread_unarchive(thread.id)
        print(f"archived: {archived}; unarchived: {(await thread.read()).name}")


if __name__ == "__main__":
    trio.run(main)
