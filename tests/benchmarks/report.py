"""Reports of the measurements: JSON, tables, and a page of the documentation. Measures nothing itself."""

import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
from pathlib import Path

from benchmarks import budgets

RECORDED = Path(__file__).with_name("recorded.json")
DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "performance.md"
PACKAGES = ("trio-codex", "openai-codex", "trio", "msgspec", "attrs", "cattrs", "pydantic")

GENERATED = re.compile(r"(<!-- begin of (\w+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)

# -- storing
# -----------------------------------------------------------------------------------------------------------


def described(results, quick):
    """Return the results with the facts needed to compare them with others."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "quick": quick,
        "machine": machine(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES} | node(),
        "benchmarks": results,
    }


def node():
    """Return the version of Node, if it is installed."""
    if shutil.which("node") is None:
        return {}
    return {
        "node": subprocess.run(
            ["node", "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()
    }


def machine():
    """Describe the machine without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def save(recorded):
    RECORDED.write_text(json.dumps(rounded(recorded), indent=1, ensure_ascii=False) + "\n")


def rounded(value):
    """Round each number to four digits, because more digits are noise."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def load():
    return json.loads(RECORDED.read_text())


# -- tables ------------------------------------------------------------------------------------------------------------


def number(value):
    """Format a number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values):
    """Format the median and the range of the values."""
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"


def title_of(name):
    return importlib.import_module(f"benchmarks.{name}").TITLE


def setting(recorded):
    packages = ", ".join(f"{name} {version}" for name, version in recorded["packages"].items())
    return f"Taken on {recorded['date']}: {recorded['machine']}; Python {recorded['python']}; {packages}."


def budget_table(recorded):
    rows = ["| | budget | measured | |", "|---|---|---|---|"]
    for budget in budgets.BUDGETS:
        if (values := budget.values(recorded["benchmarks"])) is not None:
            verdict = "✓" if budget.kept(statistics.median(values)) else "✗ missed"
            rows.append(f"| {budget.what} | {budget.demand} | {spread(values)}{budget.unit} | {verdict} |")
    return "\n".join(rows)


def table(recorded, name):
    """Return a table with a row for each case and a column for each measure, or transposed if that is narrower."""
    cases = recorded["benchmarks"][name]
    measures = list(dict.fromkeys(measure for numbers in cases.values() for measure in numbers))
    cells = {
        (case, measure): spread(numbers[measure]) if measure in numbers else ""
        for case, numbers in cases.items()
        for measure in measures
    }
    if len(measures) > len(cases):
        rows = [[measure, *(cells[case, measure] for case in cases)] for measure in measures]
        head = [*cases]
    else:
        rows = [[case, *(cells[case, measure] for measure in measures)] for case in cases]
        head = measures
    lines = [[title_of(name), *head], ["---"] * (1 + len(head)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(recorded):
    """Return all results as Markdown, each value as median (minimum–maximum)."""
    tables = [table(recorded, name) for name in recorded["benchmarks"]]
    return "\n\n".join([setting(recorded), budget_table(recorded), *tables]) + "\n"


# -- the page ----------------------------------------------------------------------------------------------------------


def with_tables(text, recorded):
    """Insert the tables between the page's markers, by name."""

    def fill(match):
        name = match[2]
        makers = {"setting": setting, "budgets": budget_table}
        if name not in makers and name not in recorded["benchmarks"]:
            # The benchmark is newer than the recorded results; the next recording fills this in.
            return match[0]
        made = makers[name](recorded) if name in makers else table(recorded, name)
        return f"{match[1]}\n{made}\n\n{match[3]}"

    return GENERATED.sub(fill, text)


def write_page(recorded):
    from benchmarks import plots

    PAGE.write_text(with_tables(PAGE.read_text(), recorded))
    plots.write(recorded, DOCS / "performance")
