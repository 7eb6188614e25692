"""A mock model in a separate process. Run as ``python model.py``; it exits when its stdin is closed.

It prints its URL, and answers every request with "hello".
"""

import sys

import trio

from trio_codex.testing import MockModel, Response, Text


async def main():
    async with MockModel() as model:
        model.default = Response(Text("hello"))
        sys.stdout.write(f"{model.base_url}\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(main)
