"""Shards: values that describe a share of a batch, which any engine can run in another process."""

import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
from shards import some

from trio_codex import errors
from trio_codex.batch import BatchBudget, ShardSpec, read_outcomes, run_shard

HERE = Path(__file__).parent


def spec_of(offline, tasks, solve=None, *, shard=None, **options):
    return ShardSpec(
        tasks=tasks, out=offline.out, solve=solve, shard=shard, options={"config": offline.config, **options}
    )


async def count_letters(ctx):
    await ctx.thread.run(ctx.task.prompt)
    return len(ctx.task.prompt)


class Unportable(Exception):
    """An exception that cannot be unpickled, because it loses its argument."""

    def __init__(self, number):
        super().__init__(f"number {number}", lambda: number)


def test_shards_run_every_task_once_and_each_has_its_own_directory(offline):
    specs = [spec_of(offline, some(7), count_letters, shard=(index, 3)) for index in range(3)]
    outcomes = [outcome for spec in pickle.loads(pickle.dumps(specs)) for outcome in run_shard(spec)]
    assert {outcome.task.id: outcome.value for outcome in pickle.loads(pickle.dumps(outcomes))} == {
        f"t{number}": 5 for number in range(7)
    }
    assert len(outcomes) == 7
    stored = [outcome for spec in specs for outcome in read_outcomes(spec.directory)]
    assert [outcome.task.id for outcome in stored] == [outcome.task.id for outcome in outcomes]
    assert sorted(path.name for path in Path(offline.out).iterdir()) == ["0-of-3", "1-of-3", "2-of-3"]


def test_a_shard_resumes_and_reports_each_outcome_immediately(offline, tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"id": "a", "prompt": "do a"}\n{"id": "b", "prompt": "do b"}\n')
    seen = []

    def stop_after_the_first(outcome):
        seen.append(outcome.task.id)
        raise ZeroDivisionError("seen enough")

    spec = spec_of(offline, tasks, turns=1)
    with pytest.raises(ZeroDivisionError, match="seen enough"):
        run_shard(spec, on_outcome=stop_after_the_first)
    again = run_shard(spec, on_outcome=lambda outcome: seen.append(outcome.task.id))
    assert seen == ["a", "a", "b"]
    assert [outcome.resumed for outcome in again] == [True, False]
    assert offline.count("do a") == 1


def test_cancelling_a_shard_from_another_thread_ends_its_turns_on_the_server(offline):
    def solve_after(cancel):
        def wait_and_cancel():
            offline.wait_for("hang t0")
            cancel()

        thread = threading.Thread(target=wait_and_cancel)
        threads.append(thread)
        thread.start()

    threads = []
    with pytest.raises(errors.BatchStopped, match="it was cancelled") as caught:
        run_shard(spec_of(offline, some(1, "hang")), on_start=solve_after)
    threads[0].join()
    assert caught.value.left == 1
    offline.wait_until_dropped("hang t0")


def test_cancelling_a_shard_that_has_ended_does_nothing(offline):
    cancels = []
    assert [outcome.status for outcome in run_shard(spec_of(offline, some(1)), on_start=cancels.append)] == [
        "ok"
    ]
    cancels[0]()


@pytest.mark.parametrize(
    "error",
    [Unportable(3), type("Local", (Exception,), {})("no"), ExceptionGroup("several", [Unportable(3)])],
    ids=["forgetful", "local", "group"],
)
def test_an_exception_that_cannot_be_pickled_is_replaced_by_one_that_can(offline, error):
    def fail(outcome):
        try:
            raise KeyError("context")
        except KeyError:
            raise error from ValueError(threading.Lock())

    with pytest.raises(errors.ShardFailed, match=type(error).__name__) as caught:
        run_shard(spec_of(offline, some(1)), on_outcome=fail)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_picklable_exception_propagates_without_its_cause_and_context(offline):
    def fail(outcome):
        raise ValueError("mine") from Unportable(3)

    with pytest.raises(ValueError, match="mine") as caught:
        run_shard(spec_of(offline, some(1)), on_outcome=fail)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_solver_that_cannot_be_imported_is_an_error_before_anything_starts(tmp_path):
    for solve, problem in {
        "nowhere:solve": "No module named 'nowhere'",
        "shards:nothing": "no attribute 'nothing'",
        "shards:SECONDS": "is not a function",
        "shards": "cannot be imported",
        ":": "cannot be imported",
    }.items():
        with pytest.raises(ValueError, match=problem):
            run_shard(ShardSpec(tasks=some(1), out=tmp_path / "out", solve=solve))
    assert not (tmp_path / "out").exists()


def test_a_solver_can_be_given_by_name(offline):
    (outcome,) = run_shard(spec_of(offline, some(1), "shards:solve_twice"))
    assert outcome.value == ["did do t0", "did again"]


def test_a_shard_of_a_stopped_batch_reports_it_and_keeps_its_outcomes(offline):
    spec = spec_of(offline, some(3), turns=1, budget=BatchBudget(turns=2))
    with pytest.raises(errors.BatchStopped, match="budget") as caught:
        run_shard(spec)
    assert pickle.loads(pickle.dumps(caught.value)).left == 1
    assert len(read_outcomes(offline.out)) == 2


async def test_running_a_shard_inside_trio_is_refused(tmp_path):
    await trio.lowlevel.checkpoint()
    with pytest.raises(RuntimeError, match="inside a run"):
        run_shard(ShardSpec(tasks=some(1), out=tmp_path))


def test_a_program_can_cancel_its_shard_on_sigterm(offline):
    program = [sys.executable, str(HERE / "sigterm_program.py")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(pickle.dumps(spec_of(offline, some(1, "hang"))))
        process.stdin.close()
        offline.wait_for("hang t0")
        process.terminate()
        assert process.stdout.read() == b"the batch stopped with 1 task left: it was cancelled\n"
        offline.wait_until_dropped("hang t0")
