"""The compatibility page and the code agree with the recorded results."""

import pytest

from compatibility import LACKING, PAGE, name_of, range_without_failures, read, with_tables
from trio_codex.binary import TESTED


def test_the_tables_of_the_page_match_the_recorded_results():
    text = PAGE.read_text()
    assert with_tables(text, read()) == text, "run: python tests/compatibility.py"


def test_the_tested_range_matches_the_recorded_results():
    assert range_without_failures(read()) == TESTED


def test_the_pinned_version_has_no_failures_and_several_others_were_tested():
    recorded = read()
    assert recorded[TESTED[1]]["failures"] == {}
    assert recorded[TESTED[1]]["drift"] == {"matter": 0, "harmless": 0}
    assert len(recorded) > 5


def test_tests_of_missing_features_fail_only_on_servers_that_lack_them():
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
    ids=["the oldest version fails", "a version in between fails", "a version lacks a feature"],
)
def test_the_range_excludes_versions_older_than_a_failing_one(failures, oldest):
    assert range_without_failures(recorded(**failures)) == (oldest, "0.11.0")
