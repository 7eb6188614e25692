"""Watch the agents that a turn spawns, and see what they use.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import Event, Subscription, Turn, open_codex, wire


async def watch(turn: Turn, task_status: trio.TaskStatus[None]) -> None:
    """Print what the agents say, and theirs; ends with the turn."""
    async with turn.agent_events() as events:
        task_status.started()
        await print_messages(events)


async def print_messages(events: Subscription[Event]) -> None:
    """Print whole messages, with the thread that they come from."""
    names: dict[str | None, str] = {}
    async for event in events:
        match event.params:
            case wire.ItemCompletedNotification(item=wire.AgentMessageThreadItem(text=text)):
                name = names.setdefault(event.thread_id, f"agent {len(names) + 1}")
                print(f"{name}: {text}")


async def main() -> None:
    """Run the example."""
    async with example_config("agents") as config, open_codex(config) as codex:
        thread = await codex.thread_start()
        async with (
            thread.turn("Let an agent count the files, wait for it, and tell me.") as turn,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(watch, turn)
            result = await turn.wait()
        print(f"{result.final_response} ({len(turn.children)} agent)")
        print(f"tokens: {result.turn_usage and result.turn_usage.total_tokens}")


if __name__ == "__main__":
    trio.run(main)
