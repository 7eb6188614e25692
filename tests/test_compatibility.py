"""The page on compatibility agrees with the recorded results, and so does the code."""

import pytest

from compatibility import LACKING, PAGE, name_of, range_without_failures, read, with_tables
from trio_codex.binary import TESTED


def test_the_tables_of_the_page_are_made_of_what_was_recorded():
    text = PAGE.read_text()
    assert with_tables(text, read()) == text, "run: python tests/compatibility.py"


def test_the_tested_range_is_what_was_recorded():
    assert range_without_failures(read()) == TESTED


def test_the_pinned_version_has_no_failures_and_is_compared_with_several_others():
    recorded = read()
    assert recorded[TESTED[1]]["failures"] == {}
    assert recorded[TESTED[1]]["drift"] == {"matter": 0, "harmless": 0}
    assert len(recorded) > 5


def test_what_an_older_server_is_said_to_lack_is_what_fails_there():
    failed = {name_of(test) for outcome in read().values() for test in outcome["failures"]}
    assert LACKING.keys() <= failed


def recorded(**failures):
    return {version: {"failures": dict.fromkeys(tests)} for version, tests in failures.items()}


@pytest.mark.parametrize(
    ("failures", "oldest"),
    [
        ({"0.9.0": ["t.py::test_new"], "0.10.0": [], "0.11.0": []}, "0.10.0"),
        ({"0.9.0": [], "0.10.0": ["t.py::test_new[x]"], "0.11.0": []}, "0.11.0"),
        ({"0.9.0": [], "0.10.0": [f"t.py::{next(iter(LACKING))}"], "0.11.0": []}, "0.9.0"),
    ],
    ids=["the oldest fails", "one between fails", "one lacks something"],
)
def test_a_version_below_one_that_fails_is_not_in_the_range(failures, oldest):
    assert range_without_failures(recorded(**failures)) == (oldest, "0.11.0")
