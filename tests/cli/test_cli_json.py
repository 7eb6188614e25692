"""What ``--json`` writes is what its page in the documentation lists, in names of one style."""

import json
import re
from pathlib import Path

import attrs
import pytest
from cli_driver import run_cli

from trio_codex.cli._drift import Difference

pytestmark = pytest.mark.real

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "json.md").read_text()
TABLE = re.compile(r"^\| Member \| Value \|\n\|[-|]+\|\n((?:\|.*\n)+)", re.MULTILINE)
EVENT, RESULT, REPORT, FINDING, COMPARISON, DIFFERENCE = (
    set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) for table in TABLE.findall(PAGE)
)
CAMEL_CASE = re.compile(r"[a-z][a-zA-Z0-9]*")


def names_of(value):
    """The names of all members, at any depth."""
    if isinstance(value, list):
        return {name for each in value for name in names_of(each)}
    if isinstance(value, dict):
        return {*value, *names_of(list(value.values()))}
    return set()


async def test_a_run_writes_events_and_then_the_result(model, home):
    model.run_command("echo seen")
    model.say("It is here.")
    ended = await run_cli("run", "--json", "Where is it?", home=home)
    *events, last = ended.events
    assert all(set(event) == EVENT for event in events)
    assert set(last) == {"result"}
    assert set(last["result"]) == RESULT
    assert {key: value for key, value in last["result"]["turnUsage"].items() if value} == {
        "inputTokens": 20,
        "outputTokens": 10,
        "totalTokens": 30,
    }
    assert [name for name in names_of(last) if not CAMEL_CASE.fullmatch(name)] == []
    listed = await run_cli("threads", "list", "--json", home=home)
    assert [thread["id"] for thread in listed.events] == [last["result"]["threadId"]]
    assert [name for name in names_of(listed.events) if not CAMEL_CASE.fullmatch(name)] == []


async def test_doctor_writes_a_report(home):
    report = json.loads((await run_cli("doctor", "--json", home=home)).out)
    assert set(report) == REPORT
    assert all(set(finding) == FINDING for finding in report["findings"])
    methods = {method for finding in report["findings"] for method in finding["details"].get("lacking", ())}
    assert [name for name in names_of(report) - methods if not CAMEL_CASE.fullmatch(name)] == []


async def test_doctor_writes_a_comparison(home):
    report = json.loads((await run_cli("doctor", "--schema", "--json", home=home)).out)
    assert set(report) == COMPARISON
    assert {field.name for field in attrs.fields(Difference)} == DIFFERENCE


async def test_a_start_that_is_too_slow_does_not_blame_the_binary(home):
    ended = await run_cli("doctor", "--start-timeout", "0.001", home=home)
    assert ended.status == 1
    assert "Raise --start-timeout" in ended.err
