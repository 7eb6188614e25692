"""The example notebooks run offline and reproduce their committed outputs.

Needs the dependency group ``notebook``. CONTRIBUTING explains how to regenerate the outputs.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "notebook.ipynb"
PROGRAM = Path(__file__).with_name("notebook.py")

pytestmark = [
    pytest.mark.real,
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("nbclient") is None, reason="needs the dependency group notebook"
    ),
]

STOPPED = """\
from trio_codex.testing import offline_codex
async with offline_codex() as (codex, model, home):
    model.hang("working")
    thread = await codex.thread_start()
    try:
        async with thread.turn("go on for ever") as turn:
            async for text in turn.text():
                print(text)
    finally:
        print(turn.result.status, codex.pid)
"""


def executed(notebook, tmp_path, *options):
    """Run all cells in a separate kernel, and return the outputs of each."""
    written = tmp_path / "executed.ipynb"
    subprocess.run(
        [sys.executable, str(PROGRAM), str(notebook), str(written), *options],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        timeout=120,
        check=True,
    )
    return outputs(json.loads(written.read_text()))


def outputs(notebook):
    return {cell["id"]: cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"}


@pytest.mark.parametrize(
    "notebook", [NOTEBOOK, EXAMPLES / "blocking" / "notebook.ipynb"], ids=["trio", "blocking"]
)
def test_a_notebook_reproduces_its_committed_outputs_in_any_directory(notebook, tmp_path):
    committed = outputs(json.loads(notebook.read_text()))
    assert any(committed.values())
    elsewhere = tmp_path / "elsewhere" / "copy.ipynb"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(notebook.read_bytes())
    assert executed(elsewhere, tmp_path) == committed


def test_interrupting_the_kernel_ends_the_turn_of_the_cell_and_its_server(tmp_path):
    notebook = json.loads(NOTEBOOK.read_text())
    autoawait, stopped = notebook["cells"][1:3]
    stopped |= {"id": "stopped", "source": STOPPED}
    notebook["cells"] = [autoawait, stopped]
    path = tmp_path / "stopped.ipynb"
    path.write_text(json.dumps(notebook))
    printed, error = executed(path, tmp_path, "5")["stopped"]
    working, status, pid = "".join(printed["text"]).split()
    assert (working, status) == ("working", "interrupted")
    assert error["ename"] == "KeyboardInterrupt"
    assert not Path(f"/proc/{pid}").exists()


KEPT = """\
from trio_codex import blocking, testing
scope = blocking.from_trio(testing.offline_codex)()
codex, model, home = scope.start()
model.hang("working")
model.say("usable")
thread = codex.thread_start()
"""

ENDLESS = """\
try:
    with thread.turn("go on for ever") as turn:
        for text in turn.text():
            print(text)
finally:
    print(turn.result.status)
"""

AFTERWARDS = """\
print(thread.run("next").final_response)
scope.close()
"""


def test_interrupting_the_kernel_ends_the_turn_of_a_client_shared_by_several_cells(tmp_path):
    notebook = json.loads(NOTEBOOK.read_text())
    cell = notebook["cells"][1]
    sources = {"kept": KEPT, "endless": ENDLESS, "afterwards": AFTERWARDS}
    notebook["cells"] = [cell | {"id": name, "source": source} for name, source in sources.items()]
    path = tmp_path / "kept.ipynb"
    path.write_text(json.dumps(notebook))
    found = executed(path, tmp_path, "5")
    printed, error = found["endless"]
    assert "".join(printed["text"]).split() == ["working", "interrupted"]
    assert error["ename"] == "KeyboardInterrupt"
    [printed] = found["afterwards"]
    assert "".join(printed["text"]).split() == ["usable"]
