"""Mistakes that type checkers must find. Never run: type checkers also report unneeded "ignore" comments.

Each line has a comment for mypy and one for pyright, because pyright ignores mypy's codes.
"""

import trio

from trio_codex import CodexConfig, Policy, Thread, Turn, open_codex, policies, tool, wire


async def mistakes(thread: Thread, turn: Turn) -> None:
    CodexConfig("codex")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    CodexConfig(on_stuck_turn="wait")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await thread.run(42)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await thread.run("hi", modle="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await thread.fork(last_turn_id=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with open_codex():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    list(turn)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    turn.result.status = "completed"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    wire.NoSuchType()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    policies.accept("for ever")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def yes(request: policies.CommandRequest) -> bool:
    await trio.lowlevel.checkpoint()
    return True


policy = Policy(command=yes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@tool  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def not_async(city: str) -> str:
    return city


@tool
async def open_tool(city: str) -> str:
    await trio.lowlevel.checkpoint()
    return city


async def calls() -> None:
    await open_tool(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
