"""Run turns to their ends, and show what they used.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import blocking

with offline_config("run") as config, blocking.open_codex(config) as codex:
    thread = codex.thread_start()
    for question in ("What is this?", "In one word?"):
        result = thread.run(question)
        print(f"{result.status}: {result.final_response}")
    print(f"tokens: {thread.usage.total_tokens if thread.usage else 0}")
