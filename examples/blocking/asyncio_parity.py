"""Do the same with the blocking face and under asyncio.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import asyncio

from _config import offline_config

from trio_codex import CodexConfig, aio, blocking


def in_a_thread(config: CodexConfig) -> str | None:
    """Ask with the blocking face."""
    with blocking.open_codex(config) as codex:
        return codex.thread_start().run("Say hello.").final_response


async def under_asyncio(config: CodexConfig) -> str | None:
    """Ask with the asyncio face."""
    async with aio.open_codex(config) as codex:
        thread = await codex.thread_start()
        async with asyncio.timeout(60):
            return (await thread.run("Say hello.")).final_response


with offline_config("asyncio_parity") as config:
    print(in_a_thread(config), asyncio.run(under_asyncio(config)))
