"""Recordings: their content, and replays, in which a client behaves the same."""

import gc
import os
import stat
from contextlib import AsyncExitStack

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from recorded_session import (
    COMMAND,
    PLANET,
    READABLE,
    REDACTED,
    TEXTS,
    Seen,
    policy_for,
    recorded,
    session,
    tools_for,
)
from trio_codex import CodexConfig, Policy, errors, policies, wire
from trio_codex.policies import ToolResult
from trio_codex.recording import Entry, Recorder, RecordingError, Redaction, read_recording
from trio_codex.recording import _recorder as recorder_module
from trio_codex.testing import ReplayMismatch, fake_codex, replay
from trio_codex.testing import _replay as replay_module

COMMAND_APPROVAL = "item/commandExecution/requestApproval"


async def play(recording, **options):
    """Run the recorded session again on a replay of the recording."""
    seen = Seen()
    with trio.fail_after(60):
        kit = {"policy": policy_for(seen), "tools": tools_for(seen)}
        async with replay(recording, **kit, **options) as codex:
            await session(codex, seen)
    return seen


def without_content(decided):
    """Return a decision without the tool's answer, which depends on redacted content."""
    return tuple(type(part) if isinstance(part, ToolResult) else part for part in decided)


# -- faithful replays ------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("redaction", [None, Redaction()], ids=["whole", "redacted"])
async def test_a_session_with_the_real_server_can_be_replayed_repeatedly(redaction, tmp_path):
    path = tmp_path / "session.jsonl"
    with trio.fail_after(30), Recorder(path, redaction=redaction) as recorder:
        async with recorded(recorder) as (codex, live):
            await session(codex, live)
    assert live.texts == ["it is there", "it is done", "a longshort", "on and"]
    assert [result.status for result in live.results] == [*["completed"] * 3, "interrupted"]
    assert live.looked_up == [PLANET]
    assert [record[1] for record in live.decisions] == ["item/tool/call", COMMAND_APPROVAL]
    first, second = await play(path), await play(path)
    assert attrs.asdict(first, recurse=False) == attrs.asdict(second, recurse=False)
    assert list(map(without_content, first.decisions)) == list(map(without_content, live.decisions))
    assert list(map(len, first.looked_up)) == [len(PLANET)]
    assert [method for method, _ in first.events] == [method for method, _ in live.events]
    if redaction is None:
        assert first.events == live.events
        assert first.results == live.results
        assert first.asked == live.asked
        assert first.decisions == live.decisions
        assert first.looked_up == live.looked_up
    assert [type(params) for _, params in first.events] == [type(params) for _, params in live.events]
    assert [result.status for result in first.results] == [result.status for result in live.results]
    assert [len(text) for text in first.texts] == [len(text) for text in live.texts]


@pytest.mark.parametrize("path", [REDACTED, READABLE], ids=["redacted", "readable"])
async def test_a_golden_recording_replays_its_events_decisions_and_results(path):
    recording = read_recording(path)
    seen = await play(recording)
    turns = {result.id for result in seen.results}
    told = [
        (entry.method, wire.decode_notification(entry.method, entry.message["params"]))
        for entry in recording.entries
        if entry.kind == "received" and entry.method and "id" not in entry.message
    ]
    of_turns = [(method, params) for method, params in told if _turn_of(params) in turns]
    assert seen.events == of_turns
    assert not any(isinstance(params, wire.UnknownNotification) for _, params in seen.events)
    assert [result.status for result in seen.results] == [*["completed"] * 3, "interrupted"]
    assert seen.texts[0] == seen.results[0].final_response
    decided = [entry.decision for entry in recording.entries if entry.kind == "decision"]
    assert [(each["method"], each["decision"]) for each in decided] == [
        ("item/tool/call", "done"),
        (COMMAND_APPROVAL, "accept (session)"),
    ]
    assert [str(record[2]) for record in seen.decisions] == [each["decided_by"] for each in decided]
    if path is READABLE:
        assert seen.texts == ["it is there", "it is done", "a longshort", "on and"]
        assert seen.looked_up == [PLANET]
        assert COMMAND in seen.asked[0].command


def _turn_of(params):
    turn = getattr(params, "turn", None)
    return getattr(params, "turn_id", None) or getattr(turn, "id", None)


