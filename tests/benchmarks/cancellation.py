"""The time from cancelling a turn's scope to its terminal event, on the real server with a mock model."""

import time

from benchmarks.measuring import percentile

TITLE = "Cancellation of a turn"
ROUNDS = 3

PATIENCE = 60


def prepare(setting):
    pass


def count_of(setting):
    return setting.pick(40, 8)


def summarize(seconds):
    seconds = sorted(seconds)
    return {"p50 ms": 1e3 * percentile(seconds, 50), "p99 ms": 1e3 * percentile(seconds, 99)}


def with_the_real_server(run):
    import trio

    from trio_codex.testing import MockModel, Response, Text, offline_home

    async def main():
        with trio.fail_after(PATIENCE):
            async with MockModel() as model:
                model.default = Response(Text("working"), model.gate())
                with offline_home(model) as home:
                    return await run(home)

    return trio.run(main)


def trio_codex(setting):
    """The scope exits once the terminal event has arrived."""
    import trio

    from trio_codex import open_codex

    async def run(home):
        seconds = []
        async with open_codex(home.config()) as codex:
            for _ in range(count_of(setting)):
                thread = await codex.thread_start()
                with trio.CancelScope() as scope:
                    async with thread.turn("hang") as turn:
                        await wait_for_text(turn)
                        start = time.perf_counter()
                        scope.cancel()
                        await trio.sleep_forever()
                seconds.append(time.perf_counter() - start)
                assert turn.result.status == "interrupted"
        return summarize(seconds)

    return with_the_real_server(run)


async def wait_for_text(turn):
    async for event in turn:
        if event.method == "item/agentMessage/delta":
            return


def floor(setting):
    """The server's share: from an interrupt request to the terminal event."""
    import trio

    from benchmarks.clients import Floor
    from trio_codex.binary import find_binary

    async def run(home):
        return await trio.to_thread.run_sync(interrupt_often, home)

    def interrupt_often(home):
        seconds = []
        with Floor([str(find_binary().path), "app-server"], env=dict(home.env), cwd=home.workspace) as floor:
            client = {"name": "bare", "title": "bare", "version": "0"}
            floor.request("initialize", {"clientInfo": client, "capabilities": {"experimentalApi": True}})
            for _ in range(count_of(setting)):
                thread = floor.request("thread/start", {})["thread"]["id"]
                turn = floor.start_turn(thread, "hang")["turn"]["id"]
                floor.wait_for("item/agentMessage/delta")
                start = time.perf_counter()
                floor.send("turn/interrupt", {"threadId": thread, "turnId": turn})
                floor.wait_for("turn/completed")
                seconds.append(time.perf_counter() - start)
        return summarize(seconds)

    return with_the_real_server(run)


CASES = {"floor": floor, "trio-codex": trio_codex}
