"""What was measured, as JSON, as tables, and as the page of the documentation."""

import datetime
import importlib
import importlib.metadata
import os
import platform
import statistics

from benchmarks import budgets


def described(results, quick):
    """Give the results with what has to be known to compare them with others."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "quick": quick,
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {
            name: importlib.metadata.version(name)
            for name in ("trio-codex", "openai-codex", "trio", "msgspec", "attrs", "cattrs", "pydantic")
        },
        "benchmarks": results,
    }


def machine():
    """The class of the machine, not its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def number(value):
    """Three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values):
    """The median, and between which values it lies."""
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"


def markdown(recorded):
    """All tables: the budgets, then what was measured, each as median (least–most)."""
    return (
        "\n\n".join([budget_table(recorded), *(table(recorded, name) for name in recorded["benchmarks"])])
        + "\n"
    )


def budget_table(recorded):
    rows = ["| | demanded | measured | |", "|---|---|---|---|"]
    for budget in budgets.BUDGETS:
        if (values := budget.values(recorded["benchmarks"])) is not None:
            median = statistics.median(values)
            verdict = "✓" if budget.kept(median) else "✗"
            rows.append(f"| {budget.what} | {budget.demand} | {spread(values)}{budget.unit} | {verdict} |")
    return "\n".join(rows)


def table(recorded, name):
    module = importlib.import_module(f"benchmarks.{name}")
    cases = recorded["benchmarks"][name]
    measures = list(dict.fromkeys(measure for numbers in cases.values() for measure in numbers))
    rows = [f"| {module.TITLE} | {' | '.join(measures)} |", "|---" * (len(measures) + 1) + "|"]
    for case, numbers in cases.items():
        cells = [spread(numbers[measure]) if measure in numbers else "" for measure in measures]
        rows.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(rows)
