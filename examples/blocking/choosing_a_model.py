"""Choose the model and its effort.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from _config import offline_config

from trio_codex import blocking

with offline_config("choosing_a_model") as config, blocking.open_codex(config) as codex:
    chosen = next(model for model in codex.models().data if not model.hidden)
    least = chosen.supported_reasoning_efforts[0].reasoning_effort
    result = codex.thread_start(model=chosen.model).run("Are you there?", effort=least)
    print(f"{chosen.display_name}, with effort {least}: {result.final_response}")
