"""The contents of the wheel and the sdist."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from trio_codex import __version__ as VERSION

TESTS = Path(__file__).parent
ROOT = TESTS.parent
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


NOTHING = ("Nothing is in the way of a release.\n", 0)

INSTALLED = "pip install 'trio-codex["


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the files that a release changes."""
    for name in (".ci", "src/trio_codex", "docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def addresses() -> tuple[str, str, str]:
    """Return the addresses of the source, the documentation and the files of a release: placeholders before the first one."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    source = urls.get("Source", "https://repository.test/trio-codex")
    changelog = urls.get("Changelog", f"{source}/blob/v0.0.0/CHANGELOG.md")
    files = re.sub(r"\d+\.\d+\.\d+", VERSION, changelog.removesuffix("/CHANGELOG.md"))
    return source, urls.get("Documentation", "https://documentation.test"), files


def prepare(tree: Path, source: str, documentation: str, files: str) -> tuple[str, int]:
    """Prepare a release, and return the remaining obstacles."""
    form = [] if files.startswith(f"{source}/blob/v") else ["--files", files]
    run = run_tool(tree, "prepare_release", source, documentation, *form)
    assert (run.stderr, run.returncode) == ("", 0)
    return obstacles(tree)


def obstacles(tree: Path) -> tuple[str, int]:
    checked = run_tool(tree, "check_release")
    return checked.stdout, checked.returncode


def test_a_prepared_tree_can_be_released(tree: Path) -> None:
    source, documentation, files = addresses()
    for _ in range(2):  # the second run finds nothing to do
        assert prepare(tree, source, documentation, files) == NOTHING
    readme = (tree / "README.md").read_text()
    assert f"]({files}/CHANGELOG.md)" in readme
    assert f"]({documentation}/tutorial.html)" in readme
    assert "The links lead to the sources" not in readme
    assert "`pip install 'trio-codex[runtime,cli]'`" in readme
    for page in ("tutorial.md", "index.md"):
        assert INSTALLED in (tree / "docs" / page).read_text()
    assert "tool.uv.sources" not in (tree / "examples" / "agent_project" / "pyproject.toml").read_text()


def test_the_hints_of_a_prepared_tree_name_the_package_and_pass_the_checks(tree: Path) -> None:
    assert prepare(tree, *addresses()) == NOTHING
    sources = {path.relative_to(tree).as_posix(): path.read_text() for path in (tree / "src").rglob("*.py")}
    assert [name for name, text in sources.items() if "'.[" in text or "checkout of trio-codex" in text] == []
    named = {name.removeprefix("src/trio_codex/") for name, text in sources.items() if INSTALLED in text}
    assert named >= {"_api/attach.py", "_launch/_binary.py", "cli/_startup.py", "testing/_serve.py"}
    # A test that quotes the command would fail on the commit of the release.
    quoting = {path.name for path in TESTS.rglob("*.py") if "pip install '.[" in path.read_text()}
    assert quoting <= {Path(__file__).name}
    if importlib.util.find_spec("ruff") is not None:
        for check in (["format", "--check"], ["check"]):
            command = [sys.executable, "-m", "ruff", *check, "--no-cache", "src"]
            run = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stdout


def test_the_release_after_a_release_names_its_own_version(tree: Path) -> None:
    source, documentation, files = addresses()
    assert prepare(tree, source, documentation, files) == NOTHING
    for name, change in {
        "pyproject.toml": (f'\nversion = "{VERSION}"\n', '\nversion = "99.0.1"\n'),
        "CHANGELOG.md": (f"\n## {VERSION}", f"\n## 99.0.1 – unreleased\n\n## {VERSION}"),
    }.items():
        (tree / name).write_text((tree / name).read_text().replace(*change, 1))
    left, _ = obstacles(tree)
    assert left.splitlines() == [
        "README.md does not name version 99.0.1.",
        f"{files}/CHANGELOG.md is that of another version.",
        "CHANGELOG.md does not begin with 99.0.1 and a date.",
    ]
    newer = files.replace(VERSION, "99.0.1")
    assert prepare(tree, source, documentation, newer) == NOTHING
    readme = (tree / "README.md").read_text()
    assert f"]({newer}/CHANGELOG.md)" in readme
    assert files not in readme
    assert f'"{newer}/CHANGELOG.md"' in (tree / "pyproject.toml").read_text()
