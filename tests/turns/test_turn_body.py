"""The body of a turn: reading text, iterating over events, and steering."""

import pytest
import trio

from trio_codex import CodexConfig, TurnStatus, errors
from turns.scripted_turns import run_one, scripted


async def test_text_yields_deltas_and_the_whole_text_of_messages_without_deltas():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        pieces = []

        async def body():
            async with thread.turn("hi") as turn:
                pieces.extend([piece async for piece in turn.text()])

        nursery.start_soon(body)
        await server.accept_turn()
        await server.delta("he", "m1")
        await server.delta("llo", "m1")
        await server.item("completed", {"type": "agentMessage", "id": "m1", "text": "hello"})
        await server.item("completed", {"type": "agentMessage", "id": "m2", "text": "whole"})
        await server.end_turn()
    assert pieces == ["he", "llo", "whole"]


async def test_only_one_task_may_read_a_turn_and_breaking_out_does_not_end_it():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            async with thread.turn("hi") as turn:
                async for _ in turn:
                    break
                async with trio.open_nursery() as readers:
                    readers.start_soon(turn.__anext__)
                    await trio.testing.wait_all_tasks_blocked()
                    with pytest.raises(trio.BusyResourceError):
                        await turn.text().__anext__()
                    await server.delta("x")
                with pytest.raises(errors.TurnActive):
                    _ = turn.result
                await server.end_turn()
                assert (await turn.wait()).status is TurnStatus.completed

        nursery.start_soon(body)
        await server.accept_turn()


async def test_a_steer_waits_until_the_turn_is_announced_and_names_it():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            async with thread.turn("hi") as turn:
                await turn.steer("rather this")
                await turn.wait()
                with pytest.raises(errors.InvalidRequestError, match="no active turn to steer"):
                    await turn.steer("too late")
                await turn.interrupt()

        nursery.start_soon(body)
        await server.accept_turn(started=False)
        await (await server.expect("turn/steer")).refuse("no active turn to steer")
        await server.start_turn()
        asked = await server.expect("turn/steer")
        assert asked.params["expectedTurnId"] == "turn-1"
        assert asked.params["input"][0]["text"] == "rather this"
        await asked.answer({"turnId": "turn-1"})
        await server.end_turn()
        await (await server.expect("turn/steer")).refuse("no active turn to steer")
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []


async def test_a_steer_that_comes_too_late_raises():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        refused = []

        async def body():
            async with thread.turn("hi") as turn:
                with pytest.raises(errors.InvalidRequestError, match="no active turn to steer") as caught:
                    await turn.steer("more")
                refused.append(caught.value)

        nursery.start_soon(body)
        await server.accept_turn()
        asked = await server.expect("turn/steer")
        await server.end_turn()
        await asked.refuse("no active turn to steer")
        await (await server.expect("turn/steer")).refuse("no active turn to steer")
        await trio.testing.wait_all_tasks_blocked()
        assert len(refused) == 1


async def test_a_steer_accepted_at_the_end_of_its_turn_is_not_sent_again():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        steered = trio.Event()

        async def body():
            async with thread.turn("hi") as turn:
                await turn.steer("more")
                steered.set()

        nursery.start_soon(body)
        await server.accept_turn()
        asked = await server.expect("turn/steer")
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert not steered.is_set(), "the outcome of the steer is not known yet"
        await asked.answer({"turnId": "turn-1"})
        await steered.wait()
        assert server.unexpected() == []


async def test_an_unanswered_steer_times_out(autojump_clock):
    async with scripted(CodexConfig(request_timeout=2)) as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            async with thread.turn("hi") as turn:
                with pytest.raises(errors.RequestTimeout, match="turn/steer"):
                    await turn.steer("more")
                await turn.wait()

        nursery.start_soon(body)
        await server.accept_turn()
        await server.expect("turn/steer")
        await trio.sleep(2.1)
        await server.end_turn()


async def test_steering_a_turn_that_cannot_be_steered_raises():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()

        async def body():
            async with thread.turn("hi") as turn:
                with pytest.raises(errors.InvalidRequestError, match="cannot steer a review"):
                    await turn.steer("no")
                with pytest.raises(TypeError, match="ExternalMessage"):
                    from trio_codex import ExternalMessage

                    await turn.steer(ExternalMessage("tool", "text"))
                await server.end_turn()
                await turn.wait()

        nursery.start_soon(body)
        await server.accept_turn()
        data = {"codexErrorInfo": {"activeTurnNotSteerable": {"turnKind": "review"}}}
        await (await server.expect("turn/steer")).refuse("cannot steer a review turn", data=data)


async def test_input_that_cannot_be_encoded_is_refused_before_anything_is_sent():
    async with scripted() as (codex, server):
        thread = await codex.thread_start()
        with pytest.raises(errors.LocalProtocolError, match="lone surrogate"):
            await thread.run("\udcff")
        with pytest.raises(ValueError, match="at least one input"):
            await thread.run([])
        with pytest.raises(TypeError, match="the input of a turn cannot be an int: pass a string"):
            await thread.run([3])
        assert server.unexpected() == []
        await run_one(thread, server)


class Falsy(Exception):
    def __len__(self):
        return 0


async def test_an_exception_that_is_falsy_leaves_the_scope_of_a_turn():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(server.accept_turn)

        async def end():
            await (await server.expect("turn/interrupt")).answer({})
            await server.end_turn(status="interrupted")

        with pytest.raises(Falsy):
            async with thread.turn("x"):
                nursery.start_soon(end)
                raise Falsy
