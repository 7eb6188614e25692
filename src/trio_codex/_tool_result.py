"""What a dynamic tool gives back to the agent."""

from __future__ import annotations

import attrs

from trio_codex import wire


@attrs.frozen
class ToolResult:
    """What a tool gives back.

    Attributes:
        content: Texts, images and sounds, as the agent gets them.
        success: Whether the tool did what it was asked to. A failed one does not fail the turn: the agent is told.
    """

    content: tuple[wire.DynamicToolCallOutputContentItem, ...] = attrs.field(
        repr=lambda content: f"<{len(content)} items>"
    )
    success: bool = True

    @classmethod
    def of_text(cls, text: str, *, success: bool = True) -> ToolResult:
        """Make a result of one text."""
        return cls((wire.InputTextDynamicToolCallOutputContentItem(text=text),), success)
