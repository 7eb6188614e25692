"""Project-wide rules: imports only go down, importing is cheap, and tests leave nothing behind."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trio_codex

ROOT = Path(trio_codex.__file__).parent
TESTS = Path(__file__).parent

FLOORS = (
    ("errors", "_core", "wire"),
    ("_link", "_process", "_launch"),
    ("_values", "policies", "_tools", "tools", "instruments"),
    ("_session",),
    ("_api", "binary", "recording", "trio_codex"),
    ("_database", "supervision"),
    ("batch", "inspect"),
    ("_face", "blocking", "aio"),
    ("testing",),
    ("cli", "__main__"),
)
"""The floors, lowest first. Packages on one floor are ordered, too: they import only from packages to their
left and below. ``trio_codex`` is the package itself, which re-exports."""

LAZY_FROM_ABOVE = {"supervision"}
"""Packages above that the package itself re-exports, imported on first use or by type checkers."""

ORDER = [unit for floor in FLOORS for unit in floor]

FLOOR_OF = {unit: number for number, floor in enumerate(FLOORS) for unit in floor}

BOTTOM, LINK, API = 0, 1, 4

NEVER_IMPORTED = {
    "errors": {"trio", "cattrs", "subprocess", "socket"},
    "_core": {"trio", "cattrs", "subprocess", "socket", "os", "select"},
    "wire": {"trio", "subprocess", "socket"},
    "_link": {"cattrs", "subprocess"},
    "_process": {"cattrs", "msgspec"},
    "_session": {"subprocess", "socket"},
}
"""Modules from outside the project that a package must not import."""

BRIDGE = "trio_codex._core.user_code"
"""The module that calls user functions. Packages above the API use no other private module of those below."""

FACES = {"_face", "blocking", "aio"}

NEVER_KNOWN = {"_link": {"wire"}, "_process": {"wire"}}
"""Lower packages that a package must not import."""

STDLIB_ONLY = {"trio_codex._process.guard", "trio_codex.testing._relay"}
"""Modules that run as separate programs, without site-packages."""

MODULES = sorted(ROOT.rglob("*.py"))


def unit_of(dotted):
    """Return the package on a floor: ``wire`` for ``trio_codex.wire._base``, ``_core`` for ``trio_codex._core.rpc``."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def dotted_name(path):
    parts = ["trio_codex", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(dotted):
    path = ROOT.joinpath(*dotted.split(".")[1:])
    return dotted == "trio_codex" or path.is_dir() or path.with_suffix(".py").is_file()


def imports_of(path):
    """Return every module that a file imports, including imports in functions and for type checkers."""
    package = dotted_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if base.startswith("trio_codex") and is_module(name) else base for name in inner]
        else:
            continue
        if path == ROOT / "__init__.py":
            names = [name for name in names if unit_of(name) not in LAZY_FROM_ABOVE]
        yield from names


@pytest.fixture(scope="module")
def imports():
    """Return the modules that each file imports."""
    return {path: list(imports_of(path)) for path in MODULES}


def upward_edges(path, imports):
    mine = unit_of(dotted_name(path))
    for name in imports:
        theirs = unit_of(name)
        if name.split(".")[0] == "trio_codex" and ORDER.index(theirs) > ORDER.index(mine):
            yield f"{mine} → {theirs}"


def edges_of(path):
    return list(upward_edges(path, imports_of(path)))


def circles(edges):
    """Return the sets of nodes that reach each other, in a graph given as a mapping of nodes to their successors."""

    def reached(start):
        seen, todo = set(), list(edges[start])
        while todo:
            if (node := todo.pop()) not in seen:
                seen.add(node)
                todo += edges.get(node, ())
        return seen

    reach = {node: reached(node) for node in edges}
    return {
        frozenset(other for other in edges if other in reach[node] and node in reach[other])
        for node in edges
        if node in reach[node]
    }


def test_every_module_has_a_floor():
    units = {unit_of(dotted_name(path)) for path in MODULES}
    assert units <= FLOOR_OF.keys(), "name its floor in FLOORS above (see CONTRIBUTING.md)"


