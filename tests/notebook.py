"""Execute a notebook, and save it with its outputs: ``python tests/notebook.py FROM TO [SECONDS]``.

``FROM`` and ``TO`` may be the same file. With ``SECONDS``, a cell that takes longer is interrupted. Needs the
dependency group ``notebook``.
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
        # The timing and chunking of printed output do not matter.
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(Path(source).resolve().parent)}},
    ).execute()
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
