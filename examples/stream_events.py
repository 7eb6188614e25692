"""Show the events of a turn as they arrive.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import Event, open_codex, wire


def show(event: Event) -> None:
    """Print one line for an event, if it is relevant."""
    match event.params:
        case wire.ItemStartedNotification(item=wire.CommandExecutionThreadItem(command=command)):
            print(f"$ {command}")
        case wire.ItemCompletedNotification(item=wire.CommandExecutionThreadItem() as item):
            print(f"  {item.status}, exit code {item.exit_code}")
        case wire.ItemCompletedNotification(item=wire.AgentMessageThreadItem() as item):
            print(f"[{item.phase or 'message'}] {item.text}")
        case wire.AgentMessageDeltaNotification(delta=text):
            print(f"… {text}")
        case wire.ThreadTokenUsageUpdatedNotification(token_usage=usage):
            print(f"  {usage.last.total_tokens} tokens")
        case wire.UnknownNotification(method=method):
            print(f"  {method}, which this version does not know")
        case _:
            pass


async def main() -> None:
    """Run the example."""
    async with example_config("stream_events") as config, open_codex(config) as codex:
        thread = await codex.thread_start()
        async with thread.turn("What is in this directory?") as turn:
            async for event in turn:
                show(event)
        print(f"{turn.result.status} after {turn.result.duration_ms} ms")


if __name__ == "__main__":
    trio.run(main)
