"""Serve agents over HTTP: a visitor posts a question, and gets the answer as server-sent events.

Each visitor has a turn. If the visitor disconnects, the turn ends on the server: Quart-Trio cancels the response, the
cancellation reaches the scope of the turn, and leaving that scope interrupts it. If the server dies, its visitors get
an error, and the supervisor starts another server for later ones.

It needs quart-trio. Run it with your own Codex login, or with --offline against a scripted model. With --serve it
serves until you stop it. Without --serve, the script visits it four times: one visitor leaves early, and one sees the
server die.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import trio
from _offline import example_config
from hypercorn.config import Config
from hypercorn.trio import serve  # pyright: ignore[reportUnknownVariableType]  # WSGI is not typed
from quart import Response, request
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio

from trio_codex import errors, open_supervisor, wire
from trio_codex.supervision import Supervisor


@trio.as_safe_channel
async def answer(supervisor: Supervisor, question: str) -> AsyncGenerator[str, None]:  # noqa: ASYNC911  # yields wait
    """Run a turn, and yield its text and its status as server-sent events."""
    try:
        codex = await supervisor.ready()
        async with await codex.thread_start(ephemeral=True, sandbox="read-only") as thread:
            async with thread.turn(question, idle_limit=300) as turn:
                async for piece in turn.text():
                    yield f"data: {json.dumps(piece)}\n\n"  # noqa: ASYNC119  # as_safe_channel closes it in time
            yield f"event: end\ndata: {turn.result.status}\n\n"  # noqa: ASYNC119  # as above
    except errors.CodexError as exc:
        yield f"event: error\ndata: {type(exc).__name__}\n\n"  # noqa: ASYNC119, ASYNC911  # as above


class Body(ResponseBody):
    """A response body that a scope provides. Quart enters it, iterates over it, and leaves it, all in one task."""

    def __init__(self, scope: AbstractAsyncContextManager[AsyncIterable[str]]) -> None:
        self._scope = scope

    async def __aenter__(self) -> AsyncIterable[str]:
        """Start the turn."""
        return await self._scope.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the turn, if it has not ended."""
        await self._scope.__aexit__(kind, exc, traceback)  # noqa: ASYNC102  # shielded and bounded inside


def create_app(supervisor: Supervisor) -> QuartTrio:
    """Create the application. All requests share one server."""
    app = QuartTrio(__name__)

    @app.post("/ask")
    async def ask() -> Response:
        question = str(await request.get_data(as_text=True))
        response = Response(content_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        response.response = Body(answer(supervisor, question))
        response.timeout = None  # by default Quart ends a response after a minute
        return response

    return app


async def visit(url: str, question: str, until: str, pid: int | None = None) -> None:
    """Ask a question, as a browser would. Disconnect once the answer contains ``until``.

    With ``pid``, kill that process instead, and disconnect at the error that follows.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        head = f"POST /ask HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(question)}\r\n\r\n"
        await stream.send_all(f"{head}{question}".encode())
        seen = ""
        async for chunk in stream:
            seen += chunk.decode()
            if until in seen:
                if pid is None:
                    break
                os.kill(pid, signal.SIGKILL)
                until, pid = "event: error", None
    print("\n".join(line for line in seen.splitlines() if line.startswith(("data:", "event:"))))


async def main() -> None:
    """Run the service."""
    settings = Config()
    settings.bind = ["127.0.0.1:8000" if "--serve" in sys.argv else "127.0.0.1:0"]
    settings.loglevel = "WARNING"
    async with (
        example_config("web_service") as config,
        open_supervisor(config) as supervisor,
        trio.open_nursery() as nursery,
    ):
        [url, *_] = await nursery.start(serve, create_app(supervisor), settings)  # pyright: ignore[reportUnknownArgumentType]
        if "--serve" in sys.argv:
            print(f"curl -N -d 'Explain this repository.' {url}/ask")
            await trio.sleep_forever()
        await demonstrate(supervisor, url)
        nursery.cancel_scope.cancel()


async def demonstrate(supervisor: Supervisor, url: str) -> None:
    """Visit the service four times."""
    # By default, a lost server is logged as a warning. This one is lost on purpose.
    logging.getLogger("trio_codex").setLevel(logging.ERROR)
    codex = await supervisor.ready()
    async with codex.events("turn/completed") as ended:
        for question, until in (("Be quick.", "event: end"), ("Tell a long story.", "Once")):
            await visit(url, question, until)
            event = await anext(ended)
            if isinstance(event.params, wire.TurnCompletedNotification):
                print(f"-> the turn is {event.params.turn.status}")
    await visit(url, "Tell another one.", "Long ago", codex.pid)
    await visit(url, "And now?", "event: end")
    print(f"-> servers: {supervisor.generation}")


if __name__ == "__main__":
    trio.run(main)