def test_a_replay_keeps_the_recorded_timing_which_a_mock_clock_skips():
    recording = read_recording(READABLE)

    async def timed():
        seen = await play(recording, timed=True)
        return seen, trio.current_time()

    clocks = [MockClock(autojump_threshold=0) for _ in range(2)]
    starts = [clock.current_time() for clock in clocks]
    (first, first_end), (second, second_end) = (trio.run(timed, clock=clock) for clock in clocks)
    assert attrs.asdict(first, recurse=False) == attrs.asdict(second, recurse=False)
    length = recording.entries[-1].at
    for start, end in zip(starts, (first_end, second_end), strict=True):
        assert 0.5 * length < end - start <= 1.01 * length


async def test_a_replay_can_be_recorded(tmp_path):
    path, before = tmp_path / "again.jsonl", read_recording(REDACTED)
    with Recorder(path) as recorder:
        await play(before, config=CodexConfig(client_version=before.version), instruments=[recorder])
    again = read_recording(path)
    assert [entry.message for entry in again.entries if entry.kind == "sent"] == [
        entry.message for entry in before.entries if entry.kind == "sent"
    ]


async def test_a_replay_repeats_the_death_of_the_server(tmp_path):
    path = tmp_path / "died.jsonl"
    with trio.fail_after(5), Recorder(path) as recorder:
        async with fake_codex(instruments=[recorder]) as (codex, server):
            await server.notify("configWarning", {"summary": "soon"})
            await server.hang_up()
            await codex.wait_closed()
    with trio.fail_after(5):
        async with replay(path) as codex:
            assert isinstance(await codex.wait_closed(), errors.ConnectionBroken)
    assert read_recording(path).entries[-1].reason == "ConnectionBroken"


# -- differences -----------------------------------------------------------------------------------------


async def test_another_version_of_the_client_is_not_reported_as_a_difference(tmp_path):
    path = tmp_path / "older.jsonl"
    with trio.fail_after(5), Recorder(path, redaction=None) as recorder:
        async with fake_codex(CodexConfig(client_version="0.0.1"), instruments=[recorder]) as (codex, _):
            await codex.thread_start()
    with trio.fail_after(5):
        async with replay(path) as codex:
            await codex.thread_start()
    with trio.fail_after(5), pytest.raises(ReplayMismatch, match=r'(?s)-.*"name":.*\+.*"name": "else"'):
        async with replay(path, CodexConfig(client_name="else")) as codex:
            await codex.thread_start()


async def test_another_prompt_is_reported_as_a_difference():
    with trio.fail_after(5), pytest.raises(ReplayMismatch) as caught:
        async with replay(READABLE, tools=tools_for(Seen())) as codex:
            thread = await codex.thread_start()
            await thread.run("look that up")
    difference = str(caught.value).splitlines()
    assert any(line.startswith("-") and "look it up" in line for line in difference)
    assert any(line.startswith("+") and "look that up" in line for line in difference)


async def test_a_different_request_and_one_after_the_end_are_reported(tmp_path):
    path = tmp_path / "short.jsonl"
    with trio.fail_after(5), Recorder(path) as recorder:
        async with fake_codex(instruments=[recorder]) as (codex, _):
            await codex.thread_start()
    with trio.fail_after(5), pytest.raises(ReplayMismatch, match=r"(?s)-.*thread/start.*\+.*model/list"):
        async with replay(path) as codex:
            await codex.models()
    with (
        trio.fail_after(5),
        pytest.raises(ReplayMismatch, match=r"(?s)after the end of the recording.*model/list"),
    ):
        async with replay(path) as codex:
            await codex.thread_start()
            await codex.models()


async def test_a_client_that_disconnects_early_is_reported_unless_it_failed():
    with (
        trio.fail_after(5),
        pytest.raises(ReplayMismatch, match=r"(?s)disconnected without sending.*turn/start"),
    ):
        async with replay(REDACTED, tools=tools_for(Seen())) as codex:
            await codex.thread_start()
    with trio.fail_after(5), pytest.raises(ValueError, match="mine"):
        async with replay(REDACTED) as codex:
            raise ValueError("mine")


async def test_a_client_that_disconnects_while_the_server_is_busy_is_reported_too(tmp_path, autojump_clock):
    path = tmp_path / "slow.jsonl"

    async def serve(server):
        asked = await server.expect("model/list")
        await trio.sleep(5)
        await asked.answer({"data": []})
        await (await server.expect("thread/archive")).answer({})

    with trio.fail_after(60), Recorder(path) as recorder:
        async with fake_codex(instruments=[recorder]) as (codex, server), trio.open_nursery() as nursery:
            nursery.start_soon(serve, server)
            await codex.models()
            await codex.thread_archive("t")
    with (
        trio.fail_after(60),
        pytest.raises(ReplayMismatch, match=r"disconnected without sending(.|\n)*thread/archive"),
    ):
        async with replay(path, timed=True) as codex:
            with trio.move_on_after(1):
                await codex.models()


