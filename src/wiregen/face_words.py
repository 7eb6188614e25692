"""Text of the stubs: replacements in the docstrings of the Trio API, and definitions that only the faces have."""

from __future__ import annotations

import re
import textwrap
from typing import Final

WIDTH: Final = 120

_CHECKPOINT: Final = (r"(This is a|A) checkpoint\. ?", "")

_BOTH: Final = (
    _CHECKPOINT,
    (r"A checkpoint; cancellation loses", "A cancellation loses"),
    (r"the checkpoints and exceptions of", "the exceptions of"),
    (r"A cancellation point, and a schedule point [^.]*\. ?", ""),
    (r"A cancellation point\. ?", ""),
    (r"Iteration is cheap: every event is a cancellation point, but [^.]*\.", ""),
    (r"RuntimeError: This was not called from a Trio task\.", ""),
    (
        r"The iteration never ends on its own: use ``break`` or cancel it\.",
        "Leave the iteration with ``break``; it raises :exc:`~trio_codex.errors.ConnectionClosed` when the client is closed.",
    ),
    (
        r"A callback is neither an async function nor an object with an async ``__call__``\.",
        "A callback cannot be called.",
    ),
)

_BLOCKING: Final = (
    *_BOTH,
    (r"\b([Aa])n async context manager", r"\1 context manager"),
    (r"\b([Aa])n async iterator", r"\1n iterator"),
    (r"\b([Aa])n async function", r"\1 function"),
    (r"\basync (with|for|def|function)", r"\1"),
    (r"\(await ((?:[^()]|\([^()]*\))*)\)", r"\1"),
    (r"\bawait ", ""),
    (r"\b([Tt]his|it) is cancelled", r"\1 is interrupted"),
    (r"fails or is cancelled", "fails or is interrupted"),
    (r"A cancellation loses", "An interrupt loses"),
    (r"an error or a cancellation", "an error or an interrupt"),
    (r" It is not a cancellation point\.", ""),
    (r"``Cancelled`` propagates", "``KeyboardInterrupt`` propagates"),
    (r"use a cancel scope", "use :func:`fail_after`"),
    (r"as codex, trio\.open_nursery\(\) as nursery:", "as codex:"),
    (r"nursery\.start_soon\(show_requests, inbox\)", "Thread(target=show_requests, args=[inbox]).start()"),
)

_AIO: Final = (
    *_BOTH,
    (r"``Cancelled`` propagates", "``CancelledError`` propagates"),
    (r"use a cancel scope", "use :func:`asyncio.timeout`"),
    (r"trio\.open_nursery\(\) as nursery:", "asyncio.TaskGroup() as group:"),
    (r"nursery\.start_soon\(show_requests, inbox\)", "group.create_task(show_requests(inbox))"),
)

_THREADS: Final = (r"\btask(s?)\b", r"thread\1")
"""In a blocking program, a thread takes the place of a Trio task. Tasks of a batch or of the server stay tasks."""


def reworded(text: str, face: str, module: str) -> str:
    """Adapt a docstring of the Trio API to a face.

    Args:
        text: The docstring.
        face: The name of the face.
        module: The module that the docstring is from.
    """
    words = list(_BLOCKING if face == "blocking" else _AIO)
    if module.endswith("generated"):
        words = [_CHECKPOINT]
    elif face == "blocking" and not module.startswith("trio_codex.batch"):
        words.append(_THREADS)
    lines: list[str] = []
    for group in _groups(text):
        joined = " ".join(line.strip() for line in group)
        new = joined
        for pattern, replacement in words:
            new = re.sub(pattern, replacement, new)
        if new == joined:
            lines += group
        elif new.strip():
            indents = [line[: len(line) - len(line.lstrip())] for line in group]
            lines += textwrap.wrap(
                new,
                WIDTH - 8,
                initial_indent=indents[0],
                subsequent_indent=indents[-1],
                break_long_words=False,
                break_on_hyphens=False,
            )
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _groups(text: str) -> list[list[str]]:
    """Split a docstring into groups of lines, so that no sentence spans two groups. Each line of code is its own group."""
    groups: list[list[str]] = []
    is_code = False
    for line in text.splitlines():
        indent = _indent(line)
        is_code = is_code and (not line or indent > 0)
        last = groups[-1] if groups else [""]
        ends = not last[0] or is_code or (last[-1].endswith(":") and indent > _indent(last[-1]))
        goes_on = not ends and (indent > _indent(last[0]) or (not indent and not _indent(last[-1])))
        if line and goes_on:
            last.append(line)
        else:
            groups.append([line])
        is_code = is_code or line.endswith("::")
    return groups


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


SCOPE: Final = {
    "blocking": '''
class Scope(Generic[ValueT_co]):
    """A scope, for ``with``. Leaving it waits until everything it started has ended, even after Ctrl-C."""

    def __enter__(self) -> ValueT_co: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def start(self) -> ValueT_co:
        """Enter the scope without ``with``, until :meth:`close`. For notebooks."""

    def close(self) -> None:
        """Leave the scope, if it was entered."""
''',
    "aio": '''
class Scope(Generic[ValueT_co]):
    """A scope, for ``async with``. Leaving it waits until everything it started has ended, even if it is cancelled."""

    async def __aenter__(self) -> ValueT_co: ...
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    async def start(self) -> ValueT_co:
        """Enter the scope without ``async with``, until :meth:`aclose`."""

    async def aclose(self) -> None:
        """Leave the scope, if it was entered."""
''',
}

FROM_TRIO: Final = '''
def from_trio(function: Callable[..., Any], /) -> Callable[..., Any]:
    """Return the counterpart of an async function of Trio, or of an async context manager.

    Use it for what this module does not provide, such as :mod:`trio_codex.testing`. The counterpart of a context manager
    starts its own thread on each call.
    """
'''

DEADLINES: Final = """
from trio_codex.blocking._deadlines import Deadline as Deadline
from trio_codex.blocking._deadlines import fail_after as fail_after
from trio_codex.blocking._deadlines import move_on_after as move_on_after
"""

TOOL: Final = '''
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

class PlainTool(Tool[P, R_co]):
    """A tool created from a plain function. Calling the tool calls the function."""

    def __call__(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *args: P.args, **kwargs: P.kwargs
    ) -> R_co: ...
'''