def test_imports_go_down_only(imports):
    upward = {dotted_name(path): list(upward_edges(path, names)) for path, names in imports.items()}
    assert {name: edges for name, edges in upward.items() if edges} == {}


def test_there_are_no_import_cycles(imports):
    assert (
        circles({dotted_name(path): {*names} - {dotted_name(path)} for path, names in imports.items()})
        == set()
    )


def test_import_cycles_of_any_length_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    assert circles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"x"}}) == {frozenset("abc")}
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"d", "a"}, "d": {"c"}}) == {
        frozenset("ab"),
        frozenset("cd"),
    }
    assert circles({"a": {"a"}}) == {frozenset("a")}


def test_no_package_imports_a_forbidden_module(imports):
    for path, names in imports.items():
        unit = unit_of(dotted_name(path))
        imported = {name.split(".")[0] for name in names}
        units = {unit_of(name) for name in names if name.startswith("trio_codex")}
        assert not imported & NEVER_IMPORTED.get(unit, set()), path
        assert not units & NEVER_KNOWN.get(unit, set()), path
        if dotted_name(path) in STDLIB_ONLY:
            assert imported <= sys.stdlib_module_names, path


def test_packages_above_the_api_do_not_import_its_private_modules(imports):
    for path, names in imports.items():
        unit = unit_of(dotted_name(path))
        if FLOOR_OF.get(unit, API) > API and unit != "testing":
            known = [name for name in names if name != BRIDGE]
            used = {unit_of(name) for name in known if name.startswith("trio_codex")}
            assert not {name for name in used if name.startswith("_") and FLOOR_OF[name] <= API}, path


def test_there_are_no_threads_and_no_asyncio(imports):
    runtimes = {"asyncio", "threading", "_thread", "concurrent", "multiprocessing", "queue", "anyio"}
    for path, names in imports.items():
        if unit_of(dotted_name(path)) not in ("testing", *FACES):
            assert not runtimes & {name.split(".")[0] for name in names}, path


