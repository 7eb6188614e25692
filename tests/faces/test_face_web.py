"""An asyncio web handler streams a turn, which is interrupted when the client disconnects."""

import asyncio

import pytest
from face_drivers import FACES

pytestmark = pytest.mark.real

_, AIO = FACES


async def visit(port):
    """Request the stream, read its first event, and disconnect."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await writer.drain()
    await reader.readuntil(b"working")
    writer.close()
    await writer.wait_closed()


def test_the_turn_of_a_client_that_disconnects_is_interrupted():
    quart = pytest.importorskip("quart")
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    async def test():
        async with AIO.offline() as (codex, model, _):
            model.hang("working")
            thread = await codex.thread_start()
            turns, left = [], asyncio.Event()
            app = quart.Quart(__name__)

            @app.get("/")
            async def stream():
                async def pieces():  # noqa: ASYNC900  # the framework expects an async generator
                    try:
                        async with thread.turn("go on") as turn:
                            turns.append(turn)
                            async for text in turn.text():
                                yield text  # noqa: ASYNC119
                    finally:
                        left.set()

                return pieces(), {"Content-Type": "text/plain"}

            config = Config()
            config.bind = ["127.0.0.1:0"]
            config.accesslog = config.errorlog = None
            sockets = config.create_sockets()
            port = sockets.insecure_sockets[0].getsockname()[1]
            for each in sockets.insecure_sockets:
                each.close()
            config.bind = [f"127.0.0.1:{port}"]
            stop = asyncio.Event()
            server = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
            while True:
                try:
                    await visit(port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
            await left.wait()
            assert turns[0].result.status == "interrupted"
            model.say("usable")
            assert (await thread.run("next")).final_response == "usable"
            stop.set()
            await server

    AIO.run(test)
