"""Agents and background commands of a turn, which end with it unless it completes."""

import trio

from turns.scripted_turns import accept_interrupt, leave_at_once, scripted, sleep_in_turn


def spawns(*children):
    return {
        "type": "collabAgentToolCall",
        "id": "spawn",
        "tool": "spawnAgent",
        "status": "completed",
        "senderThreadId": "thread-1",
        "receiverThreadIds": list(children),
        "agentsStates": {},
    }


def command(item_id, process_id):
    return {
        "type": "commandExecution",
        "id": item_id,
        "command": "sleep 9",
        "cwd": "/",
        "processId": process_id,
        "status": "inProgress",
        "commandActions": [],
    }


async def start_agent(server, agent, *spawned_by):
    """Make a turn spawn an agent, which starts its own turn."""
    await server.item("completed", spawns(agent), *spawned_by)
    await server.start_turn(f"{agent}-turn", agent)


async def expect_termination(server, thread_id, process_id):
    asked = await server.expect("thread/backgroundTerminals/terminate")
    assert asked.params == {"threadId": thread_id, "processId": process_id}
    return asked


async def test_leaving_early_ends_the_agents_and_the_commands_of_the_turn_and_of_its_agents():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        await start_agent(server, "child")
        await start_agent(server, "grandchild", "child-turn", "child")
        await server.item("started", command("c1", "11"), "grandchild-turn", "grandchild")
        await server.item("started", command("c2", "22"))
        await server.item("started", command("c3", "33"))
        await server.item("completed", command("c3", "33"))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()

        await accept_interrupt(server, "thread-1", "turn-1")
        await (await expect_termination(server, "thread-1", "22")).answer({"terminated": True})
        await accept_interrupt(server, "child", "child-turn")
        await accept_interrupt(server, "grandchild", "grandchild-turn")
        asked = await expect_termination(server, "grandchild", "11")
        await asked.refuse("the terminal has already ended, which is not an error")
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []
    assert scope.cancelled_caught


async def test_leaving_an_interrupted_turn_also_ends_its_agents_and_commands():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        results = []

        async def body():
            async with thread.turn("hi") as turn:
                await turn.interrupt()
                await turn.wait()
            results.append(turn.result.status)

        nursery.start_soon(body)
        await server.accept_turn()
        await start_agent(server, "child")
        await server.item("started", command("c", "11"))
        await accept_interrupt(server, "thread-1", "turn-1")
        await (await expect_termination(server, "thread-1", "11")).answer({"terminated": True})
        assert results == []
        await accept_interrupt(server, "child", "child-turn")
        await trio.testing.wait_all_tasks_blocked()
        assert results == ["interrupted"]


