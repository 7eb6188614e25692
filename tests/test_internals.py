"""The internals page and its diagrams name only existing packages, files, classes, members and functions."""

import ast
import functools
import re
from pathlib import Path

import pytest

import trio_codex
from test_layering import FLOORS

ROOT = Path(__file__).parents[1]
SOURCE = Path(trio_codex.__file__).parent
PAGE = ROOT / "docs" / "internals.md"
DRAWINGS = sorted((ROOT / "docs" / "internals").glob("*.svg"))

FLOOR = re.compile(r"^\| (\d) \| (.*?) \|", re.MULTILINE)
FILE = re.compile(r"\b[\w/]+\.(?:py|md|rst|toml)\b")
MEMBER = re.compile(r"\b(_?[A-Z]\w+)\.(\w+)")
CLASS = re.compile(r"\b_?[A-Z][a-z]+[A-Z]\w+")
FUNCTION = re.compile(r"(?<![\w.])(\w+)\(\)")

DEFINED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@functools.cache
def definitions():
    """Return the names of all functions and methods, and the members of each class."""
    functions, classes = set(), {}
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "tests" / "cli").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, set()).update(members(node))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                # A type alias, which is named like a class.
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        classes.setdefault(target.id, set())
    return functions, classes


def members(class_):
    for node in ast.walk(class_):
        if isinstance(node, DEFINED):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def names_in(path):
    """Return the code in a page, or the text of a diagram."""
    text = path.read_text()
    found = re.findall(r"`([^`\n]+)`", text) if path == PAGE else re.findall(r"<text[^>]*>([^<]*)<", text)
    return " | ".join(found)


def unknown(text):
    """Return the classes, members and functions that a text names and the source does not define."""
    functions, classes = definitions()
    text = FILE.sub("", text)
    return (
        {f"{class_}.{name}" for class_, name in MEMBER.findall(text) if name not in classes.get(class_, ())}
        | {name for name in CLASS.findall(text) if name not in classes}
        | {f"{name}()" for name in FUNCTION.findall(text) if name not in functions}
    )


@pytest.mark.parametrize("path", [PAGE, *DRAWINGS], ids=lambda path: path.name)
def test_every_name_on_the_page_exists(path):
    assert unknown(names_in(path)) == set()


def test_a_missing_name_is_detected():
    assert unknown("Router.gone() | Channel.receive | gone() | TurnGone | resolve()") == {
        "Router.gone",
        "gone()",
        "TurnGone",
    }


def test_every_file_on_the_page_exists():
    places = (SOURCE, ROOT, ROOT / "docs", ROOT / "src" / "wiregen")
    named = set(FILE.findall(names_in(PAGE)))
    assert len(named) > 10
    assert {name for name in named if not any((place / name).is_file() for place in places)} == set()


def test_the_table_of_floors_matches_the_layering_test():
    rows = FLOOR.findall(PAGE.read_text())
    assert {int(number): tuple(re.findall(r"`(\w+)`", packages)) for number, packages in rows} == dict(
        enumerate(FLOORS)
    )


def test_every_diagram_is_on_the_page():
    assert len(DRAWINGS) == 4
    assert sorted(re.findall(r":file: internals/(.*)", PAGE.read_text())) == [path.name for path in DRAWINGS]
