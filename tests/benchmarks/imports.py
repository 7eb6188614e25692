"""Time and resident memory that an import costs in a fresh interpreter, compared with its dependencies."""

from benchmarks.fresh import IMPORTS
from benchmarks.measuring import run_fresh

TITLE = "Import"
ROUNDS = 11


def prepare(setting):
    for what in IMPORTS:
        run_fresh(what)  # so that everything is compiled and cached


CASES = {what: lambda setting, what=what: run_fresh(what) for what in IMPORTS if what != "bare"}
