"""The limits for the measurements: mostly ratios of cases that ran side by side, round by round."""

from collections.abc import Callable
from operator import sub, truediv
from typing import NamedTuple


class Budget(NamedTuple):
    """One demand. ``measure`` returns the number of each round."""

    what: str
    bound: float
    measure: Callable
    at_most: bool = True
    unit: str = " ×"

    @property
    def demand(self):
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}{self.unit}"

    def values(self, benchmarks):
        """Return the number of each round, or ``None`` if it was not measured."""
        try:
            return self.measure(benchmarks)
        except KeyError:
            return None

    def kept(self, value):
        return value <= self.bound if self.at_most else value >= self.bound


def each(operation, name, measure, case, other):
    """Combine the numbers of two cases, round by round."""

    def values(benchmarks):
        cases = benchmarks[name]
        return [*map(operation, cases[case][measure], cases[other][measure])]

    return values


def ratio(name, measure, case, other):
    return each(truediv, name, measure, case, other)


def itself(name, case, measure):
    return lambda benchmarks: benchmarks[name][case][measure]


def factor_between_lengths(benchmarks):
    """The longest time per byte over the shortest, of all lengths of a line."""
    return [
        max(times) / min(times) for times in zip(*benchmarks["lines"]["trio-codex"].values(), strict=True)
    ]


READ, UNREAD = "trio-codex, read", "trio-codex, not read"
RATE, CPU = "events/s", "cpu µs/event"
TASKS, TASK_CPU = "tasks/s", "cpu ms/task"
SDKS = (("16 threads of `Codex`", "Codex, 16 threads"), ("`AsyncCodex`", "AsyncCodex"))

BUDGETS = [
    Budget("events/s, `params` read, to `AsyncCodex`", 15, ratio("events", RATE, READ, "AsyncCodex"), at_most=False),
    Budget("events/s, not read, to `AsyncCodex`", 20, ratio("events", RATE, UNREAD, "AsyncCodex"), at_most=False),
    Budget("events/s, `params` read, to `Codex`", 3, ratio("events", RATE, READ, "Codex"), at_most=False),
    Budget("events/s, not read, to `Codex`", 3, ratio("events", RATE, UNREAD, "Codex"), at_most=False),
    Budget("CPU for an event, `params` read, to the floor", 7, ratio("events", CPU, READ, "floor")),
    Budget("CPU for an event, not read, to the floor", 4, ratio("events", CPU, UNREAD, "floor")),
    Budget("CPU for an event, `params` read, to Node", 1, ratio("events", CPU, READ, "Node")),
    Budget("CPU for an event, not read, to Node", 0.75, ratio("events", CPU, UNREAD, "Node")),
    Budget("round trip of a request, p50, to `AsyncCodex`", 0.5, ratio("round_trip", "p50 µs", "trio-codex", "AsyncCodex")),
    Budget("blocking: events/s, `params` read, to `Codex`", 1, ratio("events", RATE, "blocking, read", "Codex"), at_most=False),
    Budget("aio: events/s, `params` read, to `AsyncCodex`", 12, ratio("events", RATE, "aio, read", "AsyncCodex"), at_most=False),
    Budget("blocking: added to a request, p50", 100, each(sub, "round_trip", "p50 µs", "blocking", "trio-codex"), unit=" µs"),
    Budget("aio: added to a request, p50", 100, each(sub, "round_trip", "p50 µs", "aio", "trio-codex"), unit=" µs"),
    Budget("events/s of 1,000 turns at once, to one turn", 0.5, ratio("turns", RATE, "1000 at once", "1 at once"), at_most=False),
    Budget("memory of an idle turn", 8, itself("turns", "idle", "KiB/turn"), unit=" KiB"),
    Budget("time per byte, lines of 1 KiB to 64 MiB: most to least", 2.5, factor_between_lengths),
    Budget("a line of 32 MiB, to the floor", 2, ratio("lines", "ns/byte, 32 MiB", "trio-codex", "floor")),
    Budget("memory of a started client, to `AsyncCodex`", 0.6, ratio("memory", "started, MiB", "trio-codex", "AsyncCodex")),
    Budget("CPU for the import, to that of the dependencies", 1.4, ratio("imports", "cpu ms", "trio-codex", "dependencies")),
    Budget("CPU for the import, to `openai_codex`", 0.35, ratio("imports", "cpu ms", "trio-codex", "openai-codex")),
    Budget("start, less the bare server's own", 60, each(sub, "start", "ms", "trio-codex", "bare"), unit=" ms"),
    Budget("cancellation of a turn to its terminal event, p50", 50, itself("cancellation", "trio-codex", "p50 ms"), unit=" ms"),
    *(
        Budget(f"CPU for an event over {kind}, less that over a pipe", 4.5, each(sub, "attached", CPU, kind, "stdio"), unit=" µs")
        for kind in ("unix socket", "loopback")
    ),
    Budget("CPU for an event over loopback, to trio-websocket", 0.25, ratio("attached", CPU, "loopback", "loopback, trio-websocket")),
    Budget("batch: tasks/s, to a bare loop", 0.95, ratio("batches", TASKS, "batch", "bare loop"), at_most=False),
    *(
        Budget(f"batch: tasks/s, to {sdk}", 1.3, ratio("batches", TASKS, "batch", case), at_most=False)
        for sdk, case in SDKS
    ),
    *(Budget(f"batch: CPU for a task, to {sdk}", 0.4, ratio("batches", TASK_CPU, "batch", case)) for sdk, case in SDKS),
    Budget("batch, scripted server: CPU for a task", 4, itself("batches", "scripted server", TASK_CPU), unit=" ms"),
    Budget("batch: growth of the client from task 1,000 to 10,000", 8, itself("batches", "scripted server", "client MiB"), unit=" MiB"),
    Budget("batch: growth of the real server over 1,000 tasks", 30, itself("batches", "1,000 tasks", "server MiB"), unit=" MiB"),
    Budget("batch: descriptors of the real server over 1,000 tasks", 8, itself("batches", "1,000 tasks", "server descriptors"), unit=""),
    Budget("CPU for a supervised turn, to a plain one", 1.15, ratio("supervision", "cpu µs/turn", "supervised turn", "plain turn")),
    Budget("recovery from a death, less a bare start, p50", 150, each(sub, "supervision", "p50 ms", "recovery", "bare start"), unit=" ms"),
    *(
        Budget(f"exponent of growth: {case}", 1.1, itself("growth", case, "exponent"), unit="")
        for case in ("events", "turns at once", "line length", "threads")
    ),
]  # fmt: skip
