"""What instruments are told, that nobody notices one that fails, and that none cost nothing."""

import trio

from trio_codex.errors import ConnectionClosed
from trio_codex.instruments import Instrument
from trio_codex.testing import fake_codex

HOOKS = [name for name in vars(Instrument) if not name.startswith("_")]


class Everything(Instrument):
    """Keeps every call, by hook."""

    def __init__(self):
        self.calls = []

    def of(self, hook):
        return [args for name, args in self.calls if name == hook]

    def one(self, hook):
        [args] = self.of(hook)
        return args[0] if len(args) == 1 else args

    def names(self, *hooks):
        return [name for name, _ in self.calls if name in hooks]


def _keep(hook):
    def keep(self, *args):
        self.calls.append((hook, args))

    return keep


for _hook in HOOKS:
    setattr(Everything, _hook, _keep(_hook))


class Deaf(Instrument):
    """Overrides nothing."""


async def play_turn(server, *deltas, status="completed"):
    await server.accept_turn()
    for delta in deltas or ("hi",):
        await server.delta(delta)
    await server.end_turn(status=status)


async def test_a_turn_is_told_from_the_first_line_to_the_last():
    seen = Everything()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, fake_codex(instruments=[seen]) as (codex, server):
            thread = await codex.thread_start()
            nursery.start_soon(play_turn, server)
            async with thread.turn("hello") as turn:
                await turn.wait()

    number = seen.one("connection_opened")
    assert seen.one("handshake_completed") == (number, codex.metadata)
    ended_connection, error = seen.one("connection_ended")
    assert ended_connection == number
    assert type(error) is ConnectionClosed
    assert [request.method for (request,) in seen.of("request_queued")] == [
        "initialize",
        "thread/start",
        "turn/start",
    ]
    assert seen.of("request_queued") == seen.of("request_sent") == seen.of("request_ended")
    for (request,) in seen.of("request_ended"):
        assert request.outcome == "answered"
        assert request.queued_at <= request.sent_at <= request.ended_at
        assert request.duration >= 0
    record = seen.one("turn_started")
    assert record is seen.one("turn_ended")
    assert (record.id, record.thread_id, record.owned, record.status) == (
        turn.id,
        thread.id,
        True,
        "completed",
    )
    assert [event.method for _, event in seen.of("event_received")] == [
        "turn/started",
        "item/agentMessage/delta",
        "turn/completed",
    ]
    sent = [line for _, line in seen.of("frame_sent")]
    assert [b"turn/start" in line for line in sent] == [False, False, False, True]
    assert len(seen.of("frame_received")) == 6
    assert not any(b"\n" in line for _, line in seen.of("frame_sent") + seen.of("frame_received"))
