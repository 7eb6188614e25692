"""The instrument that keeps the last frames for the pytest plugin."""

from trio_codex.testing import LastFrames, fake_codex


async def test_the_last_frames_are_kept_and_long_ones_truncated():
    log = LastFrames(frames=2, width=30)
    assert not log
    assert str(log) == ""
    async with fake_codex(instruments=[log]) as (codex, _):
        await codex.thread_start()
    first, sent, received = str(log).splitlines()
    assert first == "(3 earlier frames)"
    assert " → {" in sent
    assert " ← {" in received
    assert received.endswith("more bytes")
    assert len(received) < 80


async def test_invalid_utf8_and_the_reason_of_a_discarded_line_are_shown():
    log = LastFrames()
    async with fake_codex(instruments=[log]) as (codex, server):
        await server.send_line(b"\xff\xfe")
        await server.notify("test/note", {})
        async with codex.events("test/late") as events:
            await server.notify("test/late", {})
            await anext(events)
    assert "← \\xff\\xfe" in str(log)
    assert "✗ discarded, 2 bytes" in str(log)
