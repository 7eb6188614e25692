"""How things are measured inside a process: time on the wall and of the CPU, memory, percentiles. Standard library only."""

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
    """Time on the wall, and of the CPU in all threads of this process, as a scope. It excludes the server's."""

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
    """Run ``fresh.py`` in a process of its own; return its numbers."""
    done = subprocess.run(
        [sys.executable, str(FRESH), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def resident_kib(pid="self"):
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def percentile(ordered, percent):
    """The smallest value that this percentage of the values does not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def growth_exponent(sizes, times):
    """The slope of times over sizes, both as logarithms: 1 is linear, 2 quadratic."""
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(time) for time in times]
    ).slope
