"""A server in memory that writes threads in the same order as the real one, and that can die at any step.

Its disk survives; its memory does not. A turn is written in this order: its start, its message for the model, the item with
the id of that message, the items of the agent, its end. A turn without an end is read as interrupted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import trio
import trio.testing

from ._fake import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

USAGE = {
    "totalTokens": 3,
    "inputTokens": 2,
    "outputTokens": 1,
    "cachedInputTokens": 0,
    "reasoningOutputTokens": 0,
}


@attrs.define
class StoredTurn:
    """A turn on disk.

    Attributes:
        id: Its id.
        context: The message for the model; ``None`` if it was not written.
        items: Its items.
        status: How it ended; ``"interrupted"`` until its end is written.
    """

    id: str
    context: str | None = None
    items: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    status: str = "interrupted"

    def json(self) -> dict[str, Any]:
        """Return the turn as the server lists it."""
        return {"id": self.id, "items": list(self.items), "status": self.status}


@attrs.define
class Disk:
    """The stored state, which survives the death of a server.

    Attributes:
        threads: The turns of each stored thread, oldest first.
        called: The messages with which the model was called, and the context of each call.
    """

    threads: dict[str, list[StoredTurn]] = attrs.field(factory=dict[str, list[StoredTurn]])
    called: list[tuple[str, ...]] = attrs.field(factory=list[tuple[str, ...]])
    _numbers: int = 0

    def new_id(self, kind: str) -> str:
        """Return an id that has not been used before."""
        self._numbers += 1
        return f"{kind}-{self._numbers:06}"


class Died(Exception):
    """Raised by the step at which the server dies."""


class StoredServer:
    """One run of the server.

    Args:
        disk: The stored state.
        step: Called before each step: reading a line, writing to disk, sending a line. May raise :class:`Died`.

    Attributes:
        client_end: The client's end of the connection.
    """

    def __init__(self, disk: Disk, step: Callable[[str], None]) -> None:
        self._disk = disk
        self._step = step
        self._loaded: set[str] = set()
        self._turns: dict[str, trio.CancelScope] = {}
        self.client_end, self._end = trio.testing.memory_stream_pair()
        self._sending = trio.StrictFIFOLock()
        self._scope = trio.CancelScope()

    def die(self) -> None:
        """Kill the server."""
        self._scope.cancel()

    async def serve(self) -> None:  # noqa: ASYNC910  # reading is a checkpoint
        """Serve until the client disconnects or the server dies."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await self._read(nursery)
                    nursery.cancel_scope.cancel()
        except* Died:
            pass
        finally:
            self._end.send_stream.close()
            self._end.receive_stream.close()

    async def _read(self, nursery: trio.Nursery) -> None:
        rest, lines = b"", deque[bytes]()
        async for chunk in self._end:
            *whole, rest = (rest + chunk).split(b"\n")
            lines.extend(whole)
            while lines:
                message = msgspec.json.decode(lines.popleft())
                if "method" in message and "id" in message:
                    self._step(message["method"])
                    await self._answer(nursery, message)

    async def _answer(self, nursery: trio.Nursery, message: dict[str, Any]) -> None:
        method: str = message["method"]
        params: dict[str, Any] = message.get("params") or {}
        handle = getattr(self, "_on_" + method.replace("/", "_"), None)
        try:
            result = DEFAULTS.get(method, {}) if handle is None else handle(params)
        except LookupError as exc:
            await self._send({"id": message["id"], "error": {"code": -32600, "message": str(exc.args[0])}})
            return
        await self._send({"id": message["id"], "result": result})
        if method == "turn/start":
            scope = self._turns[params["threadId"]] = trio.CancelScope()
            nursery.start_soon(self._run, scope, params["threadId"], result["turn"]["id"], params)

    # -- requests ----------------------------------------------------------------------------------------------

    def _opened(self, thread_id: str) -> dict[str, Any]:
        self._loaded.add(thread_id)
        opened = DEFAULTS["thread/start"]
        return {**opened, "thread": {**opened["thread"], "id": thread_id, "historyMode": "paginated"}}

    def _on_thread_start(self, _: dict[str, Any]) -> dict[str, Any]:
        return self._opened(self._disk.new_id("thread"))

    def _on_thread_resume(self, params: dict[str, Any]) -> dict[str, Any]:
        turns = self._stored(params, "no rollout found for thread id")
        page = {"data": [turn.json() for turn in turns[-1:]], "nextCursor": None}
        return {**self._opened(params["threadId"]), "initialTurnsPage": page}

    def _on_thread_archive(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["threadId"] not in self._loaded:
            raise LookupError("no rollout found for thread id")
        self._loaded.remove(params["threadId"])
        return {}

    def _on_thread_goal_get(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"goal": None}

    def _on_thread_turns_list(self, params: dict[str, Any]) -> dict[str, Any]:
        turns = self._stored(params, "thread is not materialized yet")
        return {"data": [turn.json() for turn in reversed(turns)], "nextCursor": None}

    def _on_thread_items_list(self, params: dict[str, Any]) -> dict[str, Any]:
        turns = self._stored(params, "thread is not materialized yet")
        items = [item for turn in turns if turn.id == params.get("turnId") for item in turn.items]
        data = [{"item": item, "turnId": params.get("turnId")} for item in items]
        return {"data": data, "nextCursor": None}

    def _on_thread_revert(self, params: dict[str, Any]) -> dict[str, Any]:
        turns = self._stored(params, "no rollout found for thread id")
        number = [turn.id for turn in turns].index(params["beforeTurnId"])
        self._step("write the revert")
        del turns[number:]
        return {"thread": self._opened(params["threadId"])["thread"]}

    def _on_turn_start(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["threadId"] not in self._loaded:
            raise LookupError("thread not found")
        return {"turn": {"id": self._disk.new_id("turn"), "items": [], "status": "inProgress"}}

    def _on_turn_interrupt(self, params: dict[str, Any]) -> dict[str, Any]:
        scope = self._turns.get(params["threadId"])
        if scope is None:
            raise LookupError("no active turn to interrupt")
        scope.cancel()
        return {}

    def _stored(self, params: dict[str, Any], problem: str) -> list[StoredTurn]:
        turns = self._disk.threads.get(params["threadId"])
        if turns is None:
            raise LookupError(problem)
        return turns

    # -- turns -------------------------------------------------------------------------------------------------

    async def _run(
        self, scope: trio.CancelScope, thread_id: str, turn_id: str, params: dict[str, Any]
    ) -> None:
        text = params["input"][0]["text"]
        turn = StoredTurn(turn_id)
        with scope:
            await trio.lowlevel.checkpoint()
            self._step("write the start of the turn")
            turns = self._disk.threads.setdefault(thread_id, [])
            turns.append(turn)
            await self._notify("turn/started", thread_id, turn={**turn.json(), "status": "inProgress"})
            self._step("write the message for the model")
            turn.context = text
            self._step("write the user's message")
            content: list[dict[str, Any]] = [{"type": "text", "text": text, "text_elements": []}]
            await self._item(
                thread_id,
                turn,
                {"type": "userMessage", "content": content, "clientId": params.get("clientUserMessageId")},
            )
            self._step("call the model")
            self._disk.called.append(tuple(each.context for each in turns if each.context is not None))
            await trio.sleep(1)
            self._step("write the answer")
            await self._item(thread_id, turn, {"type": "agentMessage", "text": f"did {text}"})
            usage = {"total": USAGE, "last": USAGE, "modelContextWindow": None}
            await self._notify("thread/tokenUsage/updated", thread_id, turnId=turn_id, tokenUsage=usage)
            self._step("write the end of the turn")
            turn.status = "completed"
        del self._turns[thread_id]
        await self._notify("turn/completed", thread_id, turn=turn.json())

    async def _item(self, thread_id: str, turn: StoredTurn, item: dict[str, Any]) -> None:
        item = {"id": self._disk.new_id("item"), **item}
        turn.items.append(item)
        for phase in ("started", "completed"):
            await self._notify(f"item/{phase}", thread_id, turnId=turn.id, item=item, **{f"{phase}AtMs": 0})

    async def _notify(self, method: str, thread_id: str, **params: Any) -> None:
        await self._send({"method": method, "params": {"threadId": thread_id, **params}, "emittedAtMs": 0})

    async def _send(self, message: dict[str, Any]) -> None:
        self._step(f"send {message.get('method', 'an answer')}")
        async with self._sending:
            await self._end.send_all(msgspec.json.encode(message) + b"\n")
