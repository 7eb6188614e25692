"""A program that runs a shard, read from stdin, and cancels it on SIGTERM."""

import pickle
import signal
import sys

from trio_codex import errors
from trio_codex.batch import run_shard

spec = pickle.load(sys.stdin.buffer)
try:
    run_shard(spec, on_start=lambda cancel: signal.signal(signal.SIGTERM, lambda *_: cancel()))
except errors.BatchStopped as exc:
    print(exc)  # noqa: T201  # a program of its own