async def test_a_mismatch_swallowed_by_the_body_is_reported_at_the_end():
    with trio.fail_after(5), pytest.raises(ReplayMismatch):
        async with replay(REDACTED) as codex:
            with pytest.raises(errors.ConnectionBroken):
                await codex.models()


async def test_a_recording_that_cannot_be_replayed_is_refused_before_anything_is_sent(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no connection 2, but 1"):
        async with replay(REDACTED, connection=2):
            pytest.fail("there is nothing to replay")
    monkeypatch.setattr(recorder_module, "LONGEST_LINE", 500)
    monkeypatch.setattr(replay_module, "LONGEST_LINE", 500)
    path = tmp_path / "long.jsonl"
    with trio.fail_after(5), Recorder(path, redaction=None) as recorder:
        async with fake_codex(instruments=[recorder]) as (_, server):
            await server.notify("configWarning", {"summary": "x" * 1000})
    with pytest.raises(RecordingError, match="too long"):
        async with replay(path):
            pytest.fail("a line is missing")


async def test_a_later_connection_is_replayed_from_its_own_start_time(autojump_clock):
    recording = read_recording(READABLE)
    opened, *rest = (
        msgspec.structs.replace(entry, at=entry.at + 3600, connection=2) for entry in recording.entries
    )
    warning = {"method": "configWarning", "params": {"summary": "before anybody asked"}}
    first = Entry(opened.at, 2, "received", message=warning)
    both = attrs.evolve(recording, entries=(*recording.entries, opened, first, *rest))
    start = trio.current_time()
    await play(both, connection=2, timed=True)
    assert trio.current_time() - start < 60


async def test_a_lenient_replay_answers_requests_by_method_alone(tmp_path):
    path = tmp_path / "lenient.jsonl"
    with trio.fail_after(5), Recorder(path) as recorder:
        async with fake_codex(instruments=[recorder]) as (codex, server):
            server.give("model/list", {"data": []})
            server.give("thread/name/set", {})
            thread = await codex.thread_start()
            await codex.models()
            await codex.request("thread/name/set", {"threadId": thread.id, "name": "one"})
    with trio.fail_after(5):
        async with replay(path, strict=False) as codex:
            # Another order, other parameters, and more requests than were recorded.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(codex.request, "thread/name/set", {"name": "another"})
                await wait_all_tasks_blocked()
                await codex.thread_start(model="another")
                assert (await codex.models()).data == []
            assert (await codex.models()).data == []
            with pytest.raises(errors.RpcError, match="no response to account/read"):
                await codex.request("account/read")


async def test_ids_that_the_client_generates_anew_are_translated(tmp_path):
    path = tmp_path / "ids.jsonl"

    async def run(codex, process_id):
        async with codex.events("command/exec/outputDelta") as events:
            result = await codex.request("command/exec", {"command": ["true"], "processId": process_id})
            return (await events.__anext__()).params.process_id, result

    async def serve(server):
        asked = await server.expect("command/exec")
        output = {
            "processId": asked.params["processId"],
            "stream": "stdout",
            "deltaBase64": "",
            "capReached": False,
        }
        await server.notify("command/exec/outputDelta", output)
        await asked.answer({"exitCode": 0, "stdout": "", "stderr": ""})

    with trio.fail_after(5), Recorder(path) as recorder:
        async with fake_codex(instruments=[recorder]) as (codex, server), trio.open_nursery() as nursery:
            nursery.start_soon(serve, server)
            assert (await run(codex, "process-a"))[0] == "process-a"
    with trio.fail_after(5):
        async with replay(path) as codex:
            told, result = await run(codex, "process-b")
    assert told == "process-b"
    assert result["exitCode"] == 0


# -- the file ------------------------------------------------------------------------------------------------------


async def test_each_line_is_written_immediately_to_a_file_only_its_owner_can_read(tmp_path):
    path = tmp_path / "now.jsonl"
    with trio.fail_after(5), Recorder(path) as recorder:
        async with fake_codex(instruments=[recorder]) as (codex, _):
            assert [entry.method for entry in read_recording(path).entries[:2]] == [None, "initialize"]
            await codex.thread_start()
            assert read_recording(path).entries[-1].message["result"]["thread"]["id"] == "thread-1"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_file_that_others_could_read_is_made_private_but_a_device_is_not_changed(tmp_path):
    path = tmp_path / "old.jsonl"
    path.touch(mode=0o644)
    Recorder(path).close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    before = os.stat(os.devnull).st_mode
    Recorder(os.devnull).close()
    assert os.stat(os.devnull).st_mode == before


async def test_if_the_file_becomes_unwritable_recording_stops_and_nothing_fails(tmp_path, caplog):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with trio.fail_after(5), pytest.raises(KeyError, match="of the body"), Recorder(path) as recorder:
            kit = {"instruments": [recorder]}
            async with fake_codex(**kit) as (codex, _), fake_codex(**kit) as (other, _):
                os.close(reader)
                reader = None
                for client in (codex, other):
                    await client.thread_start()
            raise KeyError("of the body")
    finally:
        if reader is not None:
            os.close(reader)
    [told] = caplog.records
    assert "an instrument was removed" in told.getMessage()


def test_an_existing_recording_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "old.jsonl"
    path.write_text("of yesterday")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        Recorder(path)
    assert path.read_text() == "of yesterday"
    Recorder(path, overwrite=True).close()
    assert read_recording(path).entries == ()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_recording_is_not_written_through_symbolic_or_hard_links(tmp_path, overwrite):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "dangling").symlink_to("nowhere")
    os.link(elsewhere, tmp_path / "twin")
    for name in ("link", "dangling", "twin"):
        with pytest.raises(OSError, match=r"symbolic links|several hard links"):
            Recorder(tmp_path / name, overwrite=overwrite)
    assert elsewhere.read_bytes() == b""
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("make", [lambda path: path.touch(0o666), os.mkfifo], ids=["file", "pipe"])
def test_another_users_file_is_refused_and_left_unchanged(tmp_path, make):
    path = tmp_path / "theirs"
    make(path)
    os.chown(path, 12345, 12345)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    before = os.stat(path)
    with pytest.raises(PermissionError, match="belongs to another user"):
        Recorder(path, overwrite=True)
    assert os.stat(path) == before
    assert os.read(reader, 10) == b""
    os.close(reader)


