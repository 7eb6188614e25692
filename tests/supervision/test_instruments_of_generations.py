"""Notifications about generations to instruments and to systemd."""

import logging
import socket

import pytest
import trio

from trio_codex import errors
from trio_codex.instruments import Instrument, StatsInstrument, Systemd
from trio_codex.testing import Kills
from trio_codex.testing._stored_server import StoredServer


class Seen(Instrument):
    def __init__(self):
        self.told = []

    def generation_started(self, generation):
        self.told.append(("started", generation.number))

    def generation_alive(self, generation):
        self.told.append("alive")

    def generation_ended(self, generation):
        self.told.append(("ended", generation.number, type(generation.cause).__name__))


class Broken(Instrument):
    def generation_started(self, generation):
        raise ValueError("mine")


class Dying(Seen):
    def generation_alive(self, generation):
        raise ValueError("mine")


async def two_generations(*instruments):
    async with Kills().supervisor(instruments=instruments) as supervisor:
        await trio.sleep(2.5)
        (await supervisor.ready()).give_up("for the test")
        while supervisor.generation == 1:  # noqa: ASYNC110  # it has no event for this
            await trio.sleep(0.1)


async def test_instruments_are_notified_of_generations_and_a_failing_one_is_harmless(autojump_clock, caplog):
    seen, stats = Seen(), StatsInstrument()
    with caplog.at_level(logging.INFO):
        await two_generations(seen, stats, Broken())
    told = [each for each in seen.told if each != "alive"]
    assert told == [
        ("started", 1),
        ("ended", 1, "ConnectionBroken"),
        ("started", 2),
        ("ended", 2, "str"),
    ]
    assert seen.told.count("alive") >= 3
    assert (stats.snapshot().generations, stats.snapshot().generations_lost) == (2, 1)
    assert "generation 1 is ready; attached" in caplog.messages
    assert "generation 1 was lost: ConnectionBroken" in caplog.messages
    assert "generation 2 has ended as planned" in caplog.messages
    assert "an instrument was removed: generation_started of Broken raised" in caplog.messages


async def test_an_instrument_that_raises_is_removed(autojump_clock, caplog):
    dying, other = Dying(), Seen()
    await two_generations(dying, other)
    assert dying.told == [("started", 1)]
    assert other.told.count("alive") >= 3
    assert [each for each in caplog.messages if "Dying" in each] == [
        "an instrument was removed: generation_alive of Dying raised"
    ]


async def test_waiting_for_another_server_that_has_the_thread_is_logged_once(
    autojump_clock, monkeypatch, caplog
):
    resume, tries = StoredServer._on_thread_resume, []

    def refuse(self, params):
        tries.append(trio.current_time())
        raise LookupError("thread thread-000001 already has an active writer")

    def refuse_once(self, params):
        return resume(self, params) if tries else refuse(self, params)

    async with Kills().supervisor() as supervisor:
        async with supervisor.thread("a") as thread:
            await thread.run("one", key="1")
        # The lock of a server that was just killed is free at the second attempt.
        monkeypatch.setattr(StoredServer, "_on_thread_resume", refuse_once)
        async with supervisor.thread("a"):
            assert [each for each in caplog.messages if "thread-000001" in each] == []
        monkeypatch.setattr(StoredServer, "_on_thread_resume", refuse)
        with pytest.raises(errors.ThreadInUse):
            await supervisor.thread("a").__aenter__()
    assert tries[-1] - tries[1] >= 30
    assert [each for each in caplog.messages if "thread-000001" in each] == [
        "thread thread-000001 is open in another server; waiting up to 30 s for it"
    ]


async def test_systemd_is_notified_of_readiness_and_liveness(autojump_clock, tmp_path, monkeypatch):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "2")
        await two_generations(Systemd())
        listener.setblocking(False)
        told = []
        while True:
            try:
                told.append(listener.recv(4096).decode())
            except BlockingIOError:
                break
    assert told[0] == "READY=1\nSTATUS=generation 1, attached"
    assert told[1] == "WATCHDOG=1"
    assert "STATUS=generation 1 has ended: ConnectionBroken" in told


async def test_without_systemd_nothing_is_sent(autojump_clock, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    await two_generations(Systemd())
