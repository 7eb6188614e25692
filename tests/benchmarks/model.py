"""A stand-in for the model as a process of its own, so that its CPU is not the client's: prints its URL, and ends with its stdin.

Every response is two pieces of text.
"""

import sys

import trio

from trio_codex.testing import MockModel, Response, Text


async def main():
    async with MockModel() as model:
        model.default = Response(Text("did ", "it"))
        print(model.base_url, flush=True)  # noqa: T201  # a program of its own
        await trio.lowlevel.wait_readable(sys.stdin)


if __name__ == "__main__":
    trio.run(main)