def test_times_continue_across_several_runs_of_trio(tmp_path):
    async def run(recorder):
        await trio.sleep(3600)
        with trio.fail_after(60):
            async with fake_codex(instruments=[recorder]) as (codex, _):
                await codex.thread_start()
                await trio.sleep(10)

    # The clocks of the runs start at arbitrary times, an hour apart.
    with Recorder(tmp_path / "runs.jsonl") as recorder:
        for _ in range(3):
            trio.run(run, recorder, clock=MockClock(autojump_threshold=0))
    times = [entry.at for entry in read_recording(tmp_path / "runs.jsonl").entries]
    assert times == sorted(times)
    assert 30 <= times[-1] < 60


@pytest.mark.parametrize("redaction", [None, Redaction()], ids=["whole", "redacted"])
@pytest.mark.parametrize("depth", [200, 900, 5000, 100_000])
async def test_only_the_size_of_a_message_nested_too_deeply_is_recorded(tmp_path, depth, redaction):
    path = tmp_path / "deep.jsonl"
    line = b'{"method":"new/thing","params":%s1%s}' % (b'{"a":' * depth, b"}" * depth)
    with trio.fail_after(5), Recorder(path, redaction=redaction) as recorder:
        async with fake_codex(instruments=[recorder]) as (codex, server):
            await server.send_line(line)
            await server.send_line(b'{"method":"new/thing","params":{"a":{"a":1}}}')
            await codex.thread_start()
    entries = [entry for entry in read_recording(path).entries if entry.kind == "received"]
    [deep] = [entry for entry in entries if entry.size == len(line)]
    assert deep.message is None
    assert [entry.method for entry in entries[entries.index(deep) + 1 :]][:1] == ["new/thing"]
    assert entries[-1].message["result"]["thread"]["id"] == "thread-1"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_file_that_cannot_be_created_is_an_error_and_leaves_nothing_behind(recwarn):
    with pytest.raises(OSError, match="No space left"):
        Recorder("/dev/full")
    gc.collect()
    assert not recwarn.list


