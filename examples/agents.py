"""Watch the agents that a turn spawns, and count the tokens they use.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import Event, Subscription, open_codex, wire


async def print_messages(events: Subscription[Event]) -> None:
    """Print the messages of agents. The events end with the turn."""
    names: dict[str | None, str] = {}
    async for event in events:
        match event.params:
            case wire.ItemCompletedNotification(item=wire.AgentMessageThreadItem(text=text)):
                name = names.setdefault(event.thread_id, f"agent {len(names) + 1}")
                print(f"{name}: {text}")
            case _:
                pass


async def main() -> None:
    """Run the example."""
    async with example_config("agents") as config, open_codex(config) as codex:
        thread = await codex.thread_start()
        async with (
            thread.turn("Let an agent count the files, wait for it, and tell me.") as turn,
            turn.agent_events() as events,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(print_messages, events)
            result = await turn.wait()
        print(f"{result.final_response} ({len(turn.children)} agent)")
        print(f"tokens: {result.turn_usage and result.turn_usage.total_tokens}")


if __name__ == "__main__":
    trio.run(main)
