"""Errors of supervisors, their threads and their journals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_codex.errors._base import CodexError, error_class

if TYPE_CHECKING:
    from collections.abc import Sequence


class SupervisionError(CodexError):
    """Base class for errors that only a supervisor raises."""


@error_class
class RestartLimitExceeded(SupervisionError):
    """The server failed too often, or in a way that a restart cannot fix. The body was cancelled.

    Attributes:
        problem: Which limit was exceeded, in one sentence.
        exits: How the latest servers ended, oldest first. The last one is also the ``__cause__``.
    """

    problem: str
    exits: Sequence[str] = ()

    def __str__(self) -> str:
        # Show equal exits once: usually the same failure repeats.
        return self.problem + "".join(f"\n- {line}" for line in dict.fromkeys(self.exits))


@error_class
class KeyConflict(SupervisionError):
    """The key was used before, with another input or other options. Nothing was sent.

    Attributes:
        name: The name of the thread.
        key: The key.
    """

    name: str
    key: str

    def __str__(self) -> str:
        return f"key {self.key!r} of thread {self.name!r} identifies another input; use a new key for a new prompt"


@error_class
class ThreadGone(SupervisionError):
    """The server no longer has a thread that it once had. Nothing was sent.

    Attributes:
        name: The name of the thread.
        thread_id: Its id.
        problem: What is known about it.
    """

    name: str
    thread_id: str
    problem: str

    def __str__(self) -> str:
        return f"the server has no thread {self.thread_id} ({self.name!r}): {self.problem}"


@error_class
class HistoryLost(SupervisionError):
    """A prompt was given to the model, but is missing from the thread's history. It is never sent again.

    Attributes:
        name: The name of the thread.
        thread_id: Its id.
        key: The key of the prompt.
        problem: What is missing.
    """

    name: str
    thread_id: str
    key: str
    problem: str

    def __str__(self) -> str:
        return (
            f"the history of thread {self.thread_id} ({self.name!r}) lacks key {self.key!r}: {self.problem}"
        )


@error_class
class TurnInterrupted(SupervisionError):
    """The server died in the middle of the turn, and ``on_interrupted`` is ``"raise"``.

    Attributes:
        key: The key of the turn.
        result: The part of the turn that the history contains, as a :class:`~trio_codex.TurnResult`.
    """

    key: str
    result: Any = None

    def __str__(self) -> str:
        return f"the turn with key {self.key!r} was interrupted because its server died"


@error_class
class ThreadQuarantined(SupervisionError):
    """The server died repeatedly while the thread had an open turn, the last time while no other turn was open.

    Attributes:
        name: The name of the thread.
        deaths: The number of deaths.
    """

    name: str
    deaths: int

    def __str__(self) -> str:
        return (
            f"the server died {self.deaths} times while thread {self.name!r} had an open turn, "
            f"the last time while no other turn was open"
        )


@error_class
class JournalError(SupervisionError):
    """The journal cannot be used. What it contained before is unchanged.

    Attributes:
        path: The path of the journal.
        problem: What went wrong.
        hint: How to fix it.
    """

    path: str
    problem: str
    hint: str

    def __str__(self) -> str:
        return f"the journal {self.path} {self.problem}\n{self.hint}"


class JournalInUse(JournalError):
    """Another supervisor has the journal open."""
