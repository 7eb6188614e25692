"""What an import costs in a fresh interpreter: time and resident memory, next to what is imported with it."""

from benchmarks.fresh import IMPORTS
from benchmarks.measuring import run_fresh

TITLE = "Import"
ROUNDS = 11


def prepare(setting):
    for what in IMPORTS:
        run_fresh(what)  # so that everything is compiled and in the page cache


CASES = {what: lambda setting, what=what: run_fresh(what) for what in IMPORTS if what != "bare"}
