"""File changes as a scope, against a scripted server."""

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trio_codex import CodexConfig, EventBuffer, errors
from trio_codex.testing import fake_codex


@asynccontextmanager
async def scripted(config=None, **options):
    with trio.fail_after(5):
        async with fake_codex(config, **options) as (codex, server):
            server.give("fs/watch", {"path": "/canonical"})
            server.give("fs/unwatch", {})
            yield codex, server


async def changed(server, watch_id, *paths):
    await server.notify("fs/changed", {"watchId": watch_id, "changedPaths": list(paths)})


async def test_changes_of_several_watches_are_distinguished():
    async with (
        scripted() as (codex, server),
        codex.watch("/a") as one,
        codex.watch("/b") as two,
    ):
        assert (one.path, repr(two)) == ("/canonical", "<Watch /canonical>")
        await changed(server, "watch-2", "/b")
        await changed(server, "watch-1", "/a", "/a/x")
        await changed(server, "watch-9", "/c")
        assert await one.__anext__() == ("/a", "/a/x")
        async for paths in two:
            assert paths == ("/b",)
            break


async def test_a_change_right_after_the_response_is_not_missed():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("fs/watch")

        @nursery.start_soon
        async def _():
            async with codex.watch("/a") as changes:
                assert await changes.__anext__() == ("/a",)

        asked = await server.expect("fs/watch")
        await changed(server, asked.params["watchId"], "/a")
        await asked.answer({"path": "/a"})


async def test_a_relative_path_is_resolved_in_the_servers_directory(tmp_path):
    async with scripted(CodexConfig(cwd=tmp_path)) as (codex, server), trio.open_nursery() as nursery:
        server.take_over("fs/watch")

        @nursery.start_soon
        async def _():
            async with codex.watch("b/../a"):
                pass

        asked = await server.expect("fs/watch")
        assert asked.params["path"] == str(tmp_path / "a")
        await asked.answer({"path": "/a"})


async def test_leaving_stops_the_watch_on_the_server():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("fs/unwatch")

        @nursery.start_soon
        async def _():
            async with codex.watch("/a"):
                pass

        asked = await server.expect("fs/unwatch")
        assert asked.params == {"watchId": "watch-1"}
        await asked.answer({})


async def test_a_cancelled_start_is_undone():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("fs/watch", "fs/unwatch")
        scope = trio.CancelScope()

        @nursery.start_soon
        async def _():
            with scope:
                async with codex.watch("/a"):
                    pytest.fail("the body must not run")

        asked = await server.expect("fs/watch")
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await asked.answer({"path": "/a"})
        undo = await server.expect("fs/unwatch")
        assert undo.params == {"watchId": asked.params["watchId"]}
        await undo.answer({})


@pytest.mark.parametrize(
    "answer", [{"result": {"path": 5}}, {"result": {}, "error": {"code": 1, "message": ""}}]
)
async def test_a_watch_with_an_unreadable_response_is_stopped(answer):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("fs/watch", "fs/unwatch")

        @nursery.start_soon
        async def watch():
            with pytest.raises(errors.RemoteProtocolError):
                async with codex.watch("/a"):
                    raise AssertionError("the watch was entered")

        asked = await server.expect("fs/watch")
        await server.send({"id": asked.id, **answer})
        stopped = await server.expect("fs/unwatch")
        assert stopped.params == {"watchId": asked.params["watchId"]}
        await stopped.answer({})


async def test_a_refused_watch_raises():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("fs/watch")

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.InvalidRequestError):
                async with codex.watch("/a"):
                    pytest.fail("the body must not run")

        await (await server.expect("fs/watch")).refuse("no")


async def test_a_watch_that_starts_too_late_raises_and_is_stopped(autojump_clock):
    config = CodexConfig(request_timeout=1)
    async with scripted(config) as (codex, server), trio.open_nursery() as nursery:
        server.take_over("fs/watch", "fs/unwatch")

        @nursery.start_soon
        async def _():
            with pytest.raises(errors.RequestTimeout) as caught:
                async with codex.watch("/a"):
                    pytest.fail("the body must not run")
            assert (caught.value.method, caught.value.seconds) == ("fs/watch", 1)

        asked = await server.expect("fs/watch")
        await trio.sleep(2)
        await asked.answer({"path": "/a"})
        stopped = await server.expect("fs/unwatch")
        assert stopped.params == {"watchId": asked.params["watchId"]}
        await stopped.answer({})


async def test_a_server_that_ignores_the_end_of_a_watch_does_not_block_the_client(caplog):
    config = CodexConfig(interrupt_grace=0.05)
    async with scripted(config, strict=False) as (codex, server):
        server.take_over("fs/unwatch")
        async with codex.watch("/a"):
            pass
    assert "watch-1" in caplog.text


async def test_a_lagging_consumer_is_notified_and_others_are_not_affected():
    async with (
        scripted(CodexConfig(event_buffer=EventBuffer(events=2))) as (codex, server),
        codex.watch("/a") as one,
        codex.watch("/b") as two,
    ):
        server.give("model/list", {"data": []})
        for _ in range(4):
            await changed(server, "watch-1", "/a")
        await changed(server, "watch-2", "/b")
        await codex.models()
        with pytest.raises(errors.SubscriptionOverflow):
            async for paths in one:
                assert paths == ("/a",)
        assert await two.__anext__() == ("/b",)


async def test_the_end_of_the_connection_ends_the_iteration_with_its_cause():
    async with scripted() as (codex, server), codex.watch("/a") as changes:
        await server.hang_up()
        with pytest.raises(errors.ConnectionBroken):
            await changes.__anext__()
