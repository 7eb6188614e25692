"""Merging the shards of a batch."""

import pytest
from batches import some, stage

from trio_codex import errors
from trio_codex.batch import Outcome, Task, merge, open_batch, read_outcomes, read_status, write_report
from trio_codex.batch._journal import Journal, Progress
from trio_codex.supervision import read_journal

SETTINGS = {"solve": "the prompt", "shard": "(0, 2)"}


def write_shard(out, outcomes, left=(), **settings):
    """Write the journal of a shard, without running it."""
    journal = Journal(out, writes=True)
    try:
        journal.begin(
            {**SETTINGS, **settings}, [*(outcome.task for outcome in outcomes), *left], allow_changes=False
        )
        for task in left:
            journal.save(task, Progress(attempt=2, state="open", seconds=3.0))
        for outcome in outcomes:
            journal.finish(outcome, Progress(attempt=1))
    finally:
        journal.close()
    return out


def done(name, value="yes", **members):
    return Outcome(task=Task(name, f"do {name}"), status="ok", value=value, **members)


async def test_merged_shards_can_be_read_reported_and_resumed(tmp_path):
    async with stage() as on:
        outs = [tmp_path / str(index) for index in range(2)]
        tasks = some(6)
        first = await on.run(tasks, out=outs[0], shard=(0, 2))
        async with on.batch(tasks, out=outs[1], shard=(1, 2)) as batch:
            second = (await anext(batch)).task.id
        merge(outs, tmp_path / "all")
        status = read_status(tmp_path / "all")
        found = [outcome.task.id for outcome in read_outcomes(tmp_path / "all")]
        assert found[: len(first)] == [*first]
        assert second in found
        assert (status.total, status.running) == (6, ())
        # The merged batch, which is not a shard, does not run these tasks again.
        again = await on.run(tasks, out=tmp_path / "all")
        assert {name for name, outcome in again.items() if outcome.resumed} == set(found)
        assert {(outcome.status, outcome.value) for outcome in again.values()} == {("ok", "did it")}
        assert all(on.prompts()[f"do {name}"] == 1 for name in found)
        # The report has the transcripts of all shards.
        await write_report(tmp_path / "all", tmp_path / "report.html")
        assert '"missing":"' not in (tmp_path / "report.html").read_text("utf-8")
        names = {thread.name for thread in read_journal(tmp_path / "all" / "threads.db")}
        assert {f"{name}#1" for name in found} <= names


def test_equal_outcomes_may_be_in_several_shards_and_open_attempts_are_closed(tmp_path):
    one = write_shard(tmp_path / "1", [done("a")], left=[Task("b", "do b"), Task("c", "do c")])
    two = write_shard(tmp_path / "2", [done("a"), done("b")], shard="(1, 2)")
    merge([one, two], tmp_path / "all")
    assert [outcome.task.id for outcome in read_outcomes(tmp_path / "all")] == ["a", "b"]
    status = read_status(tmp_path / "all")
    assert (status.total, status.outcomes, status.running) == (3, {"ok": 2}, ())
    journal = Journal(tmp_path / "all", writes=False)
    progress = journal.progress(Task("c", "do c"))
    journal.close()
    # The next attempt has the next number.
    assert (progress.attempt, progress.state, progress.seconds) == (2, "ended", 3.0)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (
            {"outcomes": [done("a", "no")]},
            "task 'a' has a different outcome in {first}: ok here, ok there (different: value)",
        ),
        (
            {"outcomes": [Outcome(task=Task("a", "do a"), status="failed", error="E", seconds=2.0)]},
            "task 'a' has a different outcome in {first}: failed here, ok there (different: error, seconds, status, value)",
        ),
        ({"outcomes": [], "left": [Task("a", "do it")]}, "task 'a' differs from the one in {first}"),
        ({"outcomes": [], "solve": "m:f"}, "solve is m:f, but the prompt in {first}"),
        ({"outcomes": [], "extra": "1"}, "extra is 1, but none in {first}"),
    ],
)
def test_incompatible_shards_raise_an_error_that_names_the_difference(tmp_path, other, difference):
    first = write_shard(tmp_path / "1", [done("a")])
    second = write_shard(tmp_path / "2", **other)
    with pytest.raises(errors.MergeConflict) as caught:
        merge([first, second], tmp_path / "all")
    assert (caught.value.path, caught.value.differences) == (str(second), (difference.format(first=first),))
    assert difference.format(first=first) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_path_that_is_too_long_is_a_journal_error(tmp_path):
    shard, too_long = write_shard(tmp_path / "1", [done("a")]), tmp_path / ("x" * 300)
    for use in (read_outcomes, read_status, lambda path: merge([shard], path)):
        with pytest.raises(errors.JournalError):
            use(too_long)


async def test_in_a_deleted_working_directory_a_relative_path_is_a_journal_error(tmp_path, monkeypatch):
    shard, gone = write_shard(tmp_path / "1", [done("a")]), tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(errors.JournalError, match="absolute path"):
        merge([shard], "all")
    with pytest.raises(errors.JournalError, match="absolute path"):
        async with open_batch([Task("a", "x")], out="all"):
            pytest.fail("the body must not run")


def test_invalid_sources_and_targets_are_refused(tmp_path):
    shard = write_shard(tmp_path / "1", [done("a")])
    with pytest.raises(ValueError, match="no shards"):
        merge([], tmp_path / "all")
    with pytest.raises(errors.JournalError, match="does not exist"):
        merge([shard, tmp_path / "none"], tmp_path / "all")
    with pytest.raises(errors.JournalError, match="not an empty directory"):
        merge([shard], shard)
    (tmp_path / "file").touch()
    with pytest.raises(errors.JournalError, match="cannot be written"):
        merge([shard], tmp_path / "file" / "all")
    (tmp_path / "all").mkdir()
    merge([shard], tmp_path / "all")
    assert len(read_outcomes(tmp_path / "all")) == 1
