"""Measurements inside a process: wall-clock and CPU time, memory, percentiles. Uses the standard library only."""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

FRESH = Path(__file__).with_name("fresh.py")


class Setting(NamedTuple):
    """Where the prepared traffic is, and whether to use only a part of it."""

    directory: str
    quick: bool

    def pick(self, full, quick):
        return quick if self.quick else full


class Stopwatch:
    """A scope that measures wall-clock time and the CPU time of all threads of this process, without the server's."""

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self):
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


def run_fresh(*arguments, environment=None):
    """Run ``fresh.py`` in a separate process, and return its measurements."""
    done = subprocess.run(
        [sys.executable, str(FRESH), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def resident_kib(pid="self"):
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def percentile(ordered, percent):
    """Return the smallest value that at least this percentage of the values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def growth_exponent(sizes, times):
    """Return the slope of log(time) over log(size): 1 is linear, 2 quadratic."""
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(time) for time in times]
    ).slope
