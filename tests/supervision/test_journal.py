"""The journal: one writer, many readers, typed errors, and no loss of committed data."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from supervised import Full

from trio_codex import _database, errors
from trio_codex.supervision import _system, read_journal
from trio_codex.supervision._journal import Journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path):
    opened = Journal(path)
    yield opened
    opened.close()


def test_a_journal_has_one_writer_and_many_readers(path, journal):
    journal.started("a", "thread-1", "/home", "1 2 3")
    with pytest.raises(errors.JournalInUse, match="in use"):
        Journal(path)
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert reader.execute("select name, id from threads").fetchall() == [("a", "thread-1")]
    reader.close()
    journal.close()
    again = Journal(path)
    assert again.thread("a").id == "thread-1"
    again.close()


@pytest.mark.parametrize("mode", ["deferred", "immediate"])
def test_a_transaction_of_another_program_blocks_this_one_only_for_a_moment(path, journal, mode, monkeypatch):
    monkeypatch.setattr(_database, "CHECKPOINT_BYTES", 0)
    journal.started("a", "thread-1", "/home", "1 2 3")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"begin {mode}")
        other.execute("select * from threads").fetchall()
        started = time.monotonic()
        context = pytest.raises(errors.JournalError, match="End the transaction")
        with context if mode == "immediate" else nullcontext():
            for _ in range(2 * _database.CHECK_EVERY):
                journal.started("a", "thread-1", "/home", "1 2 3")
                journal.checkpoint(idle=True)
        journal.close()
        assert time.monotonic() - started < 2
    with closing(Journal(path)) as again:
        assert again.thread("a").id == "thread-1"


def test_every_name_of_a_journal_has_the_same_lock(path, journal, monkeypatch):
    link = path.with_name("link.db")
    link.symlink_to(path.name)
    monkeypatch.chdir(path.parent)
    for name in (link, path.name, link.name, f"../{path.parent.name}/{path.name}"):
        with pytest.raises(errors.JournalInUse):
            Journal(name)
    journal.close()
    again = Journal(link)
    with pytest.raises(errors.JournalInUse):
        Journal(path)
    again.close()


def test_the_log_is_merged_even_after_the_program_has_changed_its_directory(path, tmp_path, monkeypatch):
    monkeypatch.setattr(_database, "CHECKPOINT_BYTES", 100_000)
    monkeypatch.chdir(tmp_path)
    journal = Journal(path.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for number in range(_database.CHECK_EVERY):
        journal.sending("a", f"key-{number}", "hash", 1, None)
    before = os.stat(f"{path}-wal").st_size
    journal.checkpoint(idle=True)
    after = os.stat(f"{path}-wal").st_size
    journal.close()
    assert before > 100_000
    assert after == 0


@pytest.mark.parametrize("is_open", [True, False])
def test_a_journal_can_be_read_without_permission_to_write(is_open):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "journal.db")
        opened = Journal(path)
        opened.started("a", "thread-1", "/home", "1 2 3")
        if not is_open:
            opened.close()
        user = os.geteuid()
        Path(directory).chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            names = [thread.name for thread in read_journal(path)]
        finally:
            os.seteuid(user)
            Path(directory).chmod(0o755)
            opened.close()
    assert names == ["a"]


def test_a_forked_process_neither_keeps_a_journal_locked_nor_unlocks_it(path, journal):
    """A worker of a pool may outlive the journal, or end while it is open."""
    context = multiprocessing.get_context("fork")
    closer = context.Process(target=journal.close)
    closer.start()
    closer.join()
    with pytest.raises(errors.JournalInUse):
        Journal(path)
    worker = context.Process(target=time.sleep, args=(60,))
    worker.start()
    try:
        journal.close()
        Journal(path).close()
    finally:
        worker.kill()
        worker.join()


def test_the_states_of_a_key(journal):
    journal.started("a", "thread-1", "/home", None)
    journal.sending("a", "k", "digest", 1, "turn-0")
    assert journal.thread("a").anchor == "turn-0"
    assert (journal.key("a", "k").state, journal.key("a", "k").turn) == ("sending", None)
    assert journal.thread("a").accepted == 0
    journal.running("a", "k", "turn-1")
    assert (journal.key("a", "k").state, journal.thread("a").accepted) == ("running", 1)
    journal.ended("a", "k", "turn-1", "interrupted", by_us=True)
    row = journal.key("a", "k")
    assert (row.state, row.status, row.by_us) == ("ended", "interrupted", 1)
    journal.sending("a", "k", "digest", 2, "turn-1")
    row = journal.key("a", "k")
    assert (row.state, row.attempt, row.turn, row.status, row.by_us) == ("sending", 2, None, None, 0)
    assert journal.key("a", "other") is None
    assert journal.key("b", "k") is None


def test_committed_data_survives_kill_9(path):
    code = (
        "import os, sys\n"
        "from trio_codex.supervision._journal import Journal\n"
        "journal = Journal(sys.argv[1])\n"
        "journal.started('a', 'thread-1', None, None)\n"
        "journal.sending('a', 'k', 'd', 1, None)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], timeout=60)
    assert done.returncode == -9
    journal = Journal(path)
    assert journal.key("a", "k").state == "sending"
    journal.close()


def test_a_late_write_is_visible_but_only_committed_with_the_next_write(path, journal):
    journal.started("a", "thread-1", None, None)
    journal.sending("a", "k", "d", 1, None)
    journal.running("a", "k", "turn-1")
    journal.ended("a", "k", "turn-1", "completed", by_us=False, late=True)
    journal.used("a", 10, 1.5, 0)
    assert (journal.key("a", "k").state, journal.spent().tokens) == ("ended", 10)
    reader = Journal(path, writes=False)
    assert (reader.key("a", "k").state, reader.spent().tokens) == ("running", 0)
    journal.sending("a", "k2", "d", 1, "turn-1")
    assert (reader.key("a", "k").state, reader.spent().tokens) == ("ended", 10)
    journal.used("a", 5, 0.0, 0)
    journal.commit()
    assert reader.spent().tokens == 15
    journal.used("a", 5, 0.0, 0)
    journal.close()
    assert reader.spent().tokens == 20
    reader.close()


def test_a_prompt_is_found_even_if_it_was_looked_up_before_it_was_written(path, journal):
    journal.started("a", "thread-1", None, None)
    assert journal.key("a", "k") is None
    journal.sending("a", "k", "d", 1, None)
    assert journal.key("a", "k").state == "sending"
    assert journal.key("b", "k") is None
    journal.close_thread("a")
    assert journal.key("a", "k").state == "sending"
    journal.close()
    again = Journal(path)
    assert again.key("a", "k").state == "sending"
    again.close()


def test_late_writes_are_kept_until_they_can_be_committed(path, journal):
    journal.started("a", "thread-1", None, None)
    journal.sending("a", "k", "d", 1, None)
    journal.used("a", 10, 1.5, 0)
    journal.ended("a", "k", "turn-1", "completed", by_us=False, late=True)
    with Full(path, "update on threads"):
        for write in (
            journal.commit,
            lambda: journal.sending("a", "k2", "d", 1, "turn-1"),
            lambda: journal.resumed("a", "server"),
            journal.spent,
        ):
            with pytest.raises(errors.JournalError, match=r"cannot be written: .*full"):
                write()
    # What failed is not written later.
    assert journal.key("a", "k2") is None
    journal.close()
    again = Journal(path)
    assert again.key("a", "k").state == "ended"
    assert (again.spent().tokens, again.spent().turns, again.thread("a").server) == (10, 1, None)
    again.close()


def test_usage_accumulates_and_is_never_less_than_the_servers_count(journal):
    journal.started("a", "thread-1", None, None)
    journal.sending("a", "k", "d", 1, None)
    journal.used("a", 10, 1.5, 0)
    journal.used("a", 5, 1.5, 100)
    journal.used("a", 5, 0.0, 50)
    spent = journal.spent()
    assert (spent.tokens, spent.turns, spent.seconds) == (105, 1, 3.0)


def test_a_query_for_one_thread_reads_no_rows_of_others(journal):
    journal.started("a", "thread-1", "/home", "1:1")
    statements = []
    journal._db.set_trace_callback(statements.append)
    for ask in (journal.thread, journal.spent, journal.keys):
        ask("a")
    journal.key("a", "k")
    journal._db.set_trace_callback(None)
    plans = [row[3] for each in statements for row in journal._db.execute(f"explain query plan {each}")]
    assert len(plans) == len(statements) == 4
    assert all(plan.startswith("SEARCH") for plan in plans), plans


def test_a_file_that_is_not_a_database_is_refused_and_left_unchanged(path):
    path.write_bytes(b"my only copy of a poem\n" * 200)
    before = path.read_bytes()
    with pytest.raises(errors.JournalError, match="not a database") as caught:
        Journal(path)
    assert "another path" in caught.value.hint
    assert path.read_bytes() == before


def test_another_kind_of_database_is_refused_and_left_unchanged(path):
    other = sqlite3.connect(path)
    other.execute("create table poems(text)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(errors.JournalError, match="not the journal of a supervisor"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_journal_of_a_newer_version_is_refused_and_left_unchanged(path):
    Journal(path).close()
    newer = sqlite3.connect(path)
    newer.execute("pragma user_version=99")
    newer.close()
    before = path.read_bytes()
    with pytest.raises(errors.JournalError, match="version 99") as caught:
        Journal(path)
    assert "Upgrade" in caught.value.hint
    assert path.read_bytes() == before


def test_a_journal_that_cannot_be_created_is_refused(tmp_path):
    with pytest.raises(errors.JournalError, match="cannot be opened"):
        Journal(tmp_path / "no" / "such" / "directory.db")
    (tmp_path / "directory").mkdir()
    with pytest.raises(errors.JournalError, match="cannot be opened"):
        Journal(tmp_path / "directory")


def test_a_failed_open_releases_the_lock(path):
    path.write_bytes(b"no database, but text" * 100)
    for _ in range(3):
        with pytest.raises(errors.JournalError, match="not a database"):
            Journal(path)


def test_network_file_systems_are_refused(path, monkeypatch):
    monkeypatch.setattr(_database, "network_file_system", lambda path: "nfs4")
    with pytest.raises(errors.JournalError, match=r"network file system \(nfs4\)"):
        Journal(path)


def test_the_file_system_of_a_path_is_that_of_the_innermost_mount(monkeypatch):
    table = (
        b"1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        b"2 1 0:5 / /mnt/share rw - nfs4 server:/ rw\n"
        b"3 2 0:6 / /mnt/share/my\\040disk rw - ext4 /dev/sdb rw\n"
        b"4 1 0:7 / /mnt/caf\xe9 rw - nfs4 server:/\xe9 rw\n"
        b"5 1 0:7 / /mnt/caf\xc3\xa9 rw - nfs4 server:/x rw\n"
    )
    monkeypatch.setattr(Path, "read_bytes", lambda self: table)
    assert _database.network_file_system(Path("/mnt/share/x")) == "nfs4"
    assert _database.network_file_system(Path("/mnt/share/my disk/x")) is None
    assert _database.network_file_system(Path("/mnt/shared")) is None
    assert _database.network_file_system(Path(os.fsdecode(b"/mnt/caf\xe9/x"))) == "nfs4"
    assert _database.network_file_system(Path("/mnt/café/x")) == "nfs4"


def test_a_process_is_identified_by_more_than_its_pid():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stamp = _system.stamp_of(process.pid)
    assert _system.still_runs(stamp)
    pid, started, boot = stamp.split(" ")
    assert not _system.still_runs(f"{pid} {int(started) + 1} {boot}")
    assert not _system.still_runs(f"{pid} {started} other")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not _system.still_runs(stamp)
    process.communicate()
    assert not _system.still_runs(stamp)


def test_in_another_pid_namespace_ids_in_proc_mean_other_processes(monkeypatch):
    monkeypatch.setattr(os, "readlink", lambda path: "1")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        stamp = _system.stamp_of(process.pid)
        assert _system.still_runs(stamp)
        process.communicate()
        assert not _system.still_runs(stamp)
    assert stamp.split(" ")[:2] == [str(process.pid), ""]


def test_a_process_may_have_any_name():
    code = "import sys; open('/proc/self/comm', 'wb').write(b'\\xff) Z \\xfe'); print('named', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"named\n"
        stamp = _system.stamp_of(process.pid)
        assert _system.still_runs(stamp)
        process.communicate(b"\n")
    assert not _system.still_runs(stamp)


def test_a_full_disk_is_reported_and_old_content_is_kept(path, journal):
    journal.started("a", "thread-1", None, None)
    journal.write("pragma max_page_count=1")
    with pytest.raises(errors.JournalError, match="full") as caught:
        for number in range(1000):
            journal.sending("a", f"key-{number}" + "x" * 100, "d" * 64, 1, None)
    assert "disk space" in caught.value.hint
    written = len(journal.keys("a"))
    journal.close()
    again = Journal(path)
    assert len(again.keys("a")) == written
    assert again.thread("a").id == "thread-1"
    again.close()


def test_a_journal_can_be_opened_after_any_prefix_of_its_writes(path):
    """However much of the write-ahead log has reached the disk, the journal has a committed state."""
    journal = Journal(path)
    journal.started("a", "thread-1", "/home", "1 2 3")
    journal.sending("a", "k", "d", 1, None)
    journal.running("a", "k", "turn-1")
    journal.used("a", 10, 1.0, 0)
    journal.ended("a", "k", "turn-1", "completed", by_us=False, late=True)
    journal.sending("a", "k2", "d", 1, "turn-1")
    database, log = path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()
    journal.close()
    seen = []
    for size in (*range(0, len(log), 997), len(log)):
        copy = path.with_name(f"{size}.db")
        copy.write_bytes(database)
        copy.with_name(f"{copy.name}-wal").write_bytes(log[:size])
        again = Journal(copy)
        row = again.key("a", "k")
        state = (None if row is None else row.state, again.key("a", "k2") is not None)
        if state not in seen:
            seen.append(state)
        again.close()
    assert seen == [(None, False), ("sending", False), ("running", False), ("ended", True)]
