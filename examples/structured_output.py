"""Get the answer as a value of your own type, and handle an answer that does not match the type.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import attrs
import trio
from _offline import example_config

from trio_codex import errors, open_codex


@attrs.frozen
class Step:
    """A step of a plan."""

    what: str
    minutes: int = 60


@attrs.frozen
class Plan:
    """A plan.

    Attributes:
        title: A short title.
        steps: The steps, in order.
    """

    title: str
    steps: list[Step]


async def main() -> None:
    """Run the example."""
    async with example_config("structured_output") as config, open_codex(config) as codex:
        thread = await codex.thread_start()
        result = await thread.run("The tap drips. Make a plan.", output_type=Plan)
        print(result.output.title)
        for step in result.output.steps:
            print(f"  {step.minutes} minutes: {step.what}")
        try:
            result = await thread.run("And if it drips again?", output_type=Plan)
        except errors.OutputError as exc:  # with a real model, this is rare
            print(f"no plan: {exc.text}")
        else:
            print(result.output.title)


if __name__ == "__main__":
    trio.run(main)
