"""Show the server, its models and their reasoning efforts, and choose a model.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import open_codex


async def main() -> None:
    """Run the example."""
    async with example_config("models_and_metadata") as config, open_codex(config) as codex:
        print(f"codex {codex.metadata.server_version} on {codex.metadata.platform_os}, pid {codex.pid}")

        models = (await codex.models(include_hidden=True)).data
        for model in models:
            efforts = ", ".join(option.reasoning_effort for option in model.supported_reasoning_efforts)
            print(f"{model.id}: {model.description} (efforts: {efforts})")

        chosen = models[0]
        least = chosen.supported_reasoning_efforts[0].reasoning_effort
        thread = await codex.thread_start(model=chosen.model)
        result = await thread.run("Are you there?", effort=least)
        print(f"{chosen.display_name}, with effort {least}: {result.final_response}")


if __name__ == "__main__":
    trio.run(main)
