"""What is demanded of the measured numbers: ratios of cases that ran side by side, round by round."""

from collections.abc import Callable
from typing import NamedTuple


class Budget(NamedTuple):
    """One demand. ``values`` gives the measured number of each round, or ``None`` if it was not measured."""

    what: str
    bound: float
    at_most: bool
    measure: Callable
    unit: str = " ×"

    @property
    def demand(self):
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}{self.unit}"

    def values(self, benchmarks):
        try:
            return self.measure(benchmarks)
        except KeyError:
            return None

    def kept(self, value):
        return value <= self.bound if self.at_most else value >= self.bound


def ratio(name, measure, case, other):
    """Tell how often the number of one case goes into that of another, in each round."""

    def values(benchmarks):
        cases = benchmarks[name]
        return [
            mine / theirs for mine, theirs in zip(cases[case][measure], cases[other][measure], strict=True)
        ]

    return values


READ, UNREAD = "trio-codex, read", "trio-codex, not read"

BUDGETS = [
    Budget(
        "events/s against `AsyncCodex`, `params` read",
        15,
        False,
        ratio("events", "events/s", READ, "AsyncCodex"),
    ),
    Budget(
        "events/s against `AsyncCodex`, not read",
        20,
        False,
        ratio("events", "events/s", UNREAD, "AsyncCodex"),
    ),
    Budget("events/s against `Codex`, `params` read", 3, False, ratio("events", "events/s", READ, "Codex")),
    Budget("events/s against `Codex`, not read", 3, False, ratio("events", "events/s", UNREAD, "Codex")),
    Budget(
        "CPU per event against the floor, `params` read",
        7,
        True,
        ratio("events", "cpu µs/event", READ, "floor"),
    ),
    Budget(
        "CPU per event against the floor, not read", 4, True, ratio("events", "cpu µs/event", UNREAD, "floor")
    ),
    Budget(
        "request, p50, against `AsyncCodex`",
        0.5,
        True,
        ratio("round_trip", "p50 µs", "trio-codex", "AsyncCodex"),
    ),
]
