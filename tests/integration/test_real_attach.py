"""Attach to a real server that somebody else started, share it, and leave it as it was."""

import base64
import json
import logging
import traceback
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from shared_server import KINDS, SECRET, TOKEN, shared_server, two_clients
from trio_codex import BearerToken, ClientConfig, SignedBearer, TurnStatus, attach_codex, errors
from trio_codex.recording import Recorder
from trio_codex.testing import Hang, MockModel, Response, Text, offline_home

pytestmark = pytest.mark.real


@pytest.mark.parametrize("kind", KINDS)
async def test_when_one_of_two_clients_leaves_only_its_own_turns_end(kind):
    async with two_clients(kind) as (one, other, model):
        assert (one.owned, one.pid) == (False, None)
        model.hang()
        model.hang()
        mine, theirs = await one.thread_start(), await other.thread_start()
        async with theirs.turn("yours") as still_running:
            async with mine.turn("mine") as left:
                await model.wait_for_requests(2)
            assert left.result.status is TurnStatus.interrupted
            await one.aclose()
            assert still_running.waiting_on is not None
            assert (await other.models()).data
        assert still_running.result.status is TurnStatus.interrupted


@pytest.mark.parametrize("size", [1, 70_000, 17_000_000])
async def test_messages_of_any_size_cross_in_both_directions(size, tmp_path):
    async with two_clients("unix") as (codex, _, _model):
        path = str(tmp_path / "file")
        data = base64.b64encode(b"x" * size).decode()
        await codex.request("fs/writeFile", {"path": path, "dataBase64": data})
        assert (await codex.request("fs/readFile", {"path": path}))["dataBase64"] == data


@pytest.mark.parametrize(
    ("kind", "auth", "status"),
    [
        ("token", None, 401),
        ("token", BearerToken("another-token-0123"), 401),
        ("signed", SignedBearer("x" * 40, issuer="me", audience="it"), 401),
        ("signed", SignedBearer(SECRET, issuer="you", audience="it"), 401),
        ("signed", BearerToken("no.jwt.atall"), 401),
    ],
)
async def test_a_wrong_token_is_refused_with_the_servers_message(kind, auth, status):
    with trio.fail_after(20):
        async with MockModel() as model:
            with offline_home(model) as home:
                async with shared_server(home, kind) as (url, _, _):
                    with pytest.raises(errors.AttachError, match=r"bearer token|jwt") as caught:
                        async with attach_codex(url, auth=auth):
                            pytest.fail("the server accepted the token")
                    assert caught.value.status == status
                    assert "auth=" in caught.value.hint


@pytest.mark.parametrize("kind", ["token", "signed"])
async def test_a_token_never_appears_in_errors_reprs_logs_or_recordings(kind, caplog, tmp_path, monkeypatch):
    caplog.set_level(logging.DEBUG)
    shown, tokens = [], [TOKEN, SECRET]
    sign = SignedBearer.mint
    monkeypatch.setattr(SignedBearer, "mint", lambda self: tokens.append(sign(self)) or tokens[-1])
    with trio.fail_after(20):
        async with MockModel() as model:
            model.default = Response(Text("done"))
            with offline_home(model) as home:
                async with shared_server(home, kind) as (url, auth, process):
                    wrong = BearerToken("another-token-0123")
                    with pytest.raises(errors.AttachError) as refused:
                        async with attach_codex(url, auth=wrong):
                            pass
                    shown += [*traceback.format_exception(refused.value), repr(refused.value)]
                    tokens.append(wrong.token)
                    with Recorder(tmp_path / "session.jsonl", redaction=None) as recorder:
                        async with attach_codex(url, auth=auth, instruments=[recorder]) as codex:
                            shown += [repr(codex), repr(auth), str(auth)]
                            await (await codex.thread_start()).run("hi")
                            await process.kill_tree()
                            shown.append(str(await codex.wait_closed()))
                    with pytest.raises(errors.AttachError) as caught:
                        async with attach_codex(url, auth=auth):
                            pass
                    shown += [str(caught.value), repr(caught.value)]
    recorded = (tmp_path / "session.jsonl").read_text()
    assert len(recorded.splitlines()) > 5
    assert len(tokens) == (3 if kind == "token" else 5)
    everything = json.dumps([*shown, caplog.text, recorded])
    assert [token for token in tokens if token in everything] == []


async def test_the_death_of_the_server_loses_the_connection_and_the_turn():
    with trio.fail_after(20):
        async with MockModel() as model:
            model.hang()
            with offline_home(model) as home:
                async with shared_server(home, "unix") as (url, _, process), attach_codex(url) as codex:
                    with pytest.raises(errors.TurnLost):
                        async with (await codex.thread_start()).turn("hi") as turn:
                            await model.wait_for_requests(1)
                            await process.kill_tree()
                            await turn.wait()
                    assert isinstance(await codex.wait_closed(), errors.ConnectionBroken)


