"""Run the benchmarks: ``uv run --group bench python tests/benchmarks/run.py [--quick | --record] [NAME…]``.

Each case of a benchmark runs in a fresh process. The cases alternate (A B C, C B A, A B C, …), so other load on the
machine affects all of them. The report goes to stdout, progress to stderr.

``--quick`` takes less than a minute and shows only large changes. ``--record`` stores the results and generates the
page of the documentation. ``run.py page`` regenerates the page from the stored results.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from benchmarks.measuring import Setting  # noqa: E402  # it is found by the path above

NAMES = (
    "events",
    "round_trip",
    "approvals",
    "turns",
    "lines",
    "growth",
    "memory",
    "imports",
    "start",
    "cancellation",
    "instruments",
    "attached",
    "batches",
    "supervision",
)

QUICK_ROUNDS = 1
CASE_SECONDS = 120


def run_case(name, case, setting):
    """Run a case in a separate process, and return its measurements."""
    code = "import sys; from benchmarks.run import main_of_case; main_of_case(*sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": "0"}
    # Allow bytecode, as for an installed package. Without it, each import would measure the compiler.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", code, name, case, json.dumps(setting)],
        env=environment,
        stdout=subprocess.PIPE,
        timeout=getattr(importlib.import_module(f"benchmarks.{name}"), "SECONDS", CASE_SECONDS),
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main_of_case(name, case, setting):
    """The entry point of that process."""
    module = importlib.import_module(f"benchmarks.{name}")
    numbers = module.CASES[case](Setting(*json.loads(setting)))
    sys.stdout.write(json.dumps(numbers) + "\n")


def run_benchmark(name, quick):
    """Run all cases of a benchmark, interleaved. Return the values of all rounds by case and measure."""
    module = importlib.import_module(f"benchmarks.{name}")
    rounds = QUICK_ROUNDS if quick else module.ROUNDS
    numbers = {case: {} for case in module.CASES}
    with tempfile.TemporaryDirectory(prefix="trio-codex-bench-") as directory:
        setting = Setting(directory, quick)
        module.prepare(setting)
        for number in range(rounds):
            for case in list(module.CASES)[:: -1 if number % 2 else 1]:
                progress(f"{name}: round {number + 1} of {rounds}: {case}")
                for measure, value in run_case(name, case, setting).items():
                    numbers[case].setdefault(measure, []).append(value)
    return numbers


def progress(text):
    end = "" if sys.stderr.isatty() else "\n"
    sys.stderr.write(f"\r\x1b[K{text}" if not end else f"{text}\n")
    sys.stderr.flush()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and events: less than a minute")
    parser.add_argument(
        "--record", action="store_true", help="store the results, and generate the page from them"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {' '.join(NAMES)}, page")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*NAMES, "page"}:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if arguments.record and (arguments.quick or arguments.names):
        parser.error("--record needs all benchmarks in full: pass neither --quick nor names")
    return arguments


def main():
    arguments = parse_arguments()
    from benchmarks import report

    if arguments.names == ["page"]:
        report.write_page(report.load())
        return
    start = time.monotonic()
    results = {name: run_benchmark(name, arguments.quick) for name in arguments.names or NAMES}
    progress(f"took {time.monotonic() - start:.0f} s")
    recorded = report.described(results, arguments.quick)
    sys.stdout.write("\n" + report.markdown(recorded))
    if arguments.record:
        report.save(recorded)
        report.write_page(report.load())


if __name__ == "__main__":
    main()
