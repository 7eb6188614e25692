"""The real server under load: no request is lost, and no worker thread is started."""

import threading

import pytest
import trio

from prepared_homes import write_new_home
from trio_codex import CodexConfig, TurnStatus, errors, open_codex
from trio_codex._link import flow as _flow
from trio_codex.binary import find_binary
from trio_codex.instruments import Instrument
from trio_codex.testing import MockModel, Response, Text, offline_home

pytestmark = pytest.mark.real


class Refusals(Instrument):
    """Counts requests that the server refuses as overloaded; the client retries them."""

    def __init__(self):
        self.count = 0

    def request_retried(self, method, number, delay):
        self.count += 1


async def ask_often(config, count, refusals):
    """Send requests concurrently, and return the outcome of each."""
    outcomes = []

    async def ask(codex):
        try:
            await codex.request("thread/loaded/list")
        except errors.CodexError as error:
            outcomes.append(type(error))
        else:
            outcomes.append(None)

    async with open_codex(config, instruments=[refusals]) as codex, trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(ask, codex)
    return outcomes


async def test_only_with_flow_control_six_thousand_requests_at_once_are_all_answered(
    monkeypatch,
):
    refusals = Refusals()
    with trio.fail_after(60):
        async with MockModel() as model:
            with offline_home(model) as home:
                assert await ask_often(home.config(), 6000, refusals) == [None] * 6000
                assert refusals.count == 0
                monkeypatch.setattr(_flow, "LINES", 10**6)
                monkeypatch.setattr(_flow, "BARRIER_LINES", 10**6)
                unbounded = home.config(CodexConfig(request_window=3000, request_timeout=2))
                # The queue of a fast server does not always overflow.
                for _ in range(8):
                    outcomes = await ask_often(unbounded, 3000, refusals)
                    if refusals.count or any(outcomes):
                        break
    lost = {outcome for outcome in outcomes if outcome is not None}
    assert lost <= {errors.ServerBusyError, errors.RequestTimeout}
    assert lost or refusals.count, "the server coped without flow control: its limits may have grown"


async def test_twenty_concurrent_turns_complete_in_a_process_with_one_thread():
    with trio.fail_after(30):
        async with MockModel() as model:
            model.default = Response(Text("an", "answer"))
            with offline_home(model) as home:
                async with open_codex(home.config()) as codex:
                    threads_before = threading.active_count()
                    results = []

                    async def run():
                        thread = await codex.thread_start()
                        results.append(await thread.run("go"))

                    async with trio.open_nursery() as nursery:
                        for _ in range(20):
                            nursery.start_soon(run)
                    assert threading.active_count() == threads_before
    assert [(result.status, result.final_response) for result in results] == [
        (TurnStatus.completed, "ananswer")
    ] * 20


@pytest.mark.long
async def test_sixteen_concurrent_first_starts_on_one_new_home_succeed_in_twenty_rounds(tmp_path):
    versions = []
    with trio.fail_after(300):
        async with MockModel() as model:
            for number in range(20):
                config = write_new_home(tmp_path / str(number), model).config()

                async def start(config=config):
                    async with open_codex(config) as codex:
                        versions.append(codex.metadata.server_version)

                async with trio.open_nursery() as nursery:
                    for _ in range(16):
                        nursery.start_soon(start)
    assert versions == [find_binary().version] * 320
