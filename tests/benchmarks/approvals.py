"""The round trip of an approval, as the server sees it: from its request to the answer."""

from benchmarks import clients
from benchmarks.app_server import thread_id
from benchmarks.measuring import percentile
from benchmarks.traffic import prepare_results

TITLE = "Round trip of an approval"
ROUNDS = 5

WARM = 100


def prepare(setting):
    prepare_results(setting.directory)


def text_of(setting):
    return f"ask {WARM + setting.pick(1500, 300)}"


def summarize(seconds):
    seconds = sorted(seconds[WARM:])
    return {"p50 µs": 1e6 * percentile(seconds, 50), "p99 µs": 1e6 * percentile(seconds, 99)}


def floor(setting):
    with clients.Floor(clients.server_command(setting.directory)) as floor:
        floor.start_turn(thread_id(1), text_of(setting))
        while (message := floor.next_message())["method"] != "turn/completed":
            if "id" in message:
                floor.write({"id": message["id"], "result": {"decision": "accept"}})
        return summarize(floor.request("test/seconds", {}))


def trio_codex(setting):
    from trio_codex import Policy, policies

    async def accept(request):
        return policies.accept()

    async def body(codex):
        thread = await codex.thread_start()
        await thread.run(text_of(setting))
        return summarize(await codex.request("test/seconds"))

    return clients.run_trio(body, setting.directory, policy=Policy(command=accept))


def sync_sdk(setting):
    """Without a handler it accepts, on its reader thread."""
    with clients.open_sync_sdk(setting.directory) as codex:
        codex.thread_start().run(text_of(setting))
        return summarize(codex._client._request_raw("test/seconds", {}))


def async_sdk(setting):
    async def body(codex):
        thread = await codex.thread_start()
        await thread.run(text_of(setting))
        return summarize(codex._client._sync._request_raw("test/seconds", {}))

    return clients.run_async_sdk(body, setting.directory)


CASES = {"floor": floor, "trio-codex": trio_codex, "AsyncCodex": async_sdk, "Codex": sync_sdk}
