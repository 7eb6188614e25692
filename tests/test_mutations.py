"""Tests of the tests: each fails when the code is changed to break its guarantee."""

import ast
import re
from collections import Counter

import pytest

from mutation_operations import (
    DoesNotApplyError,
    always,
    call,
    condition,
    constant,
    drop,
    iterable,
    keyword,
    mutated,
    never,
    operand,
    read,
    returns,
    start,
    statement,
    value,
    without_key,
)
from mutations import FAILED, MUTATIONS, ROOT, copy_tree, run_tests, try_mutation

every_mutation = pytest.mark.parametrize(
    "mutation", MUTATIONS, ids=[f"{mutation.guarantee} {mutation.what}" for mutation in MUTATIONS]
)


@pytest.mark.long
@every_mutation
async def test_a_mutation_fails_the_test_of_its_guarantee(mutation):
    if mutation.needs is not None:
        pytest.importorskip(mutation.needs)
    status, output = await try_mutation(mutation)
    assert status == FAILED, output


@pytest.mark.long
async def test_without_a_mutation_the_same_tests_pass(tmp_path):
    copy_tree(tmp_path)
    status, output = await run_tests(tmp_path, *sorted({mutation.test for mutation in MUTATIONS}))
    assert status == 0, output


@every_mutation
def test_every_mutation_can_be_applied(mutation):
    mutated(ROOT / "src" / "trio_codex", mutation.where, mutation.operation)


@every_mutation
def test_every_mutation_names_a_test(mutation):
    path, _, name = mutation.test.partition("::")
    assert f"def {name or 'test_'}" in (ROOT / path).read_text()


def test_every_guarantee_has_a_mutation():
    guarantees = re.findall(r"^## (G\d+)\.", (ROOT / "docs" / "guarantees.md").read_text(), re.MULTILINE)
    assert {*guarantees} <= Counter(mutation.guarantee for mutation in MUTATIONS).keys()


# -- the operations ----------------------------------------------------------------------------------------------------

SOURCE = """
import os

LIMITS = {"lines": 64, "bytes": 128}

class Gate:
    @overload
    def close(self): ...

    def close(self, force=False):
        if self._open and not force:
            with wait_for(1) as scope:
                self.release(os.getpid(), late=True)
            return scope
        for waiter in self._waiters:
            waiter.wake()
        return None
"""
GATE_IS_OPEN = "if self._open and (not force)"


@pytest.fixture
def package(tmp_path):
    (tmp_path / "_gate").mkdir()
    (tmp_path / "_gate" / "__init__.py").write_text("")
    (tmp_path / "_gate" / "gate.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.parametrize(
    ("operation", "old", "new"),
    [
        (drop("wake"), "waiter.wake()", "pass"),
        (statement("wake", becomes="_\nreturn"), "waiter.wake()", "waiter.wake()\n            return"),
        (never("force"), GATE_IS_OPEN, "if False"),
        (always("force"), GATE_IS_OPEN, "if True"),
        (condition("_open", becomes="not _"), GATE_IS_OPEN, "if not (self._open and (not force))"),
        (operand("force"), GATE_IS_OPEN, "if self._open and False"),
        (iterable("_waiters"), "in self._waiters", "in ()"),
        (returns("self", "scope"), "return scope", "return self"),
        (value("scope", becomes="forever()"), "wait_for(1)", "forever()"),
        (call("release", becomes="_ or _"), "self.release(os.getpid(), late=True)", None),
        (call("getpid", becomes="0"), "os.getpid()", "0"),
        (keyword("late", becomes="None"), "late=True", "late=None"),
        (read("_waiters", becomes="[self]"), "in self._waiters", "in [self]"),
        (constant(1, 2), "wait_for(1)", "wait_for(2)"),
        (start("force = True"), "        if self", "        force = True\n        if self"),
    ],
)
def test_an_operation_changes_one_place_and_nothing_else(package, operation, old, new):
    new = new or f"{old} or {old}"
    path, source = mutated(package, "_gate.gate:Gate.close", operation)
    assert path == package / "_gate" / "gate.py"
    assert source == ast.unparse(ast.parse(SOURCE)).replace(old, new)


def test_an_operation_can_change_a_variable_of_a_module_or_the_module(package):
    _, source = mutated(package, "_gate.gate:LIMITS", without_key("lines"))
    assert "LIMITS = {'bytes': 128}" in source
    _, source = mutated(package, "_gate.gate", start("import asyncio"))
    assert source.startswith("import asyncio\nimport os\n")


@pytest.mark.parametrize(
    ("where", "operation", "message"),
    [
        ("_gate.doors:Gate.close", drop("wake"), "no such module; this name is now defined as _gate.gate:Gate.close"),
        ("_gate.gate:Door.close", drop("wake"), "'Door' is defined 0 times there; .* _gate.gate:Gate.close"),
        ("_gate.gate:Gate.open", drop("wake"), "'open' is defined 0 times there; nothing is named 'open'"),
        (
            "_gate.gate:Gate.close",
            drop("sleep"),
            r"exactly one statement that mentions 'sleep', not 0; the candidates are:(.|\n)* waiter.wake\(\)  \(line 16\)",
        ),
        (
            "_gate.gate:Gate.close",
            returns("1"),
            r"exactly one returned value, not 2; the matches are:\n    scope  \(line 14\)\n    None",
        ),
        ("_gate.gate:LIMITS", without_key("words"), "exactly one dictionary with the key 'words', not 0"),
        ("_gate.gate:Gate.close", constant(1, 1), "changes nothing"),
    ],
)  # fmt: skip
def test_a_mutation_that_does_not_apply_reports_why_and_where_the_code_is_now(
    package, where, operation, message
):
    with pytest.raises(DoesNotApplyError, match=message):
        mutated(package, where, operation)
