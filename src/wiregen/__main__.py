"""Generate the wire types: ``python -m wiregen [--check | --pin VERSION|PATH …]``."""

from __future__ import annotations

import argparse
import sys

from wiregen import WiregenError, generate, output, schema


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if ``--check`` found a difference, or if the tables do not cover the schema.
    """
    parser = argparse.ArgumentParser(prog="wiregen", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--check", action="store_true", help="write nothing; print a diff against the files on disk"
    )
    mode.add_argument(
        "--pin",
        nargs="+",
        metavar="VERSION|PATH",
        help="first vendor the schema of a release from PyPI or npm, or of a binary; of several, oldest first, keep the last one",
    )
    chosen = parser.parse_args(arguments)
    try:
        for source in chosen.pin or ():
            print(f"pinned the schema of codex {schema.pin(source)}")
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
