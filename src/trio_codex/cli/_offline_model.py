"""The scripted model of ``--offline``, which sends the same answer to every message."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from trio_codex.testing import Delay, MockModel, Response, Text, offline_home, write_offline_home

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_codex.testing import OfflineHome

ANSWER: Final = (
    "This answer comes from a scripted model on your machine. It needs no account and no network, and sends the same"
    " answer to every message. Everything else is real: the server, the thread, the turn and its events."
)

WORD_SECONDS: Final = 0.04
"""Delay between words, so that the answer can be watched, steered and interrupted."""


@asynccontextmanager
async def scripted_home(directory: str | None = None) -> AsyncGenerator[OfflineHome]:
    """Serve the model, and provide a home in which the server talks to nothing else.

    Args:
        directory: Where the home is. By default, it is temporary.
    """
    words = ANSWER.split(" ")
    pieces = [f"{word} " for word in words[:-1]] + words[-1:]
    parts = [part for piece in pieces for part in (piece, Delay(WORD_SECONDS))]
    async with MockModel(default=Response(Text(*parts, phase="final_answer"))) as model:
        if directory is not None:
            yield write_offline_home(directory, model)
            return
        with offline_home(model) as home:
            yield home
