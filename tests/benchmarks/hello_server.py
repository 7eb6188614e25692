"""A scripted server for batches whose turns all say "hello". Run as ``python -I -S hello_server.py DIRECTORY``."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import app_server  # found through the path above

TOKENS = {
    "totalTokens": 15,
    "inputTokens": 10,
    "cachedInputTokens": 0,
    "cacheWriteInputTokens": 0,
    "outputTokens": 5,
    "reasoningOutputTokens": 0,
}


class HelloServer(app_server.Server):
    def __init__(self, directory):
        super().__init__(directory)
        # A real thread that can be resumed after a crash looks like this.
        self.results["thread/start"]["thread"]["historyMode"] = "paginated"

    def take(self, line):
        message = json.loads(line)
        if message.get("method") == "thread/archive":
            where = {"threadId": message["params"]["threadId"]}
            self.write(
                app_server.notification("thread/status/changed", **where, status={"type": "notLoaded"})
            )
        super().take(line)

    def start_turn(self, message):
        params = message["params"]
        thread, text = params["threadId"], params["input"][0]["text"]
        turn = app_server.turn_id(thread, text)
        where = {"threadId": thread, "turnId": turn}
        item = {"type": "agentMessage", "id": f"msg_{turn}", "text": "hello", "phase": None}
        usage = {"total": TOKENS, "last": TOKENS, "modelContextWindow": 272_000}
        self.answer(message, {"turn": app_server.turn(turn, "inProgress")})
        self.write(
            app_server.started(thread, text)
            + app_server.notification("item/completed", item=item, **where, completedAtMs=1795221091894)
            + app_server.notification("thread/tokenUsage/updated", **where, tokenUsage=usage)
            + app_server.ended(thread, text)
        )


if __name__ == "__main__":
    HelloServer(sys.argv[1]).run()
