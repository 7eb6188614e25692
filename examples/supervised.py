"""Recover from a crash of the server: start another one, resume the thread, and repeat nothing.

Every task is sent with its own id. If the server crashes, the history of the thread shows whether the server had accepted
the task. If so, the agent is asked to continue, and the task is not sent again.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import os
import signal

import attrs
import trio
from _offline import example_config

from trio_codex import Codex, CodexConfig, Thread, errors, open_codex, wire

CONTINUE = "You were interrupted. Check what is already done, and continue."
RESTARTS = 3
WRITER_SECONDS = 5
"""How long the server of an earlier run may keep the thread open."""


@attrs.define
class Job:
    """State that outlives a server. To outlive this program too, store it in a file.

    Attributes:
        tasks: The remaining tasks, by id.
        thread_id: The id of the job's thread.
    """

    tasks: dict[str, str]
    thread_id: str | None = None


async def open_thread(codex: Codex, job: Job) -> tuple[Thread, dict[str, wire.Turn]]:
    """Resume or start the thread of the job. Return it with its turns, by the ids of their messages."""
    accepted: dict[str, wire.Turn] = {}
    if job.thread_id is not None:
        try:
            thread = await resume(codex, job.thread_id)
            async for turn in thread.turns(items_view="full"):
                for item in turn.items:
                    if isinstance(item, wire.UserMessageThreadItem) and item.client_id is not None:
                        accepted[item.client_id] = turn
            return thread, accepted
        except errors.ThreadInUse:
            raise  # the thread exists; a new one would repeat every task
        except errors.InvalidRequestError:
            pass  # a thread without turns is not stored
    thread = await codex.thread_start()
    job.thread_id = thread.id
    return thread, accepted


async def resume(codex: Codex, thread_id: str) -> Thread:
    """Resume a thread as soon as no other server has it open."""
    deadline = trio.current_time() + WRITER_SECONDS
    while True:
        try:
            return await codex.thread_resume(thread_id)
        except errors.ThreadInUse:
            if trio.current_time() > deadline:
                raise
        await trio.sleep(0.1)


async def work(codex: Codex, job: Job) -> None:
    """Run the remaining tasks."""
    thread, accepted = await open_thread(codex, job)
    for message_id, task in list(job.tasks.items()):
        if message_id not in accepted:
            await do(codex, thread, task, message_id)
        elif accepted[message_id].status != "completed":
            await do(codex, thread, CONTINUE, None)
        del job.tasks[message_id]


async def do(codex: Codex, thread: Thread, text: str, message_id: str | None) -> None:
    """Run one turn. Kill the server in the middle of the second task, to demonstrate the recovery."""
    async with thread.turn(text, client_user_message_id=message_id) as turn:
        async for piece in turn.text():
            print(f"{text} -> {piece}")
            if message_id == "job-2" and codex.pid is not None:
                os.kill(codex.pid, signal.SIGKILL)


async def supervise(config: CodexConfig, job: Job) -> None:
    """Start servers until the work is done or too many have crashed."""
    crashes = 0
    while True:
        try:
            async with open_codex(config) as codex:
                await work(codex, job)
            return
        except (errors.TurnLost, errors.ConnectionBroken) as exc:
            # A new server would not help with a failed turn, a refused request or a server that does not start.
            crashes += 1
            if crashes > RESTARTS:
                raise
            print(f"{exc.__cause__ or exc}".splitlines()[0])
        await trio.sleep(0.1)


async def main() -> None:
    """Run the example."""
    async with example_config("supervised") as config:
        job = Job({"job-1": "Count the files.", "job-2": "Sort them.", "job-3": "Report."})
        await supervise(config, job)
        print(f"left to do: {len(job.tasks)}")


if __name__ == "__main__":
    trio.run(main)
