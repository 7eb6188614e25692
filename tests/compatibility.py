"""Run the integration tests against other versions of the binary, and generate ``docs/compatibility.md``.

``python tests/compatibility.py 0.169.0 0.160.0`` runs these versions and stores the results, ``… all`` runs all of
:data:`VERSIONS`, and without arguments it only writes the page. Needs uv for versions on PyPI, and npm for newer
ones. Each binary takes about 300 MB. It is installed into a temporary directory, and removed after its run.

The tests need no changes: the installed package comes first on ``PYTHONPATH``, so its ``codex_cli_bin`` is used.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from wiregen import binaries

HERE = Path(__file__).parent
ROOT = HERE.parent
RECORDED = HERE / "compatibility.json"
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- begin of the {} -->", "<!-- end of the {} -->"

VERSIONS = ("0.171.0", "0.169.0", "0.166.0", "0.163.0", "0.162.1", "0.160.0", "0.156.0")
"""The versions on the page, newest first."""

STEER = "a steer stops the model's current answer, and reaches the model immediately"
REVIEW_ID = "`Turn.rootTurnId`, which connects the two ids of a review; `Thread.review()` and `Thread.rejoin()` do without it"
MCP_STATUS = "`ListMcpServerStatusParams.serverName`; without it, the status of one MCP server waits for all servers, and newly configured servers are listed before a reload"
LACKING = {
    "test_a_steer_reaches_the_model_within_the_same_turn": STEER,
    "test_s16_a_steer_reaches_the_model_within_the_same_turn": STEER,
    "test_steering_a_goal_reaches_its_running_turn": STEER,
    "test_s40_a_steer_reaches_the_goals_second_turn": STEER,
    "test_a_rejoined_turn_can_be_steered_interrupted_and_read_as_text": STEER,
    "test_a_review_started_by_a_plain_request_frees_its_thread_when_it_ends": REVIEW_ID,
    "test_s20_a_bypass_survives_a_resume_and_a_bypass_set_by_a_turn_applies_to_the_thread": (
        "a thread resumed by another server keeps its sandbox instead of using the configured one"
    ),
    "test_s29_listing_threads_fetches_all_pages": "`ThreadListParams.excludedThreadIds`",
    "test_the_status_of_one_mcp_server_does_not_wait_for_the_others": MCP_STATUS,
    "test_after_a_reload_a_newly_configured_server_starts_in_open_threads": MCP_STATUS,
}
"""The feature that an older server lacks, by the test that fails without it."""

RUN_SECONDS = 1200
"""Timeout of one run, which takes two minutes on an idle machine."""

AGAIN_LIMIT = 20
"""If more tests than this fail, the cause is not a busy machine, so they are not run again."""

MESSAGE_LIMIT = 200


def run(version):
    """Install a version, run the tests against it, and return the results. Remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="trio-codex-compatibility-") as directory:
        scratch = Path(directory)
        package = binaries.fetch(version, scratch)
        env = {**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
        assert installed(env) == version
        outcomes = run_tests(env, scratch, ["tests/integration"])
        again = [test for test, (outcome, _) in outcomes.items() if outcome == "failed"]
        # On a busy machine a test may fail once; if the version lacks a feature, it fails twice.
        if 0 < len(again) <= AGAIN_LIMIT:
            outcomes |= run_tests(env, scratch, again)
        return {
            "drift": drift(env),
            "files": by_file(outcomes),
            "failures": {
                test: message for test, (outcome, message) in sorted(outcomes.items()) if outcome == "failed"
            },
        }


def installed(env):
    """Return the version that the tests will run."""
    code = "from trio_codex.binary import find_binary; print(find_binary().version)"
    return subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def drift(env):
    """Return how many differences from the pinned schema matter, and how many do not."""
    command = [sys.executable, "-m", "trio_codex.cli", "doctor", "--schema", "--json"]
    ended = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    differences = json.loads(ended.stdout)["differences"]
    matter = sum(difference["matters"] for difference in differences)
    return {"matter": matter, "harmless": len(differences) - matter}


def run_tests(env, scratch, tests):
    """Run tests, and return the outcome and message of each."""
    report = scratch / "report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    tested = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        tested.wait(RUN_SECONDS)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"the tests did not end within {RUN_SECONDS} s") from None
    finally:
        if tested.poll() is None:
            os.killpg(tested.pid, signal.SIGKILL)
            tested.wait()
    return dict(read_report(report, scratch))


def read_report(report, scratch):
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}"
        problem = case.find("failure")
        problem = case.find("error") if problem is None else problem
        if problem is not None:
            yield test, ("failed", plain(problem.get("message", ""), scratch))
        else:
            yield test, ("passed" if case.find("skipped") is None else "skipped", None)


