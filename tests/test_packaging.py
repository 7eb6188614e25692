"""The contents of the wheel and the sdist."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION = "0.1.0"
WHEEL = f"trio_codex-{VERSION}-py3-none-any.whl"
SDIST = f"trio_codex-{VERSION}"

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="only a checkout or an sdist can be packaged"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and the sdist into a directory. The build backend is installed, so nothing is downloaded."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(directory)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return directory


@pytest.fixture(scope="module")
def wheel_files(built: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(built / WHEEL) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


@pytest.fixture(scope="module")
def sdist_names(built: Path) -> set[str]:
    with tarfile.open(built / f"{SDIST}.tar.gz") as sdist:
        return {member.name.removeprefix(f"{SDIST}/") for member in sdist.getmembers() if member.isfile()}


@pytest.fixture(scope="module")
def metadata(wheel_files: dict[str, bytes]):
    return Parser().parsestr(wheel_files[f"trio_codex-{VERSION}.dist-info/METADATA"].decode())


def test_the_wheel_contains_only_the_package(wheel_files: dict[str, bytes]) -> None:
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "trio_codex").rglob("*.py*")
        if path.suffix in {".py", ".pyi"}
    }
    sources |= {f"trio_codex/batch/_report.{kind}" for kind in ("html", "css", "js")}
    packaged = {name for name in wheel_files if not name.startswith(f"trio_codex-{VERSION}.dist-info/")}
    assert packaged == {*sources, "trio_codex/py.typed", "pytest_trio_codex.py", "_trio_codex_main.py"}


def test_the_wheel_does_not_contain_the_generator(wheel_files: dict[str, bytes]) -> None:
    assert not [name for name in wheel_files if "wiregen" in name or "/schema/" in name]


def test_the_wheel_contains_the_license(wheel_files: dict[str, bytes]) -> None:
    license_file = f"trio_codex-{VERSION}.dist-info/licenses/LICENSE"
    assert wheel_files[license_file] == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_declares_its_dependencies(metadata) -> None:
    requirements = metadata.get_all("Requires-Dist")
    needed = {line.partition(";")[0].strip() for line in requirements if "extra ==" not in line}
    assert {line.split(">=")[0] for line in needed} == {"attrs", "cattrs", "msgspec", "psutil", "trio"}
    assert [line for line in requirements if line.startswith("psutil")] == [
        "psutil>=5.9; sys_platform != 'linux'"
    ]
    assert set(metadata.get_all("Provides-Extra")) == {
        "cli", "inspect", "otel", "ray", "runtime", "testing", "ws",
    }  # fmt: skip
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT OR Apache-2.0"
    assert not [line for line in requirements if "trio-typing" in line]


def test_the_wheel_installs_the_command(wheel_files: dict[str, bytes]) -> None:
    entry_points = wheel_files[f"trio_codex-{VERSION}.dist-info/entry_points.txt"].decode()
    assert "trio-codex = _trio_codex_main:main" in entry_points
    assert "[pytest11]\ntrio_codex = pytest_trio_codex" in entry_points


def test_the_readme_is_the_description(metadata) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()


def test_the_sdist_contains_everything_to_build_test_and_document_the_package(sdist_names: set[str]) -> None:
    files = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml"}
    assert files <= sdist_names
    for needed in (
        "src/wiregen/__main__.py",
        "tests/test_packaging.py",
        "examples/quickstart.py",
        "docs/conf.py",
    ):
        assert needed in sdist_names
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert tests <= sdist_names


def test_the_sdist_contains_no_build_outputs(sdist_names: set[str]) -> None:
    made = ("__pycache__", ".pyc", ".venv", "/_build/", ".hypothesis", "_cache")
    assert not [name for name in sdist_names if any(part in name for part in made)]


@pytest.mark.parametrize("module", ["trio_codex", "trio_codex.cli"])
def test_running_the_package_as_a_module_runs_the_command(module):
    argv = [sys.executable, "-m", module, "--help"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("Usage: trio-codex ")


def run_tool(root: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / ".ci" / tool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_obstacles_to_a_release_are_listed():
    run = run_tool(ROOT, "check_release")
    links = re.findall(r"\]\((docs/[^)\s]+)\)", (ROOT / "README.md").read_text())
    named = run.stdout.splitlines()
    assert {f"README.md links to {link}, which PyPI does not have." for link in links} <= {*named}
    assert run.returncode == bool(named and named != ["Nothing is in the way of a release."])


def test_a_prepared_tree_can_be_released(tmp_path: Path) -> None:
    for name in (".ci", "src/trio_codex", "docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    addresses = ("https://repository.test/trio-codex", "https://documentation.test")
    for _ in range(2):  # the second run finds nothing to do
        assert run_tool(tmp_path, "prepare_release", *addresses).returncode == 0
        checked = run_tool(tmp_path, "check_release")
        assert (checked.stdout, checked.returncode) == ("Nothing is in the way of a release.\n", 0)
    readme = (tmp_path / "README.md").read_text()
    assert f"](https://repository.test/trio-codex/blob/v{VERSION}/CHANGELOG.md)" in readme
    assert "](https://documentation.test/tutorial.html)" in readme
    assert "The links lead to the sources" not in readme
    assert "`pip install 'trio-codex[runtime,cli]'`" in readme
    for page in ("tutorial.md", "index.md"):
        assert "pip install 'trio-codex[" in (tmp_path / "docs" / page).read_text()
    assert "tool.uv.sources" not in (tmp_path / "examples" / "agent_project" / "pyproject.toml").read_text()
    assert "pip install 'trio-codex[" in (tmp_path / "src/trio_codex/testing/_serve.py").read_text()
