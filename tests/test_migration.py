"""The migration page maps every name of the official SDK to an existing name."""

import dataclasses
import enum
import inspect
import re
from pathlib import Path

import attrs
import pytest

import trio_codex
from trio_codex import aio, blocking, testing

official = None

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text()

MIRRORS = ["Codex", "Thread", "TurnHandle", "ChatgptLoginHandle", "DeviceCodeLoginHandle"]

OTHERS = {"testing": testing, "blocking": blocking, "aio": aio}
"""Modules that the package does not import on its own."""

NAME = re.compile(r"`([^`]+)`")


@pytest.fixture(scope="module", autouse=True)
def official_sdk():
    """Import the SDK only when a test runs: building its models takes seconds, and all workers collect this file."""
    global official
    reason = "openai-codex is not installed; the dependency group 'test' brings it"
    official = pytest.importorskip("openai_codex", reason=reason)


def rows(heading):
    """Return the rows of the table below a heading, each as the names in its first and its second cell."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    cells = [line.strip("| ").split("|") for line in lines]
    return [(NAME.findall(first), NAME.findall(second), first) for first, second, *_ in cells]


def members(cls):
    """Return the public methods, properties and fields that a class itself defines."""
    if issubclass(cls, enum.Enum):
        return set(cls.__members__)
    fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    own = {name for name, value in vars(cls).items() if callable(value) or isinstance(value, property)}
    return {name for name in fields | own if not name.startswith("_")}


def resolve(path):
    """Return the object at a dotted path below the package."""
    found = trio_codex
    for name in path.split("."):
        if found is trio_codex and name in OTHERS:
            found = OTHERS[name]
        elif isinstance(found, type) and attrs.has(found) and name in attrs.fields_dict(found):
            found = attrs.fields_dict(found)[name]
        elif isinstance(found, type) and not hasattr(found, name):
            # A documented attribute that only the constructor sets.
            assert re.search(rf"^ +{name}: ", found.__doc__, re.MULTILINE), f"{path}: there is no {name}"
            found = None
        else:
            found = getattr(found, name)
    return found


def options_of(function):
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind.name == "KEYWORD_ONLY"
    }


def public_classes():
    for name in official.__all__:
        value = getattr(official, name)
        if isinstance(value, type) and not issubclass(value, Exception) and not name.startswith("Async"):
            yield name, value


def test_every_name_is_mapped_once():
    mapped = [name for names, _, _ in rows("Names") for name in names]
    assert sorted(mapped) == sorted(official.__all__)


def test_every_member_is_mapped_once():
    expected = [f"{name}.{member}" for name, cls in public_classes() for member in members(cls)]
    mapped = [name for names, _, _ in rows("Members") for name in names]
    assert sorted(mapped) == sorted(expected)


@pytest.mark.parametrize("name", MIRRORS)
def test_the_asynchronous_classes_have_the_members_and_options_of_the_synchronous_ones(name):
    sync, mirror = getattr(official, name), getattr(official, f"Async{name}")
    assert members(sync) == members(mirror)
    for member in members(sync):
        if inspect.isfunction(function := vars(sync).get(member)):
            assert options_of(function) == options_of(vars(mirror)[member])


def test_every_option_is_mapped_once():
    expected = [
        f"{name}.{member}: {option}"
        for name, cls in public_classes()
        for member, function in vars(cls).items()
        if inspect.isfunction(function) and not member.startswith("_")
        for option in options_of(function)
    ] + [f"retry_on_overload: {option}" for option in options_of(official.retry_on_overload)]
    mapped = [f"{function}: {option}" for (function, *options), _, _ in rows("Options") for option in options]
    assert sorted(mapped) == sorted(expected)


def test_every_type_is_mapped_once():
    import openai_codex.types

    mapped = [name for names, _, _ in rows("Types") for name in names]
    assert sorted(mapped) == sorted(openai_codex.types.__all__)


@pytest.mark.parametrize("heading", ["Names", "Members", "Types", "What trio-codex adds"])
def test_names_are_mapped_to_existing_names(heading):
    for theirs, ours, _ in rows(heading):
        assert ours, f"{theirs} are mapped to nothing"
        for name in ours:
            found = resolve(name)
            if name == "wire":
                for type_name in theirs:
                    assert hasattr(found, type_name), type_name


def test_options_are_mapped_to_options_of_the_same_names():
    for (function, *options), [ours], _ in rows("Options"):
        target = resolve(ours)
        if function == "retry_on_overload":
            options = ["attempts", "initial_delay", "max_delay", "jitter"]
        known = options_of(target) if inspect.isfunction(target) else set(target.__annotations__)
        assert set(options) <= known, f"{function}: {set(options) - known}"


@pytest.mark.parametrize("heading", ["Names", "Members"])
def test_the_third_column_matches_the_faces(heading):
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    for line in lines[1:]:
        _, ours, face, *_ = line.strip("| ").split("|")
        [name, *_] = NAME.findall(ours)
        top = name.partition(".")[0]
        if "the same" in face:
            assert hasattr(blocking, top), name
            assert hasattr(aio, top), name
        else:
            assert NAME.findall(face), line
    assert hasattr(blocking.Codex, "close")
    assert hasattr(blocking.Turn, "__next__")
