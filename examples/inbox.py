"""Answer the agent's requests in another task, after a while. Requests that time out are declined.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import open_codex, policies
from trio_codex.errors import RequestSettled
from trio_codex.policies import Inbox, Pending, with_timeout

LISTING = {("/bin/bash", "-c", "ls"), ("/bin/bash", "-lc", "ls")}


async def answer_all(inbox: Inbox, iterating: trio.CancelScope) -> None:
    """Answer each request in a separate task, as a user interface would."""
    async with trio.open_nursery() as nursery:
        with iterating:  # the inbox never ends, but pending answers do
            async for pending in inbox:
                nursery.start_soon(answer, pending)


async def answer(pending: Pending) -> None:
    """Answer after some time, and take longer for commands that do more than read."""
    match pending.request:
        case policies.CommandRequest(command=str(command), argv=argv) if argv in LISTING:
            await trio.sleep(0.1)
            await pending.accept()
            print(f"accepted: {command.split('/')[-1]}")
        case _:
            await trio.sleep(3)
            try:
                await pending.accept()
            except RequestSettled as exc:
                print(f"too late: {type(exc).__name__}")


async def main() -> None:
    """Run the example."""
    inbox, iterating = Inbox(), trio.CancelScope()
    policy = with_timeout(inbox, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_all, inbox, iterating)
        async with example_config("inbox") as config, open_codex(config, policy=policy) as codex:
            thread = await codex.thread_start(approval_policy="on-request")
            result = await thread.run("See what is here, then clean up.")
            print(result.final_response)
        iterating.cancel()


if __name__ == "__main__":
    trio.run(main)
