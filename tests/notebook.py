"""Execute a notebook, and write it with its outputs: ``python tests/notebook.py FROM TO [SECONDS]``.

It may be the same file. With ``SECONDS``, the kernel is interrupted in a cell that takes longer. Needs the dependency group
``notebook``.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main(source, target, seconds=None):
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(
        notebook,
        timeout=float(seconds or 60),
        interrupt_on_timeout=seconds is not None,
        allow_errors=seconds is not None,
        # When, and in how many pieces, something was printed does not matter.
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(Path(source).resolve().parent)}},
    ).execute()
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