async def test_the_recording_of_a_cancelled_session_is_complete(tmp_path):
    path = tmp_path / "cancelled.jsonl"
    with trio.move_on_after(0.2), Recorder(path) as recorder:
        async with fake_codex(instruments=[recorder]) as (codex, server):
            server.take_over("thread/start")
            await codex.thread_start()
    recording = read_recording(path)
    assert recording.entries[-1].reason == "ConnectionClosed"
    assert path.read_bytes().endswith(b"\n")


async def test_several_connections_are_numbered_from_one(tmp_path):
    path = tmp_path / "two.jsonl"
    with trio.fail_after(5), Recorder(path) as recorder:
        for _ in range(2):
            async with fake_codex(instruments=[recorder]) as (_, server):
                await server.ask(9, "attestation/generate", {})
                await server.answer_to(9)
                await wait_all_tasks_blocked()
    recording = read_recording(path)
    assert recording.connections == (1, 2)
    assert [entry.kind for entry in recording.of(1)] == [entry.kind for entry in recording.of(2)]
    assert [entry.connection for entry in recording.entries if entry.kind == "decision"] == [1, 2]
    with trio.fail_after(5):
        async with replay(recording, connection=2):
            await wait_all_tasks_blocked()


async def test_a_decision_is_recorded_for_the_connection_that_made_the_request(tmp_path):
    path = tmp_path / "same.jsonl"
    gates = {thread_id: trio.Event() for thread_id in ("thread-a", "thread-b", "thread-c")}

    async def decide(request):
        await gates[request.thread_id].wait()
        return policies.accept()

    with trio.fail_after(5), Recorder(path) as recorder:
        async with AsyncExitStack() as stack:
            for thread_id in gates:
                kit = {"instruments": [recorder], "policy": Policy(command=decide)}
                _, server = await stack.enter_async_context(fake_codex(**kit))
                await server.ask(9, COMMAND_APPROVAL, thread_id=thread_id)
                await wait_all_tasks_blocked()
            for gate in gates.values():
                gate.set()
                await wait_all_tasks_blocked()
    entries = read_recording(path).entries
    assert [entry.connection for entry in entries if entry.kind == "decision"] == [1, 2, 3]


async def test_only_the_size_of_junk_and_overlong_lines_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "LONGEST_LINE", 500)
    path = tmp_path / "junk.jsonl"
    with trio.fail_after(5), Recorder(path, redaction=None) as recorder:
        async with fake_codex(instruments=[recorder]) as (_, server):
            await server.send_line(b"no JSON")
            await server.notify("configWarning", {"summary": "x" * 1000})
            await wait_all_tasks_blocked()
    entries = read_recording(path).entries
    [junk] = [entry for entry in entries if entry.kind == "discarded"]
    assert (junk.reason, junk.size) == ("not JSON", 7)
    [long] = [entry for entry in entries if entry.size > 1000]
    assert long.message is None
    assert long.method is None


def test_a_truncated_file_is_read_up_to_its_end_and_other_files_are_refused(tmp_path):
    path = tmp_path / "file.jsonl"
    whole = REDACTED.read_bytes()
    path.write_bytes(whole[:-20])
    torn, entire = read_recording(path), read_recording(REDACTED)
    assert len(torn.entries) == len(entire.entries) - 1
    assert (torn.truncated, entire.truncated) == (True, False)
    for content, problem in (
        (b"", "is not a recording"),
        (b"{}\n", "is not a recording"),
        (whole.replace(b'"recording":1', b'"recording":9', 1), "later version"),
        (whole.split(b"\n")[0] + b"\nnothing\n", "line 2"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecordingError, match=problem):
            read_recording(path)
    with pytest.raises(FileNotFoundError):
        read_recording(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "redaction",
    [None, Redaction(), Redaction(paths=True, keep={"text", "delta"})],
    ids=["it was not", "by default", "with paths, but for two fields"],
)
def test_a_recording_names_its_redaction(redaction, tmp_path):
    Recorder(tmp_path / "file.jsonl", redaction=redaction).close()
    assert read_recording(tmp_path / "file.jsonl").redaction == redaction
    golden = {REDACTED: Redaction(), READABLE: TEXTS}
    assert {path: read_recording(path).redaction for path in golden} == golden


async def test_after_closing_nothing_is_recorded_and_nothing_fails(tmp_path, caplog):
    recorder = Recorder(tmp_path / "closed.jsonl")
    recorder.close()
    with trio.fail_after(5):
        async with fake_codex(instruments=[recorder]) as (codex, _):
            await codex.thread_start()
    assert read_recording(tmp_path / "closed.jsonl").entries == ()
    assert not caplog.records
