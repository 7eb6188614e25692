"""The budgets that the benchmarks check. Most are ratios of two cases that ran in the same round."""

from collections.abc import Callable
from operator import sub, truediv
from typing import NamedTuple


class Budget(NamedTuple):
    """One budget. ``measure`` returns the value of each round."""

    what: str
    bound: float
    measure: Callable
    at_most: bool = True
    unit: str = " ×"

    @property
    def demand(self):
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}{self.unit}"

    def values(self, benchmarks):
        """Return the value of each round, or ``None`` if it was not measured."""
        try:
            return self.measure(benchmarks)
        except KeyError:
            return None

    def kept(self, value):
        return value <= self.bound if self.at_most else value >= self.bound


def each(operation, name, measure, case, other):
    """Combine the values of two cases, round by round."""

    def values(benchmarks):
        cases = benchmarks[name]
        return [*map(operation, cases[case][measure], cases[other][measure])]

    return values


def ratio(name, measure, case, other):
    return each(truediv, name, measure, case, other)


def itself(name, case, measure):
    return lambda benchmarks: benchmarks[name][case][measure]


def factor_between_lengths(benchmarks):
    """Return the ratio of the longest to the shortest time per byte, over all line lengths."""
    return [
        max(times) / min(times) for times in zip(*benchmarks["lines"]["trio-codex"].values(), strict=True)
    ]


READ, UNREAD = "trio-codex, read", "trio-codex, not read"
RATE, CPU = "events/s", "cpu µs/event"
TASKS, TASK_CPU = "tasks/s", "cpu ms/task"
SDKS = (("16 threads of `Codex`", "Codex, 16 threads"), ("`AsyncCodex`", "AsyncCodex"))

BUDGETS = [
    Budget("events/s, `params` read, vs. `AsyncCodex`", 15, ratio("events", RATE, READ, "AsyncCodex"), at_most=False),
    Budget("events/s, not read, vs. `AsyncCodex`", 20, ratio("events", RATE, UNREAD, "AsyncCodex"), at_most=False),
    Budget("events/s, `params` read, vs. `Codex`", 3, ratio("events", RATE, READ, "Codex"), at_most=False),
    Budget("events/s, not read, vs. `Codex`", 3, ratio("events", RATE, UNREAD, "Codex"), at_most=False),
    Budget("CPU per event, `params` read, vs. the floor", 7, ratio("events", CPU, READ, "floor")),
    Budget("CPU per event, not read, vs. the floor", 4, ratio("events", CPU, UNREAD, "floor")),
    Budget("CPU per event, `params` read, vs. Node", 1, ratio("events", CPU, READ, "Node")),
    Budget("CPU per event, not read, vs. Node", 0.75, ratio("events", CPU, UNREAD, "Node")),
    Budget("request round trip, p50, vs. `AsyncCodex`", 0.5, ratio("round_trip", "p50 µs", "trio-codex", "AsyncCodex")),
    Budget("blocking: events/s, `params` read, vs. `Codex`", 1, ratio("events", RATE, "blocking, read", "Codex"), at_most=False),
    Budget("aio: events/s, `params` read, vs. `AsyncCodex`", 12, ratio("events", RATE, "aio, read", "AsyncCodex"), at_most=False),
    Budget("blocking: overhead per request, p50", 100, each(sub, "round_trip", "p50 µs", "blocking", "trio-codex"), unit=" µs"),
    Budget("aio: overhead per request, p50", 100, each(sub, "round_trip", "p50 µs", "aio", "trio-codex"), unit=" µs"),
    Budget("events/s of 1,000 concurrent turns, vs. one turn", 0.5, ratio("turns", RATE, "1000 at once", "1 at once"), at_most=False),
    Budget("memory per idle turn", 8, itself("turns", "idle", "KiB/turn"), unit=" KiB"),
    Budget("time per byte, lines of 1 KiB to 64 MiB: slowest vs. fastest", 2.5, factor_between_lengths),
    Budget("a line of 32 MiB, vs. the floor", 2, ratio("lines", "ns/byte, 32 MiB", "trio-codex", "floor")),
    Budget("memory of a started client, vs. `AsyncCodex`", 0.6, ratio("memory", "started, MiB", "trio-codex", "AsyncCodex")),
    Budget("CPU for the import, vs. its dependencies", 1.4, ratio("imports", "cpu ms", "trio-codex", "dependencies")),
    Budget("CPU for the import, vs. `openai_codex`", 0.35, ratio("imports", "cpu ms", "trio-codex", "openai-codex")),
    Budget("start, minus the bare server's", 60, each(sub, "start", "ms", "trio-codex", "bare"), unit=" ms"),
    Budget("from cancelling a turn to its terminal event, p50", 50, itself("cancellation", "trio-codex", "p50 ms"), unit=" ms"),
    *(
        Budget(f"extra CPU per event over {kind}, vs. a pipe", 4.5, each(sub, "attached", CPU, kind, "stdio"), unit=" µs")
        for kind in ("unix socket", "loopback")
    ),
    Budget("CPU per event over loopback, vs. trio-websocket", 0.25, ratio("attached", CPU, "loopback", "loopback, trio-websocket")),
    Budget("batch: tasks/s, vs. a bare loop", 0.95, ratio("batches", TASKS, "batch", "bare loop"), at_most=False),
    *(
        Budget(f"batch: tasks/s, vs. {sdk}", 1.3, ratio("batches", TASKS, "batch", case), at_most=False)
        for sdk, case in SDKS
    ),
    *(Budget(f"batch: CPU per task, vs. {sdk}", 0.4, ratio("batches", TASK_CPU, "batch", case)) for sdk, case in SDKS),
    Budget("batch, scripted server: CPU per task", 4, itself("batches", "scripted server", TASK_CPU), unit=" ms"),
    Budget("batch: growth of the client from task 1,000 to 10,000", 8, itself("batches", "scripted server", "client MiB"), unit=" MiB"),
    Budget("batch: growth of the real server over 1,000 tasks", 30, itself("batches", "1,000 tasks", "server MiB"), unit=" MiB"),
    Budget("batch: descriptors of the real server over 1,000 tasks", 8, itself("batches", "1,000 tasks", "server descriptors"), unit=""),
    Budget("CPU per supervised turn, vs. a plain one", 1.15, ratio("supervision", "cpu µs/turn", "supervised turn", "plain turn")),
    Budget("recovery from a death, minus a bare start, p50", 150, each(sub, "supervision", "p50 ms", "recovery", "bare start"), unit=" ms"),
    *(
        Budget(f"growth exponent: {case}", 1.1, itself("growth", case, "exponent"), unit="")
        for case in ("events", "turns at once", "line length", "threads")
    ),
]  # fmt: skip
