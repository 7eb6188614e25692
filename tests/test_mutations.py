"""The tests themselves: each fails when the guarantee that it stands for is broken by a line."""

import re
from collections import Counter

import pytest

from mutations import FAILED, MUTATIONS, ROOT, copy_tree, run_tests, try_mutation

every_mutation = pytest.mark.parametrize(
    "mutation", MUTATIONS, ids=[f"{mutation.guarantee} {mutation.what}" for mutation in MUTATIONS]
)


@pytest.mark.long
@every_mutation
async def test_a_break_of_one_line_fails_the_test_of_its_guarantee(mutation):
    status, output = await try_mutation(mutation)
    assert status == FAILED, output


@pytest.mark.long
async def test_without_a_break_the_same_tests_pass(tmp_path):
    copy_tree(tmp_path)
    status, output = await run_tests(tmp_path, *sorted({mutation.test for mutation in MUTATIONS}))
    assert status == 0, output


@every_mutation
def test_every_break_can_be_made(mutation):
    text = (ROOT / "src" / "trio_codex" / mutation.file).read_text()
    assert text.count(mutation.old) == 1, "the line has changed: break the new one"


def test_every_guarantee_has_a_break():
    guarantees = re.findall(r"^## (G\d+)\.", (ROOT / "docs" / "guarantees.md").read_text(), re.MULTILINE)
    assert {*guarantees} <= Counter(mutation.guarantee for mutation in MUTATIONS).keys()
