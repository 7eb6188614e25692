"""Start a thread, and ask a question in it.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import Sandbox, blocking

with offline_config("first_thread") as config, blocking.open_codex(config) as codex:
    thread = codex.thread_start(sandbox=Sandbox.read_only)
    result = thread.run("Say hello in one sentence.")
    print(result.final_response)
