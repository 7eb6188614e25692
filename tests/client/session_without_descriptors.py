"""Run a session without free file descriptors, and end it by ``leave`` or by ``die``."""

import os
import resource
import sys

import trio

from trio_codex import errors, open_codex, tool
from trio_codex.policies import accept_all
from trio_codex.testing import fake_process


@tool
async def add(a: int) -> int:
    """Add."""
    await trio.lowlevel.checkpoint()
    return a + 1


def take_all_descriptors():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return taken


async def use(codex, server):
    await server.ask(1, "item/commandExecution/requestApproval", command="ls")
    assert await server.answer_to(1) == {"decision": "accept"}
    await server.ask(2, "item/tool/call", tool="add", arguments={"a": 1})
    assert (await server.answer_to(2))["success"]
    await server.ask(3, "account/chatgptAuthTokens/refresh")
    assert "code" in await server.answer_to(3)
    await codex.thread_start()


async def main(how):
    taken = []
    with trio.fail_after(30):
        async with fake_process(strict=False, validate=False) as (config, server):
            async with open_codex(config, tools=[add], policy=accept_all) as codex:
                await codex.thread_start()
                taken += take_all_descriptors()
                await use(codex, server)
                if how == "die":
                    await server.strike("exit", 3)
                    error = await codex.wait_closed()
                    assert isinstance(error, errors.ServerExited)
                    assert error.returncode == 3
            assert taken
            for descriptor in taken:
                os.close(descriptor)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