async def break_off(codex):
    """Break the connection, as a failing tunnel does."""
    await trio.aclose_forcefully(codex._session.connection._channel._stream)


async def open_turns(codex, thread_ids):
    """Return the turns running on these threads, as reported by the server."""
    running = []
    for thread_id in thread_ids:
        try:
            thread = await codex.thread_resume(thread_id)
        except errors.InvalidRequestError:
            # A thread that never had a turn is not stored.
            continue
        async with thread:
            running += [turn.id async for turn in thread.turns(page_size=1) if turn.status == "inProgress"]
    return running


@contextmanager
def lost():
    """Check that the body fails because its connection is lost, with or without its own nursery."""
    failures = []
    try:
        yield
    except* (errors.TurnLost, errors.ConnectionBroken) as group:
        failures += group.exceptions
    assert failures


@pytest.mark.parametrize("moment", ["behind the request", "after the answer", "in the middle"])
async def test_a_lost_connection_leaves_no_turn_running(moment, caplog):
    with trio.fail_after(60):
        async with MockModel() as model:
            model.default = Hang()
            with offline_home(model) as home:
                async with shared_server(home, "unix") as (url, _, _), attach_codex(url) as onlooker:
                    thread_ids = []
                    for _ in range(7):
                        with lost():
                            async with attach_codex(url) as codex:
                                thread = await codex.thread_start()
                                thread_ids.append(thread.id)
                                if moment == "behind the request":
                                    async with trio.open_nursery() as nursery:
                                        nursery.start_soon(thread.run, "hi")
                                        await trio.testing.wait_all_tasks_blocked()
                                        await break_off(codex)
                                async with thread.turn("hi") as turn:
                                    if moment == "in the middle":
                                        await turn.__anext__()
                                    await break_off(codex)
                                    await turn.wait()
                    assert await open_turns(onlooker, thread_ids) == []
                    assert "left running" not in caplog.text


async def test_a_turn_requested_on_a_resumed_thread_ends_even_before_the_server_lists_it():
    with trio.fail_after(60):
        async with MockModel() as model:
            model.default = Hang()
            with offline_home(model) as home:
                async with shared_server(home, "unix") as (url, _, _), attach_codex(url) as onlooker:
                    thread_ids = []
                    for _ in range(5):
                        model.say("done")
                        thread = await onlooker.thread_start()
                        await thread.run("before")
                        thread_ids.append(thread.id)
                        with lost():
                            async with attach_codex(url) as codex, trio.open_nursery() as nursery:
                                resumed = await codex.thread_resume(thread.id)
                                nursery.start_soon(resumed.run, "hi")
                                await trio.testing.wait_all_tasks_blocked()
                                await break_off(codex)
                    # If the turn was accepted late, it has begun by now.
                    await trio.sleep(0.5)
                    assert await open_turns(onlooker, thread_ids) == []


async def test_a_goal_stops_when_its_connection_is_lost():
    with trio.fail_after(60):
        async with MockModel() as model:
            model.default = Response(Text("again"))
            with offline_home(model) as home:
                async with shared_server(home, "unix") as (url, _, _), attach_codex(url) as onlooker:
                    with lost():
                        async with attach_codex(url) as codex:
                            thread = await codex.thread_start()
                            async with thread.goal("reach it") as goal:
                                async for event in goal:
                                    if event.method == "turn/completed":
                                        break
                                await break_off(codex)
                                await goal.wait()
                    assert await open_turns(onlooker, [thread.id]) == []
                    asked = len(model.requests)
                    await trio.sleep(1)
                    assert len(model.requests) == asked, "the goal continued"


async def test_a_review_ends_when_its_connection_is_lost(caplog):
    with trio.fail_after(60):
        async with MockModel() as model:
            model.hang()
            with offline_home(model) as home:
                async with shared_server(home, "unix") as (url, _, _):
                    with lost():
                        async with attach_codex(url) as codex:
                            thread = await codex.thread_start()
                            async with thread.review("all of it") as review:
                                await model.wait_for_requests(1)
                                await break_off(codex)
                                began = trio.current_time()
                                await review.wait()
                    assert trio.current_time() - began < ClientConfig().interrupt_grace / 2
                    assert "left running" not in caplog.text


async def test_a_new_token_is_signed_for_the_connection_that_ends_the_lost_turns(monkeypatch):
    tokens = []
    sign = SignedBearer.mint
    monkeypatch.setattr(SignedBearer, "mint", lambda self: tokens.append(sign(self)) or tokens[-1])
    with trio.fail_after(30):
        async with MockModel() as model:
            model.hang()
            with offline_home(model) as home:
                async with shared_server(home, "signed") as (url, auth, _):
                    with lost():
                        async with attach_codex(url, auth=auth) as codex:
                            thread = await codex.thread_start()
                            async with thread.turn("hi") as turn:
                                await model.wait_for_requests(1)
                                # A token expires after a minute, but a connection that was opened with it stays open.
                                await break_off(codex)
                                await turn.wait()
                    assert len(tokens) == 2
