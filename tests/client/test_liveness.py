"""Detecting a stuck server, with a scripted server."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_codex import errors
from trio_codex.testing import fake_codex

QUESTION = "thread/loaded/list"


async def test_a_silent_server_that_answers_no_request_is_stuck(autojump_clock):
    async with fake_codex() as (codex, server):
        server.take_over(QUESTION)
        began = trio.current_time()
        await codex.wait_unresponsive(silence=30, within=10, failures=3)
        for _ in range(3):
            await server.expect(QUESTION)
        assert trio.current_time() - began == pytest.approx(60, abs=2)


@pytest.mark.parametrize("how", ["close", "give up"])
async def test_a_wait_for_silence_ends_with_the_connection(how, autojump_clock):
    raised = []

    async def wait(codex):
        with pytest.raises((errors.ConnectionClosed, errors.ConnectionBroken)) as caught:
            await codex.wait_unresponsive(silence=3600)
        raised.append((type(caught.value), trio.current_time()))

    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery, fake_codex() as (codex, _):
            nursery.start_soon(wait, codex)
            await wait_all_tasks_blocked()
            ended = trio.current_time()
            if how == "give up":
                codex.give_up("it is stuck")
                assert not codex.is_open
    expected = errors.ConnectionBroken if how == "give up" else errors.ConnectionClosed
    assert raised == [(expected, pytest.approx(ended, abs=10))]
