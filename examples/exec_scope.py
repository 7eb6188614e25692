"""Run commands on the server as scopes: write to one, read its output, and leave one that would run forever.

Run it with your own Codex login, or with --offline against a scripted model (which this example does not use).
"""

import trio
from _offline import example_config

from trio_codex import Sandbox, open_codex


async def main() -> None:
    """Run the example."""
    async with example_config("exec_scope") as config, open_codex(config) as codex:
        async with codex.exec(["sort"], sandbox=Sandbox.read_only) as process:
            await process.stdin.send_all(b"pear\napple\n")
            await process.stdin.aclose()
            sorted_lines = b"".join([piece async for piece in process.stdout])
            print(sorted_lines.decode().split(), "-> exit status", await process.wait())

        with trio.move_on_after(1):
            script = "while true; do echo tick; sleep 0.1; done"
            async with codex.exec(["sh", "-c", script], sandbox=Sandbox.read_only) as process:
                print((await process.stdout.receive_some()).decode(), end="")
                await trio.sleep_forever()
        # Here the command has been killed on the server, and its exit status is known.
        print("left -> exit status", process.returncode)


if __name__ == "__main__":
    trio.run(main)
