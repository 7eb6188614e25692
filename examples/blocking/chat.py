"""A small chat in the terminal. Ctrl-C interrupts the turn, and the chat continues.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import sys
from collections.abc import Iterator

from _config import offline_config

from trio_codex import blocking

SCRIPT = ["My name is Ada.", "What is my name?"]


def questions() -> Iterator[str]:
    """Read what the user types, or the script of the offline example."""
    if "--offline" not in sys.argv:
        while line := input("> "):
            yield line
        return
    for line in SCRIPT:
        print(f"> {line}")
        yield line


with offline_config("chat") as config, blocking.open_codex(config) as codex:
    thread = codex.thread_start()
    for question in questions():
        try:
            with thread.turn(question) as turn:
                for text in turn.text():
                    print(text, end="", flush=True)
        except KeyboardInterrupt:
            print("(interrupted)", end="")
        print()
