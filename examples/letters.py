"""An agent that runs for weeks: it answers each letter in a directory once, no matter what dies in the meantime.

``agent`` is the whole program. As a service it is started with

    trio-codex supervise letters:agent --journal agents.db

which starts another server when one dies, shuts the program down cleanly on SIGTERM, and notifies systemd. Run as a script,
this file shows a letter during which the server is killed, and a letter that arrives while no program is running.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import logging
import os
import signal
import tempfile

import trio
from _offline import example_config

from trio_codex import CodexConfig, open_supervisor, retry_transient, wire
from trio_codex.supervision import SupervisedThread, Supervisor


async def agent(supervisor: Supervisor) -> None:
    """Answer letters as they arrive, in one thread, so that the agent remembers the earlier ones."""
    directory = trio.Path(os.environ.get("LETTERS", "letters"))
    async with supervisor.thread("letters", sandbox="read-only") as thread:
        while True:
            for letter in sorted(await directory.glob("*.txt")):
                answer = letter.with_suffix(".answer")
                if not await answer.exists():
                    await answer.write_text(await write_answer(thread, letter), encoding="utf-8")
            await trio.sleep(0.1)


async def write_answer(thread: SupervisedThread, letter: trio.Path) -> str:
    """Return the answer to a letter.

    The key identifies a prompt. If the program ends before it has stored the answer, the next one reads it from the
    history of the thread. After a transient failure, a follow-up asks the agent to continue.
    """
    text = await letter.read_text(encoding="utf-8")
    result = await retry_transient(
        lambda: thread.run(
            f"Answer this letter: {text}", key=letter.stem, on_failed="continue", idle_limit=600
        ),
        initial_delay=0.1,
    )
    return result.final_response or ""


# -- the demonstration -------------------------------------------------------------------------------------------------


async def program(config: CodexConfig, letters: trio.Path, last: str, *, kills: bool = False) -> None:
    """Run the agent until a letter is answered, and then shut it down cleanly."""
    async with (
        open_supervisor(config, journal=letters.parent / "agents.db") as supervisor,
        trio.open_nursery() as nursery,
    ):
        if kills:
            nursery.start_soon(kill_server, supervisor)
        nursery.start_soon(agent, supervisor)
        while not await (letters / last).with_suffix(".answer").exists():  # noqa: ASYNC110  # no event says so
            await trio.sleep(0.05)
        await supervisor.drain()
        nursery.cancel_scope.cancel()
        print(f"the program ends after generation {supervisor.generation}")


async def kill_server(supervisor: Supervisor) -> None:
    """Kill the server in the middle of its second answer."""
    codex = await supervisor.ready()
    async with codex.events("item/agentMessage/delta") as deltas:
        async for event in deltas:
            match event.params:
                case wire.AgentMessageDeltaNotification(delta=text) if (
                    "Grace" in text and codex.pid is not None
                ):
                    os.kill(codex.pid, signal.SIGKILL)
                    return
                case _:
                    pass


async def main() -> None:
    """Run the example."""
    # By default, a lost server is logged as a warning. This one is lost on purpose.
    logging.getLogger("trio_codex").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        letters = trio.Path(directory, "letters")
        await letters.mkdir()
        os.environ["LETTERS"] = str(letters)
        async with example_config("letters") as config:
            await (letters / "1.txt").write_text("When do you open? Ada")
            await (letters / "2.txt").write_text("Do you sell spools? Grace")
            await program(config, letters, "2", kills=True)
            await (letters / "3.txt").write_text("And on Sundays? Ada")
            await program(config, letters, "3")
            for answer in sorted(await letters.glob("*.answer")):
                print(f"{answer.stem}: {await answer.read_text(encoding='utf-8')}")


if __name__ == "__main__":
    trio.run(main)
