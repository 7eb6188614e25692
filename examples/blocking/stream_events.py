"""Show the text of a turn as it arrives.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import blocking, wire

with offline_config("stream_events") as config, blocking.open_codex(config) as codex:
    with codex.thread_start().turn("Tell a story.") as turn:
        for event in turn:
            match event.params:
                case wire.AgentMessageDeltaNotification(delta=text):
                    print(text, end="", flush=True)
                case _:
                    pass
    print(f"\nThe turn is {turn.result.status}.")
