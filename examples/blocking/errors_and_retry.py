"""Distinguish failures, and retry what the server refused because it was busy.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import blocking, errors

with offline_config("errors_and_retry") as config, blocking.open_codex(config) as codex:
    thread = codex.thread_start()
    try:
        thread.run("Are you there?")
    except errors.TurnFailed as exc:
        print(f"failed: {exc.result.status}")
    print(thread.run("And now?").final_response)
    page = blocking.retry_on_overload(lambda: codex.thread_list(limit=5), attempts=3)
    print(f"threads: {len(page.data)}")
    try:
        codex.thread_resume("00000000-0000-7000-8000-000000000000")
    except errors.InvalidRequestError as exc:
        print(f"refused: {exc.code}")