async def test_an_agent_announced_after_the_interrupt_is_also_ended():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await server.end_turn(status="interrupted")
        child = {"id": "child-turn", "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        await server.notify("turn/started", {"threadId": "child", "turn": child})
        await accept_interrupt(server, "child", "child-turn")


async def test_commands_of_an_agent_that_ends_during_the_cleanup_also_end():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        await start_agent(server, "child")
        await server.item("started", command("c1", "11"), "child-turn", "child")
        await server.item("started", command("c2", "22"))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await accept_interrupt(server, "thread-1", "turn-1")
        asked = await expect_termination(server, "thread-1", "22")
        await server.end_turn("child-turn", "child")
        await trio.testing.wait_all_tasks_blocked()
        await asked.answer({"terminated": True})
        await (await expect_termination(server, "child", "11")).answer({"terminated": True})


async def test_an_agents_commands_end_even_if_its_parent_agent_had_ended():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        await start_agent(server, "child")
        await start_agent(server, "grandchild", "child-turn", "child")
        await server.item("started", command("c", "11"), "grandchild-turn", "grandchild")
        await server.end_turn("child-turn", "child")
        await server.end_turn("grandchild-turn", "grandchild")
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await accept_interrupt(server, "thread-1", "turn-1")
        await (await expect_termination(server, "grandchild", "11")).answer({"terminated": True})
        await trio.testing.wait_all_tasks_blocked()
        threads = codex._session.threads
        assert [threads.find(name) for name in ("child", "grandchild")] == [None, None]


async def test_agents_that_outlive_their_root_turn_are_forgotten_in_any_order():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        await start_agent(server, "child")
        await server.end_turn()
        await start_agent(server, "grandchild", "child-turn", "child")
        await server.end_turn("grandchild-turn", "grandchild")
        await server.end_turn("child-turn", "child")
        await trio.testing.wait_all_tasks_blocked()
        threads = codex._session.threads
        assert [threads.find(name) for name in ("child", "grandchild")] == [None, None]


async def test_agents_of_a_turn_are_forgotten_with_it_unless_they_keep_running():
    def spawned(thread_id, turn_id):
        turn = {"id": turn_id, "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        return {"threadId": thread_id, "turn": turn}

    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        for name in ("done", "running"):
            await server.notify("turn/started", spawned(name, f"{name}-turn"))
        await server.end_turn("done-turn", "done")
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        threads = codex._session.threads
        assert [threads.find(name) is None for name in ("done", "running")] == [True, False]
        await server.end_turn("running-turn", "running")
        await trio.testing.wait_all_tasks_blocked()
        assert threads.find("running") is None


async def test_an_agent_announced_after_its_root_turn_was_left_early_also_ends():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        nursery.start_soon(leave_at_once, thread)
        await server.accept_turn()
        await (await server.expect("turn/interrupt")).answer({})
        await server.end_turn(status="interrupted")
        child = {"id": "child-turn", "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        await server.notify("turn/started", {"threadId": "child", "turn": child})
        asked = await server.expect("turn/interrupt")
        assert asked.params == {"threadId": "child", "turnId": "child-turn"}
        await asked.answer({})
        await server.end_turn("child-turn", "child", status="interrupted")


async def test_what_a_late_agent_has_started_also_ends():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        nursery.start_soon(leave_at_once, thread)
        await server.accept_turn()
        await accept_interrupt(server, "thread-1", "turn-1")
        await trio.testing.wait_all_tasks_blocked()
        child = {"id": "child-turn", "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        await server.notify("turn/started", {"threadId": "child", "turn": child})
        await server.item("started", command("c1", "11"), "child-turn", "child")
        await start_agent(server, "grandchild", "child-turn", "child")
        await accept_interrupt(server, "child", "child-turn")
        await (await expect_termination(server, "child", "11")).answer({"terminated": True})
        await accept_interrupt(server, "grandchild", "grandchild-turn")


async def test_an_agent_that_no_item_names_is_found_by_its_root_turn():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        thread = await codex.thread_start()
        scope = trio.CancelScope()
        nursery.start_soon(sleep_in_turn, thread, scope)
        await server.accept_turn()
        child = {"id": "child-turn", "rootTurnId": "turn-1", "items": [], "status": "inProgress"}
        await server.notify("turn/started", {"threadId": "child", "turn": child})
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        for thread_id, turn_id in [("thread-1", "turn-1"), ("child", "child-turn")]:
            asked = await server.expect("turn/interrupt")
            assert asked.params == {"threadId": thread_id, "turnId": turn_id}
            await asked.answer({})
            await server.end_turn(turn_id, thread_id, status="interrupted")


async def test_a_completed_turn_does_not_end_its_agents_and_commands():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("thread/backgroundTerminals/terminate")
        thread = await codex.thread_start()
        nursery.start_soon(thread.run, "hi")
        await server.accept_turn()
        item = {
            "type": "commandExecution", "id": "c", "command": "sleep 9", "cwd": "/",
            "processId": "1", "status": "inProgress", "commandActions": [],
        }  # fmt: skip
        await server.item("started", item)
        await server.end_turn()
        await trio.testing.wait_all_tasks_blocked()
        assert server.unexpected() == []
