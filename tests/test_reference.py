"""The reference lists every public name and nothing else."""

import importlib
import importlib.util
import inspect
import re
import types
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"

MODULES = [
    "trio_codex",
    "trio_codex.batch",
    "trio_codex.binary",
    "trio_codex.errors",
    "trio_codex.instruments",
    "trio_codex.policies",
    "trio_codex.recording",
    "trio_codex.supervision",
    "trio_codex.testing",
    "trio_codex.tools",
]

OPTIONAL = {"trio_codex.batch.ray": "ray", "trio_codex.inspect": "inspect_ai"}
"""Modules that need a package which is not installed by default."""

MODULES += [module for module, package in OPTIONAL.items() if importlib.util.find_spec(package)]

TWICE = {
    ("trio_codex", "Backoff"): "trio_codex.supervision",
    ("trio_codex", "Probe"): "trio_codex.supervision",
    ("trio_codex", "Restart"): "trio_codex.supervision",
    ("trio_codex", "open_supervisor"): "trio_codex.supervision",
    ("trio_codex", "Policy"): "trio_codex.policies",
    ("trio_codex", "tool"): "trio_codex.tools",
    ("trio_codex.policies", "ToolResult"): "trio_codex.tools",
}
"""Names that can be imported from two modules, with the module under which they are documented."""

MODULE = re.compile(
    r"^\.\. (?P<kind>automodule|module|currentmodule):: (?P<name>\S+)\n(?P<options>(?:   .*\n)*)",
    re.MULTILINE,
)
OBJECT = re.compile(r"^\.\. (?:auto|py:)(?:class|function|data|exception):: (?P<name>\w+)", re.MULTILINE)


def public_names(module: types.ModuleType) -> set[str]:
    """Return the names that a module lists, re-exports or defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return set(listed)
    # This package marks re-exports by ``import X as X``.
    exported = {
        name for name, again in re.findall(r"(\w+) as (\w+)", inspect.getsource(module)) if name == again
    }
    names = exported | {name for name, value in vars(module).items() if defined_in(module, value)}
    return {
        name for name in names if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
    }


def defined_in(module: types.ModuleType, value: object) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def documented_names() -> dict[str, set[str]]:
    """Return the names on the pages of the reference, by module."""
    found: dict[str, set[str]] = {}
    for page in [*REFERENCE.glob("*.rst"), *REFERENCE.glob("*.md")]:
        text = page.read_text()
        modules = [*MODULE.finditer(text)]
        for number, match in enumerate(modules):
            end = modules[number + 1].start() if number + 1 < len(modules) else len(text)
            names = found.setdefault(match["name"], set())
            names.update(OBJECT.findall(text[match.end() : end]))
            if match["kind"] == "automodule" and ":members:" in match["options"]:
                names.update(public_names(importlib.import_module(match["name"])))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    names = {name for name in public_names(importlib.import_module(module)) if (module, name) not in TWICE}
    assert names - documented_names()[module] == set()


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_lists_only_existing_names(module: str) -> None:
    assert documented_names()[module] - public_names(importlib.import_module(module)) == set()


@pytest.mark.parametrize(
    ("alias", "home"), TWICE.items(), ids=lambda value: ".".join(value) if isinstance(value, tuple) else ""
)
def test_names_with_two_modules_are_identical_and_documented_once(alias: tuple[str, str], home: str) -> None:
    module, name = alias
    assert getattr(importlib.import_module(module), name) is getattr(importlib.import_module(home), name)
    assert name in documented_names()[home]
    assert name not in documented_names()[module]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_an_inspectable_signature(module: str) -> None:
    """The reference, ``help()`` and notebooks need it. Some classes evaluate their annotations for it."""
    found = importlib.import_module(module)
    for name in public_names(found):
        value = getattr(found, name)
        if inspect.isfunction(value) or (
            inspect.isclass(value) and not issubclass(value, dict | BaseException)
        ):
            inspect.signature(value)
