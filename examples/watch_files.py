"""Watch a directory through the server, while a command changes it.

Run it with your own Codex login, or with --offline against a scripted model (which this example does not use).
"""

import tempfile
from pathlib import Path

import trio
from _offline import example_config

from trio_codex import Sandbox, open_codex


async def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory() as directory:
        async with (
            example_config("watch_files") as config,
            open_codex(config) as codex,
            codex.watch(directory) as changes,
        ):
            script = "touch notes.txt todo.txt"
            async with codex.exec(
                ["sh", "-c", script], cwd=directory, sandbox=Sandbox.full_access
            ) as process:
                await process.wait()
            seen: set[str] = set()
            async for paths in changes:
                seen.update(Path(path).name for path in paths)
                if len(seen) == 2:
                    break
            print("changed:", *sorted(seen))


if __name__ == "__main__":
    trio.run(main)
