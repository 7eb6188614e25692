"""An in-memory server that records what a client has started, so tests can check that it has ended."""

import trio

from trio_codex.testing._fake import DEFAULTS

OPENING = ["thread/start", "thread/resume", "thread/delete", "thread/unsubscribe"]
APPROVAL = "item/commandExecution/requestApproval"
CALL = {"callId": "c1", "tool": "look", "namespace": None, "arguments": {}}


class Remote:
    """An in-memory server that keeps track of what is running.

    The text of a turn selects its behavior: ``short`` ends on its own, ``long`` does not, ``approve`` and ``call`` end
    once their request is answered. All of them end when steered.

    Attributes:
        running: Everything that has not ended: turns by each of their ids, commands, watches.
        subscribed: Threads that are open.
        goal: The status of the goal, if there is one.
        ended: How each turn ended.
        questions: Pending requests to the client by id, with their turns.
    """

    def __init__(self, server):
        self.server = server
        self.running = {}
        self.subscribed = set()
        self.goal = None
        self.ended = {}
        self.questions = {}
        self.numbers = 0
        server.take_over(*OPENING)

    async def play(self):
        async with trio.open_nursery() as self.nursery:
            while True:
                asked = await self.server.expect_any()
                await getattr(self, "on_" + asked.method.replace("/", "_"))(asked, asked.params)

    def number(self):
        self.numbers += 1
        return self.numbers

    # -- threads and turns

    async def on_thread_start(self, asked, _):
        await self.open(asked, f"thread-{self.number()}")

    async def on_thread_resume(self, asked, params):
        await self.open(asked, params["threadId"])

    async def open(self, asked, thread_id):
        self.subscribed.add(thread_id)
        opened = DEFAULTS["thread/start"]
        turns = [
            {"id": turn_id, "status": "inProgress", "items": []}
            for turn_id, (_, its_thread) in self.running.items()
            if its_thread == thread_id
        ]
        page = {"initialTurnsPage": {"data": turns, "nextCursor": None}} if turns else {}
        await asked.answer({**opened, **page, "thread": {**opened["thread"], "id": thread_id}})

    async def on_thread_delete(self, asked, params):
        self.subscribed.discard(params["threadId"])
        await asked.answer({})

    async def on_thread_unsubscribe(self, asked, params):
        self.subscribed.discard(params["threadId"])
        await asked.answer({"status": "unsubscribed"})

    async def on_turn_start(self, asked, params):
        thread_id, turn_id = params["threadId"], f"turn-{self.number()}"
        await asked.answer({"turn": {"id": turn_id, "items": [], "status": "inProgress"}})
        await self.start(turn_id, thread_id)
        await self.server.delta("text", turn_id=turn_id, thread_id=thread_id)
        match params["input"][0]["text"]:
            case "short":
                await self.end(turn_id, "completed")
            case "approve":
                await self.ask(
                    turn_id, thread_id, APPROVAL, {"itemId": "i", "startedAtMs": 0, "command": "rm"}
                )
            case "call":
                await self.ask(turn_id, thread_id, "item/tool/call", CALL)

    async def ask(self, turn_id, thread_id, method, params):
        question = self.number()
        self.questions[question] = turn_id
        await self.server.ask(question, method, {"threadId": thread_id, "turnId": turn_id, **params})
        self.nursery.start_soon(self.await_answer, question, turn_id)

    async def await_answer(self, question, turn_id):
        await self.server.answer_to(question)
        assert self.questions.pop(question, None) is not None, "a withdrawn request was answered"
        await self.end(turn_id, "completed")

    async def on_turn_steer(self, asked, params):
        turn_id = params["expectedTurnId"]
        if turn_id not in self.running:
            await asked.refuse("no active turn to steer")
            return
        await asked.answer({"turnId": turn_id})
        await self.end(turn_id, "completed")

    async def on_turn_interrupt(self, asked, params):
        turn_id = params["turnId"]
        if turn_id not in self.running:
            await asked.refuse(
                f"expected active turn id {turn_id} but found {next(iter(self.running), 'none')}"
            )
            return
        await asked.answer({})
        await self.end(turn_id, "interrupted")

    async def start(self, turn_id, thread_id, root=None):
        self.running[turn_id] = (root or turn_id, thread_id)
        turn = {"id": turn_id, "rootTurnId": root or turn_id, "items": [], "status": "inProgress"}
        await self.server.notify("turn/started", {"threadId": thread_id, "turn": turn})

    async def end(self, turn_id, status):
        if turn_id not in self.running:
            return
        root, thread_id = self.running.pop(turn_id)
        for question, its_turn in list(self.questions.items()):
            if its_turn == turn_id:
                del self.questions[question]
                await self.server.notify(
                    "serverRequest/resolved", {"threadId": thread_id, "requestId": question}
                )
        self.ended[root] = status
        await self.server.end_turn(root, thread_id, status)

    # -- reviews, compactions, shell commands and goals

    async def on_review_start(self, asked, params):
        turn = {"id": "turn-a", "items": [], "status": "inProgress"}
        await asked.answer({"turn": turn, "reviewThreadId": params["threadId"]})
        await self.start("turn-b", params["threadId"], root="turn-a")
        await self.server.delta("text", turn_id="turn-a", thread_id=params["threadId"])

    async def on_thread_compact_start(self, asked, params):
        await asked.answer({})
        await self.start("turn-1", params["threadId"])

    async def on_thread_shellCommand(self, asked, params):
        await asked.answer({})
        await self.start("turn-1", params["threadId"])
        await self.server.item("started", SHELL_ITEM, thread_id=params["threadId"])

    async def on_thread_turns_list(self, asked, _):
        turns = [{"id": turn_id, "status": status, "items": []} for turn_id, status in self.ended.items()]
        await asked.answer({"data": turns, "nextCursor": None})

    async def on_thread_goal_get(self, asked, _):
        await asked.answer({"goal": None})

    async def on_thread_goal_clear(self, asked, _):
        await asked.answer({"cleared": self.goal is not None})
        self.goal = None

    async def on_thread_goal_set(self, asked, params):
        self.goal, thread_id = params["status"], params["threadId"]
        goal = {**GOAL, "threadId": thread_id, "status": self.goal}
        await asked.answer({"goal": goal})
        await self.server.notify("thread/goal/updated", {"threadId": thread_id, "goal": goal})
        if self.goal == "active":
            await self.start("goal-1", thread_id)
            await self.server.delta("one", turn_id="goal-1", thread_id=thread_id)
            await self.end("goal-1", "completed")
            await self.start("goal-2", thread_id)
            await self.server.delta("two", turn_id="goal-2", thread_id=thread_id)

    # -- commands and watches

    async def on_command_exec(self, asked, params):
        self.running[params["processId"]] = asked

    async def on_command_exec_write(self, asked, params):
        if (command := self.running.get(params["processId"])) is None:
            await asked.refuse("no active command/exec for process id")
            return
        await asked.answer({})
        output = {"processId": params["processId"], "stream": "stdout", "capReached": False}
        await self.server.notify("command/exec/outputDelta", {**output, "deltaBase64": "aGk="})
        if params.get("closeStdin"):
            del self.running[params["processId"]]
            await command.answer({"exitCode": 0, "stdout": "", "stderr": ""})

    async def on_command_exec_terminate(self, asked, params):
        if (command := self.running.pop(params["processId"], None)) is None:
            await asked.refuse("no active command/exec for process id")
            return
        await asked.answer({})
        await command.answer({"exitCode": 137, "stdout": "", "stderr": ""})

    async def on_fs_watch(self, asked, params):
        self.running[params["watchId"]] = asked
        await asked.answer({"path": params["path"]})
        await self.server.notify("fs/changed", {"watchId": params["watchId"], "changedPaths": ["/x"]})

    async def on_fs_unwatch(self, asked, params):
        self.running.pop(params["watchId"], None)
        await asked.answer({})


SHELL_ITEM = {
    "type": "commandExecution",
    "id": "item-1",
    "source": "userShell",
    "status": "inProgress",
    "command": "sleep 1",
    "commandActions": [],
    "cwd": "/",
    "aggregatedOutput": None,
}
GOAL = {"objective": "reach it", "tokensUsed": 0, "timeUsedSeconds": 0, "createdAt": 0, "updatedAt": 0}
