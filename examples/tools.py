"""Give the agent custom tools: a function, and a method of a stateful object, in a namespace, with a limit.

Run it with your own Codex login, or with --offline against a scripted model.
"""

from typing import Annotated, Literal

import attrs
import trio
from _offline import example_config

from trio_codex import open_codex, policies, tool, wire
from trio_codex.tools import Namespace, ToolError

SHOP = Namespace("shop", "The tool shop on the ground floor.")


@attrs.frozen
class Part:
    """A part in stock.

    Attributes:
        shelf: The shelf that holds the part.
        number: The number of the part on the shelf.
    """

    shelf: Literal["A", "B"]
    number: int


STOCK = {"hammer": Part("A", 3), "spool": Part("B", 12)}


@tool
async def find(text: Annotated[str, "A word of the part's name."]) -> list[Part]:
    """Find parts in stock."""
    await trio.lowlevel.checkpoint()
    return [part for name, part in STOCK.items() if text in name]


class Shop:
    """A shop with a list of borrowed parts."""

    def __init__(self) -> None:
        self.borrowed: dict[Part, str] = {}

    @tool(namespace=SHOP, limit=1, timeout=5)
    async def borrow(self, part: Part, request: policies.ToolCallRequest, days: int = 1) -> str:
        """Borrow a part.

        Args:
            part: The part.
            request: The request, which the agent does not see.
            days: Number of days, at most seven.
        """
        await trio.sleep(0.01)  # stands for real I/O, such as a database
        if days > 7:
            raise ToolError("At most seven days.")
        self.borrowed[part] = request.thread_id
        return f"{part.shelf}{part.number} is yours for {days} days."


async def main() -> None:
    """Run the example."""
    shop = Shop()
    async with (
        example_config("tools") as config,
        open_codex(config, tools=[find, shop.borrow]) as codex,
    ):
        thread = await codex.thread_start()
        result = await thread.run("Borrow a spool for three days.")
        for item in result.items:
            match item:
                case wire.DynamicToolCallThreadItem(
                    content_items=[wire.InputTextDynamicToolCallOutputContentItem(text=text)]
                ):
                    print(f"{item.tool} {item.status}: {text}")
                case _:
                    pass
        print(result.final_response)
        print(f"borrowed: {', '.join(f'{part.shelf}{part.number}' for part in shop.borrowed)}")


if __name__ == "__main__":
    trio.run(main)
