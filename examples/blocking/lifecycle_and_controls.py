"""Name, list, fork and archive a thread; interrupt a turn; leave another one early.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import blocking

with offline_config("lifecycle_and_controls") as config, blocking.open_codex(config) as codex:
    thread = codex.thread_start()
    thread.run("Pick a color.")
    thread.set_name("Colors")
    print([each.name for each in codex.threads()])
    print(thread.fork().run("Another one.").final_response)
    with thread.turn("Count to a million.") as turn:
        for _ in turn.text():
            turn.interrupt()
    print(turn.result.status)
    with thread.turn("Once more.") as turn:
        for _ in turn.text():
            break
    print(turn.result.status)
    thread.archive()
    print([each.name for each in codex.threads(archived=True)])
