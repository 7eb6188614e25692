"""Runs the integration tests against other versions of the binary; generates ``docs/compatibility.md`` from the results.

``python tests/compatibility.py 0.169.0 0.160.0`` runs these versions and keeps what it saw, ``… all`` runs all of
:data:`VERSIONS`, and without arguments it writes the page alone. Needs uv for the versions that PyPI has, and npm for newer
ones. Each binary is some 300 MB: it is installed into a scratch directory, one at a time, and removed after its run.

The tests do not know about this: the installed package comes first on ``PYTHONPATH``, so its ``codex_cli_bin`` is found.
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

STEER = "a steer breaks off the model's answer, and the model hears of it at once"
MCP_STATUS = (
    "`ListMcpServerStatusParams.serverName`: the status of one MCP server waits for all of them, and those that were added to the"
    " configuration are listed before a reload"
)
LACKING = {
    "test_a_steer_reaches_the_model_within_the_same_turn": STEER,
    "test_s16_a_steered_turn_is_the_same_turn_and_the_model_hears_of_it": STEER,
    "test_a_goal_is_steered_in_the_turn_that_runs": STEER,
    "test_s40_a_steer_reaches_the_turn_that_the_goal_went_on_with": STEER,
    "test_a_review_by_a_bare_request_frees_its_thread_when_it_ends": (
        "`Turn.rootTurnId`, which ties the two ids of a review together; `Thread.review()` does without it"
    ),
    "test_s20_a_bypass_survives_start_and_resume_and_one_for_a_turn_stays_on_the_thread": (
        "a thread that another server resumes keeps its sandbox; it is back at the configured one"
    ),
    "test_s29_all_pages_of_a_list_are_gone_through": "`ThreadListParams.excludedThreadIds`",
    "test_the_status_of_an_mcp_server_is_there_once_it_has_started_and_waits_for_no_other": MCP_STATUS,
    "test_one_that_was_added_to_the_configuration_starts_in_open_threads_after_a_reload": MCP_STATUS,
}
"""What an older server lacks, by the test that fails because of it."""

RUN_SECONDS = 1200
"""Bound of one run; two minutes is what it takes on an idle machine."""

AGAIN_LIMIT = 20
"""More failures than this are not due to a busy machine."""

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
        # A machine that is busy fails a test now and then; a version that lacks something fails it twice.
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
    """The version that the tests will run."""
    code = "from trio_codex.binary import find_binary; print(find_binary().version)"
    return subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def drift(env):
    """How many differences from our schema matter, and how many do not."""
    command = [sys.executable, "-m", "trio_codex.cli", "doctor", "--schema", "--json"]
    ended = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    differences = json.loads(ended.stdout)["differences"]
    matter = sum(difference["matters"] for difference in differences)
    return {"matter": matter, "harmless": len(differences) - matter}


def run_tests(env, scratch, tests):
    """Run tests; return the outcome and message of each."""
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
    """The first line of a message, without details that differ between runs."""
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
    """The name of a test without its file and parameters."""
    return test.partition("::")[2].partition("[")[0]


def unexplained(failures):
    return sorted({name_of(test) for test in failures} - LACKING.keys())


def range_without_failures(recorded):
    """The oldest and the newest version between which nothing failed that the server does not lack."""
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
        "| codex | passed | skipped | failed | of that, lacking in the server | differences that matter | other ones |",
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
    """What older servers lack, with the tests that fail of it."""
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
    """Other failures, as observed."""
    failing = failing_tests(recorded)
    lines = ["| test | failed with | seen first |", "|---|---|---|"]
    for test in sorted(set().union(*failing.values()) - LACKING.keys()):
        found = [version for version in failing if test in failing[version]]
        failures = recorded[found[0]]["failures"]
        message = next(message for key, message in failures.items() if name_of(key) == test)
        # pytest's details of a comparison, after the first line, are only for debugging.
        told = message.partition("\\n")[0].replace("`", "'").replace("|", "/")
        lines.append(f"| `{test}` | {', '.join(found)} | `{told}` |")
    return "\n".join(lines) if lines[2:] else "None."


def failing_tests(recorded):
    """The names of the failed tests, by version."""
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
