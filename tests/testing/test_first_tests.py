"""Run the first tests that the documentation shows a new user: short, fast, and without a process."""

import re
import statistics
from pathlib import Path
from xml.etree import ElementTree

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"

FILES = re.findall(r"^```python\n(import pytest\n.*?)^```\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
"""The code blocks in the documentation that are complete test files."""

LINES, SECONDS = 15, 0.05

ROUNDS = 11
"""Number of rounds. The median counts: the first round includes imports, and the machine may be busy."""

CONFTEST = f"""
import subprocess

subprocess.Popen = None

def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("number")
    metafunc.parametrize("number", range({ROUNDS}))
"""


def test_one_documented_test_has_a_policy_and_one_a_tool_and_both_are_shorter_than_15_lines():
    assert ["policy=" in file for file in FILES] == [True, False]
    assert ["tools=" in file for file in FILES] == [False, True]
    assert max(len([line for line in file.splitlines() if line]) for file in FILES) < LINES


def test_each_documented_test_takes_less_than_50_ms_and_starts_no_process(pytester):
    pytester.makeini("[pytest]\ntrio_mode = true\naddopts = --strict-markers\nfilterwarnings = error")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_policy=FILES[0], test_tool=FILES[1])
    # In a separate process: a run inside this process would discard its imports only partly.
    result = pytester.runpytest_subprocess("--junitxml=durations.xml")
    took = {"test_policy": [], "test_tool": []}
    for case in ElementTree.parse("durations.xml").iter("testcase"):
        took[case.get("classname")].append(float(case.get("time")))
    result.assert_outcomes(passed=sum(map(len, took.values())))
    for times in took.values():
        assert len(times) >= ROUNDS
        assert statistics.median(times) < SECONDS
