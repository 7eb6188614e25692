"""No bytes from a server make a reader raise, tested with inputs guided by coverage."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform"
)

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"


@pytest.mark.parametrize(
    ("inputs", "seconds"),
    [pytest.param(10_000, 60, id="some"), pytest.param(1_000_000, 1800, id="many", marks=pytest.mark.long)],
)
def test_no_input_makes_a_reader_raise(inputs, seconds, tmp_path, record_property):
    found = fuzz(HERE / "readers.py", tmp_path, inputs, seconds)
    assert found.returncode == 0, report(found, tmp_path)
    tried = int(re.findall(r"Done (\d+) runs", found.stderr)[-1])
    coverage = int(re.findall(r"cov: (\d+)", found.stderr)[-1])
    record_property("fuzzed", tried)
    record_property("coverage", coverage)
    assert tried == inputs
    # The corpus grew, so coverage guides the inputs.
    assert len(list((tmp_path / "new").iterdir())) > len(list(CORPUS.iterdir()))


def test_a_reader_that_raises_is_found(tmp_path):
    broken = tmp_path / "broken.py"
    program = (HERE / "readers.py").read_text()
    broken.write_text(
        program.replace("limit, step, stream = data[0] + 1", "limit, step, stream = data[0] or undefined")
    )
    found = fuzz(broken, tmp_path, 20_000, 60)
    assert found.returncode != 0
    assert "NameError" in report(found, tmp_path)


def fuzz(program, tmp_path, inputs, seconds):
    (tmp_path / "new").mkdir()
    options = [f"-runs={inputs}", "-seed=1", "-max_len=1024", "-timeout=10", f"-artifact_prefix={tmp_path}/"]
    return subprocess.run(
        [sys.executable, program, *options, tmp_path / "new", CORPUS],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )


def report(found, tmp_path):
    inputs = {path.name: path.read_bytes() for path in tmp_path.glob("*-*") if path.is_file()}
    return f"{inputs}\n{found.stdout[-3000:]}\n{found.stderr[-3000:]}"
