"""The output of ``--json`` matches its page in the documentation, and its names have one style."""

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
EVENT, RESULT, SHOWN, REPORT, FINDING, COMPARISON, DIFFERENCE, OUTCOME = (
    set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) for table in TABLE.findall(PAGE)
)
NO_SUCH = "01a1fbc2-0000-7000-8000-000000000000"
CAMEL_CASE = re.compile(r"[a-z][a-zA-Z0-9]*")


def names_of(value):
    """Return the names of all members, at any depth."""
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


async def test_a_thread_is_written_and_then_its_turns_with_all_items(model, home):
    for number in range(3):
        model.run_command(f"echo {number}")
        model.say(f"It is {number}.")
    thread_id = None
    for number in range(3):
        options = () if thread_id is None else ("--resume", thread_id)
        ended = await run_cli("run", "--json", *options, f"Which is {number}?", home=home)
        thread_id = ended.events[-1]["result"]["threadId"]
    ended = await run_cli("threads", "show", "--json", thread_id, home=home)
    assert (ended.status, ended.err) == (0, "")
    first, *others = ended.events
    assert [set(line) for line in ended.events] == [{"thread"}, *[{"turn"}] * 3]
    assert {*first, *others[0]} == SHOWN
    assert first["thread"]["id"] == thread_id
    for number, line in enumerate(others):
        by_type = {item["type"]: item for item in line["turn"]["items"]}
        assert by_type["userMessage"]["content"][0]["text"] == f"Which is {number}?"
        assert by_type["commandExecution"]["aggregatedOutput"] == f"{number}\n"
        assert by_type["agentMessage"]["text"] == f"It is {number}."
    # The server itself uses snake_case in text_elements.
    assert [name for name in names_of(ended.events) if not CAMEL_CASE.fullmatch(name)] == ["text_elements"]


async def test_a_missing_thread_is_an_error_and_prints_no_json(home):
    ended = await run_cli("threads", "show", "--json", NO_SUCH, home=home)
    assert (ended.status, ended.out) == (1, "")
    assert NO_SUCH in ended.err


async def test_a_batch_writes_its_outcomes(model, home):
    model.say("It is here.")
    (home.workspace / "tasks.jsonl").write_text('{"id": "find", "prompt": "Where is it?"}\n')
    assert (await run_cli("batch", "run", "tasks.jsonl", "--out", "out", home=home)).status == 0
    [outcome] = (await run_cli("batch", "results", "out", home=home)).events
    assert set(outcome) == OUTCOME
    assert outcome["usage"]["totalTokens"] == 15
    assert [name for name in names_of(outcome) if not CAMEL_CASE.fullmatch(name)] == []


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


async def test_a_slow_start_is_not_blamed_on_the_binary(home):
    ended = await run_cli("doctor", "--start-timeout", "0.001", home=home)
    assert ended.status == 1
    assert "Raise --start-timeout" in ended.err