def test_private_modules_used_by_tests_are_listed_with_a_reason():
    rows = re.findall(
        r"^\| (`[\w/.`, ]+`) \| (.+) \|$", (TESTS.parent / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    listed = [name for names, _ in rows for name in re.findall(r"`([\w/]+(?:\.py|/))`", names)]
    found = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py")}
    private = {name for name in found if not name.rpartition("/")[2].startswith(("test_", "conftest"))}
    private = {"benchmarks/" if name.startswith("benchmarks/") else name for name in private}
    assert sorted(listed) == sorted(private), (
        "list it in CONTRIBUTING.md with the reason, or make it a part of the kit"
    )


def test_the_import_walker_sees_every_kind_of_upward_edge(monkeypatch, tmp_path):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for name in ("_api/codex", "_values/turn_result", "_core/json", "policies/__init__", "errors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").touch()
    for source, edges in {
        "import trio_codex": ["_core → trio_codex"],
        "import trio_codex._api.codex": ["_core → _api"],
        "from trio_codex import policies": ["_core → policies"],
        "from trio_codex import Codex": ["_core → trio_codex"],
        "from trio_codex._api import codex": ["_core → _api"],
        "from trio_codex._api.codex import Codex": ["_core → _api"],
        "from .._api.codex import Codex": ["_core → _api"],
        "from .. import policies": ["_core → policies"],
        "def f():\n    from trio_codex import policies": ["_core → policies"],
        "if TYPE_CHECKING:\n    from trio_codex._values.turn_result import T": ["_core → _values"],
        "from trio_codex import errors\nfrom . import json\nimport trio": [],
    }.items():
        (tmp_path / "_core" / "rpc.py").write_text(source)
        assert edges_of(tmp_path / "_core" / "rpc.py") == edges
    (tmp_path / "errors.py").write_text("if TYPE_CHECKING:\n    from trio_codex._values.turn_result import T")
    assert edges_of(tmp_path / "errors.py") == ["errors → _values"]


# -- the cost of imports ------------------------------------------------------------------------------------------


def loaded_by(statement):
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def loaded():
    return loaded_by("import trio_codex")


def test_importing_the_client_imports_no_other_async_library_and_no_optional_package(loaded):
    packages = {name.split(".")[0] for name in loaded}
    assert not packages & {
        "asyncio", "anyio", "click", "codex_cli_bin", "concurrent", "hypercorn", "hypothesis", "jsonschema",
        "multiprocessing", "opentelemetry", "psutil", "pytest", "rich", "sphinx", "trio_websocket",
    }  # fmt: skip


def test_importing_the_client_loads_no_threading_modules_beyond_its_dependencies(loaded):
    added = {name.split(".")[0] for name in loaded - loaded_by("import trio, attrs, cattrs, msgspec")}
    assert added == {"trio_codex"}


def test_importing_the_client_loads_no_domain_of_the_wire_types(loaded):
    domains = {
        name
        for name in loaded
        if name.startswith("trio_codex.wire._")
        and (ROOT / "wire" / f"{name.rpartition('.')[2]}.py").read_text().count("\nclass ") > 10
    }
    assert domains == set()
    assert "trio_codex.testing" not in loaded
    assert "trio_codex._api.generated" not in loaded


def test_importing_the_client_loads_no_face(loaded):
    assert not {name for name in loaded if unit_of(name) in FACES and name.startswith("trio_codex.")}


def test_importing_the_client_loads_no_policies_and_no_tools(loaded):
    assert not {name for name in loaded if name.startswith("trio_codex.policies")}
    assert not loaded & {
        "trio_codex._session.asking",
        "trio_codex._tools.tool",
        "trio_codex._tools.calling",
    }


def test_lazily_imported_names_are_available():
    assert {"policies", "Policy", "tools", "tool", "open_codex"} <= set(dir(trio_codex))
    assert trio_codex.Policy is trio_codex.policies.Policy
    assert trio_codex.tool is trio_codex.tools.tool
    with pytest.raises(AttributeError, match="no attribute 'gadget'"):
        _ = trio_codex.gadget


# -- the suite's own leak check ------------------------------------------------------------------------------------

LEAKS = {
    "process": "import subprocess\nleaked = subprocess.Popen(['/bin/sleep', '60'])",
    "zombie": "import os\npid = os.fork()\nif pid == 0: os._exit(0)",
    "grandchild": "import subprocess\nleaked = subprocess.Popen(['/bin/sh', '-c', '/bin/sleep 60; true'])",
    "thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "descriptor": "import os\nos.dup(0)",
    "nothing": "import subprocess\nsubprocess.Popen(['/bin/sleep', '0.2'], start_new_session=True).communicate()",
}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_test_that_leaves_something_behind_fails(tmp_path):
    (tmp_path / "conftest.py").write_text(
        (TESTS / "conftest.py").read_text().replace("_left()", "_left(grace=0.2)")
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name, body in LEAKS.items():
        source = "\n    ".join(["def test_leak():", *body.splitlines()])
        (tmp_path / f"test_{name}.py").write_text(f"{source}\n")
    code = (
        "import os, pytest, signal, sys\n"
        "from trio_codex.testing import _leftovers\n"
        "pytest.main(['-q', '-p', 'no:cacheprovider', '-rA', '.'])\n"
        "for line in _leftovers._descendants():\n"
        "    os.kill(int(line.split()[1]), signal.SIGKILL)\n"
        "sys.stdout.flush()\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    failed = {line.split("::")[0] for line in done.stdout.splitlines() if line.startswith("ERROR test_")}
    assert failed == {f"ERROR test_{name}.py" for name in LEAKS if name != "nothing"}, done.stdout
    assert "6 passed" in done.stdout


def test_all_logging_goes_through_safe_logger():
    """Check that each standard library logger is wrapped, so a failing handler cannot break the client."""
    bare = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.relative_to(ROOT).parts[0] not in ("cli", "testing")
        and "logging.getLogger(" in path.read_text()
        and "SafeLogger(" not in path.read_text()
    }
    assert bare == set()