def plain(message, scratch):
    """Return the first line of a message, without details that differ between runs."""
    line = next(iter(message.splitlines()), "").replace(str(scratch), "…")
    line = re.sub(rf"{re.escape(tempfile.gettempdir())}[^\s'\"`]*", "…", line)
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "…", line)
    return line if len(line) <= MESSAGE_LIMIT else f"{line[:MESSAGE_LIMIT]}…"


def by_file(outcomes):
    files = {}
    for test, (outcome, _) in outcomes.items():
        name = test.partition("::")[0].removeprefix("tests/integration/")
        files.setdefault(name, Counter())[outcome] += 1
    return {name: dict(sorted(counted.items())) for name, counted in sorted(files.items())}


def record(versions):
    """Run these versions, and save the results of each immediately."""
    for version in versions:
        came = run(version)
        recorded = {**read(), version: came}
        RECORDED.write_text(json.dumps(recorded, indent=2, ensure_ascii=False) + "\n")


def read():
    return json.loads(RECORDED.read_text()) if RECORDED.exists() else {}


# -- the page ------------------------------------------------------------------------------------------------------


def newest_first(recorded):
    return sorted(recorded, key=lambda version: [*map(int, version.split("."))], reverse=True)


def name_of(test):
    """Return the name of a test without its file and parameters."""
    return test.partition("::")[2].partition("[")[0]


def unexplained(failures):
    return sorted({name_of(test) for test in failures} - LACKING.keys())


def range_without_failures(recorded):
    """Return the oldest and the newest version of the range whose only failures are due to missing features."""
    oldest = newest = None
    for version in newest_first(recorded):
        if unexplained(recorded[version]["failures"]):
            break
        oldest, newest = version, newest or version
    return oldest, newest


def summary(recorded):
    oldest, newest = range_without_failures(recorded)
    lines = [
        f"Tested: {oldest} to {newest}." if oldest != newest else f"Tested: {newest}.",
        "",
        "| codex | passed | skipped | failed | failed for a missing feature | important differences | other differences |",
        "|---|---|---|---|---|---|---|",
    ]
    for version in newest_first(recorded):
        outcome = recorded[version]
        total = Counter()
        for counted in outcome["files"].values():
            total.update(counted)
        lacking = sum(name_of(test) in LACKING for test in outcome["failures"])
        lines.append(
            f"| {version} | {total['passed']} | {total['skipped']} | {total['failed']} | {lacking} "
            f"| {outcome['drift']['matter']} | {outcome['drift']['harmless']} |"
        )
    return "\n".join(lines)


def by_test_file(recorded):
    versions = newest_first(recorded)
    files = sorted({name for version in versions for name in recorded[version]["files"]})
    lines = [f"| | {' | '.join(versions)} |", f"|---|{'---|' * len(versions)}"]
    for name in files:
        cells = []
        for version in versions:
            counted = recorded[version]["files"].get(name, {})
            failed = counted.get("failed", 0)
            cells.append(f"{counted.get('passed', 0)}" + (f", **{failed} ✗**" if failed else ""))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_lack(recorded):
    """List the features that older servers lack, with the tests that fail without them."""
    failing = failing_tests(recorded)
    lacks = {}
    for test, what in LACKING.items():
        lacks.setdefault(what, []).append(test)
    lines = []
    for what, tests in lacks.items():
        found = [version for version, failed in failing.items() if failed.intersection(tests)]
        lines += [f"- {what}. Not in {', '.join(found)}.", *(f"  - `{test}`" for test in tests)]
    return "\n".join(lines)


def by_message(recorded):
    """List the other failures, as observed."""
    failing = failing_tests(recorded)
    lines = ["| test | failed with | seen first |", "|---|---|---|"]
    for test in sorted(set().union(*failing.values()) - LACKING.keys()):
        found = [version for version in failing if test in failing[version]]
        failures = recorded[found[0]]["failures"]
        message = next(message for key, message in failures.items() if name_of(key) == test)
        # Later lines are pytest's details for debugging.
        told = message.partition("\\n")[0].replace("`", "'").replace("|", "/")
        lines.append(f"| `{test}` | {', '.join(found)} | `{told}` |")
    return "\n".join(lines) if lines[2:] else "None."


def failing_tests(recorded):
    """Return the names of the failed tests by version."""
    return {version: {*map(name_of, recorded[version]["failures"])} for version in newest_first(recorded)}


PARTS = {"summary": summary, "files": by_test_file, "lacks": by_lack, "messages": by_message}


def with_tables(text, recorded):
    """Insert the recorded results into the page."""
    for name, make in PARTS.items():
        begin, end = BEGIN.format(name), END.format(name)
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n\n{make(recorded)}\n\n{end}{tail}"
    return text


if __name__ == "__main__":
    record(VERSIONS if sys.argv[1:] == ["all"] else sys.argv[1:])
    PAGE.write_text(with_tables(PAGE.read_text(), read()))
