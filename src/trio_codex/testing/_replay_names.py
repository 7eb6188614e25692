"""Map the ids in a recording to those of its replay.

A client generates new ids on each run: those of its requests, and those of processes, watches and the like. Ids that
the server chose stay the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from trio_codex._core.json import list_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_ID_NAME: Final = re.compile(r"Ids?$|^processHandle$")


class Names:
    """The ids that the client generates on each run: those of requests, processes and the like."""

    def __init__(self) -> None:
        self._requests: dict[Any, Any] = {}
        self._said: set[str] = set()
        self._own: dict[str, str] = {}

    def learn(self, recorded: dict[str, Any], sent: dict[str, Any]) -> None:
        """Record the ids that the client generated in this run. Ids that the server chose stay the same."""
        if "method" in recorded and "id" in recorded:
            self._requests[recorded["id"]] = sent.get("id")
        for (name, mine), (other, theirs) in zip(_ids_of(recorded), _ids_of(sent), strict=False):
            if name == other and mine not in self._said:
                self._own.setdefault(mine, theirs)

    def said(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Return a server message with the ids of this run."""
        self._said.update(id_ for _, id_ in _ids_of(recorded) if id_ not in self._own)
        message: dict[str, Any] = self.translated(recorded)
        if "method" not in message:
            return {**message, "id": self._requests.get(message.get("id"), message.get("id"))}
        return message

    def translated(self, value: Any) -> Any:
        """Return a message with the ids of this run."""
        if all(mine == theirs for mine, theirs in self._own.items()):
            return value
        return self._renamed(value, "")

    def _renamed(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            members = cast("dict[str, Any]", value)
            return {each: self._renamed(inner, each) for each, inner in members.items()}
        if isinstance(value, list):
            return [self._renamed(each, name) for each in list_of(value)]
        return self._own.get(value, value) if isinstance(value, str) and _ID_NAME.search(name) else value


def _ids_of(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for each, inner in cast("dict[str, Any]", value).items():
            yield from _ids_of(inner, each)
    elif isinstance(value, list):
        for inner in list_of(value):
            yield from _ids_of(inner, name)
    elif isinstance(value, str) and (name == "id" or _ID_NAME.search(name)):
        yield name, value
