"""Count the tokens of a turn, a thread and the client, and end a turn that exceeds its budget.

Run it with your own Codex login, or with --offline against a scripted model.
"""

import trio
from _offline import example_config

from trio_codex import Budget, TokenUsage, errors, open_codex


def tokens(usage: TokenUsage | None) -> str:
    """Describe a number of tokens. If the server did not report one, it is unknown, not zero."""
    return "an unknown number of tokens" if usage is None else f"{usage.total_tokens} tokens"


async def main() -> None:
    """Run the example."""
    budget = Budget(tokens=1_000_000, seconds=3600)  # for all turns of this client together
    async with example_config("usage_and_budgets") as config, open_codex(config, budget=budget) as codex:
        thread = await codex.thread_start()
        for question in ("How are you?", "And now?"):
            result = await thread.run(question)
            print(f"the turn used {tokens(result.turn_usage)}, the thread {tokens(thread.usage)}")

        try:
            await thread.run("Work until I say stop.", budget=Budget(tokens=100, seconds=600))
        except errors.BudgetExceeded as exc:
            # The turn has ended on the server, and its result holds what it produced. There is no result if it never started.
            print(f"{exc}; it is {exc.result.status if exc.result else 'not started'}")
        print(f"the client used {tokens(codex.usage)}")


if __name__ == "__main__":
    trio.run(main)
