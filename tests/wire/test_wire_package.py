"""The package is lazy and complete, and imports nothing above its layer."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from wire_classes import CLASSES, ENUMS

import trio_codex
from trio_codex import wire
from trio_codex.wire import _converter
from trio_codex.wire._index import HOME

PACKAGE = Path(wire.__file__).parent
DOMAINS = set(HOME.values()) - {"_registry"}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_imports_no_domain() -> None:
    loaded = run("import sys, trio_codex.wire; print(*(name for name in sys.modules if '.wire.' in name))")
    assert not {f"trio_codex.wire.{domain}" for domain in DOMAINS} & set(loaded.split())


def test_a_name_imports_its_own_domain_only() -> None:
    loaded = run(
        "import sys; from trio_codex import wire; wire.FsReadFileParams;"
        "print(*(name for name in sys.modules if '.wire.' in name))"
    )
    assert {f"trio_codex.wire.{domain}" for domain in DOMAINS} & set(loaded.split()) == {
        "trio_codex.wire._fs"
    }


def test_preload_imports_only_the_domains_that_every_session_uses() -> None:
    loaded = run(
        "import sys; from trio_codex import wire; wire.preload();"
        "print(*(name for name in sys.modules if '.wire.' in name))"
    )
    assert {f"trio_codex.wire.{domain}" for domain in DOMAINS} & set(loaded.split()) == {
        f"trio_codex.wire.{domain}" for domain in ("_items", "_turns", "_threads", "_session")
    }


def test_the_domains_can_be_imported_in_any_order() -> None:
    for order in (sorted(DOMAINS), sorted(DOMAINS, reverse=True)):
        run(f"import importlib\nfor name in {order!r}: importlib.import_module('trio_codex.wire.' + name)")


def test_dir_lists_every_name() -> None:
    assert set(HOME) | {"decode", "encode", "NULL", "JSON", "UnknownVariant", "Wire"} <= set(dir(wire))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchThing"):
        _ = wire.NoSuchThing
    with pytest.raises(AttributeError):
        _ = wire._no_such_thing


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_the_package_imports_nothing_above_it(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"attrs", "cattrs", "msgspec"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            is_ours = name.startswith(("trio_codex.wire", "trio_codex.errors"))
            assert is_ours or name.partition(".")[0] in allowed, name


def test_only_the_converter_knows_cattrs() -> None:
    users = [path.name for path in PACKAGE.glob("*.py") if "cattrs" in _imported(path)]
    assert users == ["_converter.py"]


def test_the_package_itself_is_imported_by_none_of_its_modules() -> None:
    """``__init__`` imports its modules, at least for type checkers, so an import of the package would be a cycle."""
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert all(alias.name != "trio_codex.wire" for alias in node.names), path.name
            elif isinstance(node, ast.ImportFrom) and path.stem != "__init__":
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                assert "trio_codex.wire" not in names | {node.module}, path.name


def test_only_the_converter_decodes_classes_without_cattrs() -> None:
    users = [
        path.name
        for path in Path(trio_codex.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("flat_decoder")
    ]
    assert users == ["_converter.py"]


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found


def test_every_class_has_hooks_in_all_converters() -> None:
    assert len(CLASSES) > 800
    for cls in CLASSES:
        for converter in (_converter.CONVERTER, _converter._EXPLAINING):
            assert callable(converter.get_structure_hook(cls))
            assert callable(converter.get_unstructure_hook(cls))


def test_every_class_is_slotted_and_frozen() -> None:
    for cls in CLASSES:
        assert "__slots__" in cls.__dict__
        assert "__dict__" not in dir(cls)
        assert "__setattr__" in cls.__dict__


def test_every_class_and_enum_is_documented() -> None:
    assert all(found.__doc__ for found in [*CLASSES, *ENUMS])
