"""Generate, check, or pin: ``python -m wiregen [--check | --pin]``."""

from __future__ import annotations

import argparse
import sys

from wiregen import WiregenError, generate, output, schema


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if ``--check`` found a difference, or a table does not cover the schema.
    """
    parser = argparse.ArgumentParser(prog="wiregen", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--check", action="store_true", help="compare with what is there, and print the difference"
    )
    mode.add_argument("--pin", action="store_true", help="vendor the schema of the installed binary first")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.pin:
            print(f"pinned the schema of codex {schema.pin()}")
        new = generate.generate()
    except WiregenError as error:
        print(f"wiregen: {error}", file=sys.stderr)
        return 1
    old = output.on_disk(output.PACKAGE)
    if not chosen.check:
        output.write(output.PACKAGE, old, new)
        return 0
    if difference := output.difference(old, new):
        print(difference, end="")
        print("wiregen: the generated files are stale: run `python -m wiregen`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
