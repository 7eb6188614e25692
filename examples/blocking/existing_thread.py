"""Continue a thread in another client.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import blocking

with offline_config("existing_thread") as config:
    with blocking.open_codex(config) as codex:
        thread = codex.thread_start()
        thread.run("Remember the number 42.")
    with blocking.open_codex(config) as codex:
        thread = codex.thread_resume(thread.id)
        print(thread.run("Which number was it?").final_response)
