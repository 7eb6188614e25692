"""Iterating over lists that the server returns in pages."""

import pytest
import trio

from trio_codex import errors
from trio_codex._api.paging import Pager
from trio_codex.testing import fake_codex
from trio_codex.testing._fake import _THREAD


def pager(pages, asked=None):
    """Return a pager over ``pages``, which maps each cursor to the elements and the next cursor."""

    async def fetch(cursor):
        await trio.lowlevel.checkpoint()
        if asked is not None:
            asked.append(cursor)
        return pages[cursor]

    return Pager("some/list", fetch)


async def test_pages_are_fetched_one_at_a_time():
    asked = []
    pages = pager({None: ([1, 2], "b"), "b": ([], "c"), "c": ([3], None)}, asked)
    assert await pages.__anext__() == 1
    assert asked == [None]
    assert [number async for number in pages] == [2, 3]
    assert asked == [None, "b", "c"]
    with pytest.raises(StopAsyncIteration):
        await pages.__anext__()
    assert asked == [None, "b", "c"]


async def test_an_empty_list_has_no_elements():
    assert [number async for number in pager({None: ([], None)})] == []


async def test_every_element_is_a_checkpoint():
    pages = pager({None: ([1, 2], None)})
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await pages.__anext__()
    with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
        await pages.__anext__()


async def test_a_page_that_points_to_itself_is_an_error():
    pages = pager({None: ([1], "b"), "b": ([2], "b")})
    assert await pages.__anext__() == 1
    with pytest.raises(errors.DecodeError):
        await pages.__anext__()


async def test_iteration_resumes_where_it_was_cancelled():
    gate = trio.Event()

    async def fetch(cursor):
        await gate.wait()
        return ([cursor or "first"], None if cursor else "second")

    pages = Pager("some/list", fetch)
    with trio.move_on_after(0):
        await pages.__anext__()
    gate.set()
    assert [element async for element in pages] == ["first", "second"]


async def test_two_tasks_cannot_iterate_concurrently():
    with trio.fail_after(5):
        await iterate_twice_at_once()


async def iterate_twice_at_once():
    async with trio.open_nursery() as nursery:
        gate = trio.Event()

        async def fetch(_):
            await gate.wait()
            return [], None

        pages = Pager("some/list", fetch)
        nursery.start_soon(lambda: drain(pages))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await pages.__anext__()
        gate.set()


async def test_two_tasks_that_begin_simultaneously_do_not_both_fetch_the_first_page():
    asked, got, busy = [], [], []
    pages = pager({None: ([1, 2], None)}, asked)

    async def take():
        try:
            got.append(await pages.__anext__())
        except trio.BusyResourceError:
            busy.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        nursery.start_soon(take)
    assert (got, busy, asked) == ([1], [True], [None])
    assert [number async for number in pages] == [2]


async def drain(pages):
    async for _ in pages:
        pass


async def test_filters_are_sent_with_every_page():
    with trio.fail_after(5):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            nursery.start_soon(drain, codex.threads(archived=True, page_size=2, search_term="x"))
            asked = await server.expect("thread/list")
            expected = {"archived": True, "limit": 2, "searchTerm": "x", "sortKey": "updated_at"}
            assert asked.params == expected
            await asked.answer({"data": [], "nextCursor": "further"})
            asked = await server.expect("thread/list")
            assert asked.params == {**expected, "cursor": "further"}
            await asked.answer({"data": [], "nextCursor": None})


async def test_a_thread_that_is_listed_twice_is_returned_once():
    def stored(thread_id, name):
        return {**_THREAD, "id": thread_id, "name": name}

    with trio.fail_after(5):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            seen = []

            async def body():
                seen.extend([(thread.id, thread.name) async for thread in codex.threads()])

            nursery.start_soon(body)
            first = [stored("a", "new"), stored("a", "old"), stored("b", "")]
            await (await server.expect("thread/list")).answer({"data": first, "nextCursor": "further"})
            second = [stored("b", ""), stored("c", "")]
            await (await server.expect("thread/list")).answer({"data": second, "nextCursor": None})
            await trio.testing.wait_all_tasks_blocked()
            assert seen == [("a", "new"), ("b", ""), ("c", "")]


@pytest.mark.parametrize(
    ("begin", "method", "params"),
    [
        (
            lambda codex: codex.thread_turns("t", items_view="full", page_size=3, sort_direction="asc"),
            "thread/turns/list",
            {"threadId": "t", "itemsView": "full", "limit": 3, "sortDirection": "asc"},
        ),
        (
            lambda codex: codex.thread_items("t", turn_id="u", page_size=3, sort_direction="desc"),
            "thread/items/list",
            {"threadId": "t", "turnId": "u", "limit": 3, "sortDirection": "desc"},
        ),
    ],
    ids=["turns", "items"],
)
async def test_history_can_be_read_without_opening_the_thread(begin, method, params):
    with trio.fail_after(5):
        async with fake_codex() as (codex, server), trio.open_nursery() as nursery:
            nursery.start_soon(drain, begin(codex))
            asked = await server.expect(method)
            assert asked.params == params
            await asked.answer({"data": []})
