"""The cost of a batch for the client and the server, and what they keep of ended tasks."""

import sys

import pytest

from benchmarks import batches
from benchmarks.measuring import Setting
from benchmarks.run import run_case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

small_and_large = pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.long)])


def measured(case, quick, tmp_path):
    setting = Setting(str(tmp_path), quick)
    batches.prepare(setting)
    return run_case("batches", case, setting)


@small_and_large
def test_a_task_costs_the_client_little_and_is_not_kept_in_memory(quick, tmp_path):
    numbers = measured("scripted server", quick, tmp_path)
    # The first tasks include imports.
    assert numbers["cpu ms/task"] <= (8 if quick else 4)
    assert numbers["client MiB"] <= 8


@pytest.mark.real
@small_and_large
def test_ended_tasks_use_no_memory_in_the_server(quick, tmp_path):
    numbers = measured("1,000 tasks", quick, tmp_path)
    assert numbers["server MiB"] <= 30
    assert numbers["server descriptors"] <= 8
