"""The plots of the page, as SVG: CPU time per event by client, concurrent turns, and time per byte by line length."""

import statistics

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.lines import SIZES
from benchmarks.turns import COUNTS

OURS, OTHERS, FLOOR = "#2a6f97", "#b56576", "#8d99ae"

STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "trio-codex",
}


def write(recorded, directory):
    """Write the plots of the benchmarks that were run."""
    directory.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in (("events", events), ("turns", turns), ("lines", lines)):
            if name in recorded["benchmarks"]:
                figure = draw(recorded["benchmarks"][name])
                figure.savefig(directory / f"{name}.svg", metadata={"Date": None})


def color_of(case):
    return OURS if case.startswith("trio-codex") else FLOOR if case == "floor" else OTHERS


def axes_of(width=7, height=2.8):
    return Figure(figsize=(width, height), layout="constrained").subplots()


def ranges(cases, measure):
    """Return medians, and their distances to the minimum and maximum for error bars."""
    values = [numbers[measure] for numbers in cases]
    medians = [*map(statistics.median, values)]
    below = [median - min(value) for median, value in zip(medians, values, strict=True)]
    above = [max(value) - median for median, value in zip(medians, values, strict=True)]
    return medians, [below, above]


def events(cases):
    axes = axes_of()
    order = sorted(cases, key=lambda case: -statistics.median(cases[case]["cpu µs/event"]))
    medians, errors = ranges([cases[case] for case in order], "cpu µs/event")
    axes.barh(order, medians, xerr=errors, color=[*map(color_of, order)], ecolor="#33333388")
    for row, (median, above) in enumerate(zip(medians, errors[1], strict=True)):
        axes.annotate(f"{median:.3g}", (median + above, row), (5, 0), textcoords="offset points", va="center")
    axes.set_xlabel("CPU time per event of one turn, µs (median, minimum to maximum)")
    axes.margins(x=0.1)
    return axes.figure


def turns(cases):
    axes = axes_of()
    medians, errors = ranges([cases[f"{count} at once"] for count in COUNTS], "events/s")
    axes.errorbar(COUNTS, medians, errors, marker="o", color=OURS, capsize=3)
    axes.set_xscale("log")
    axes.set_xticks(COUNTS, [f"{count:,}" for count in COUNTS])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("concurrent turns on one connection")
    axes.set_ylabel("events/s, all turns")
    return axes.figure


def lines(cases):
    axes = axes_of()
    for case, numbers in cases.items():
        medians, errors = ranges([{"": values} for values in numbers.values()], "")
        axes.errorbar([*SIZES], medians, errors, marker="o", color=color_of(case), capsize=3, label=case)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("line length")
    axes.set_ylabel("ns per byte")
    axes.legend(frameon=False)
    return axes.figure
