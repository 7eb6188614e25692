"""Show the server and its models.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import blocking

with offline_config("models_and_metadata") as config, blocking.open_codex(config) as codex:
    print(f"codex {codex.metadata.server_version} on {codex.metadata.platform_os}")
    for model in codex.models(include_hidden=True).data:
        print(f"{model.id}: {model.description}")
