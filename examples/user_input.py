"""Answer an agent's questions with fixed preferences; an interactive program would ask its user.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import attrs
import trio
from _offline import example_config

from trio_codex import Policy, open_codex, policies
from trio_codex.policies import UserInputDecision, UserInputRequest

PREFERRED = {"Blue", "Large"}


async def choose(  # noqa: ASYNC124  # this one decides without waiting
    request: UserInputRequest,
) -> UserInputDecision:
    """Choose the preferred option, or else the first one; without options, answer in words."""
    given: dict[str, str] = {}
    for question in request.questions:
        labels = [option.label for option in question.options or ()]
        answer = next(
            (label for label in labels if label in PREFERRED), labels[0] if labels else "As you like."
        )
        print(f"{question.question} ({', '.join(labels)}) -> {answer}")
        given[question.id] = answer
    return policies.answers(given)  # noqa: ASYNC910  # as above


async def main() -> None:
    """Run the example."""
    async with example_config("user_input") as config:
        # Outside plan mode, the agent can ask questions only if this feature is enabled.
        config = attrs.evolve(config, config_overrides=["features.default_mode_request_user_input=true"])
        async with open_codex(config, policy=Policy(user_input=choose)) as codex:
            thread = await codex.thread_start()
            result = await thread.run("Paint the fence. Ask me about the color and the size first.")
            print(result.final_response)


if __name__ == "__main__":
    trio.run(main)
