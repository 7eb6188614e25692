"""Random interleavings of events around server requests: at most one answer and one record each, no leftovers.

An example is a list of actions that one Trio run performs. An action may be followed directly by the
next one, so that the two race; by ``flush``, which delivers the server's pending messages in one chunk; or by ``settle``,
which waits until all tasks are blocked.
"""

from contextlib import suppress

import attrs
import msgspec
import trio
from hypothesis import given
from hypothesis import strategies as st
from test_server_requests import ASKED
from trio.testing import wait_all_tasks_blocked

from trio_codex import Policy, errors, policies, wire
from trio_codex.policies._policy import KINDS as CALLBACKS
from trio_codex.testing import fake_codex
from trio_codex.testing._fake import DEFAULTS

THREADS = ["thread-1", "thread-2"]


@attrs.frozen
class Method:
    """A request.

    Attributes:
        key: The member that distinguishes requests.
        decision: The decision that allows it.
        answer: That decision on the wire.
    """

    key: str
    decision: policies.AnyDecision
    answer: wire.JSON


METHODS = {
    "item/commandExecution/requestApproval": Method("itemId", policies.accept(), {"decision": "accept"}),
    "item/tool/requestUserInput": Method(
        "itemId", policies.answers({"colour": "Blue"}), {"answers": {"colour": {"answers": ["Blue"]}}}
    ),
    "item/tool/call": Method(
        "callId",
        policies.ToolResult.of_text("sunny"),
        {"contentItems": [{"type": "inputText", "text": "sunny"}], "success": True},
    ),
    "account/chatgptAuthTokens/refresh": Method(
        "previousAccountId",
        policies.AuthTokens(access_token="secret", account_id="a"),
        {"accessToken": "secret", "chatgptAccountId": "a", "chatgptPlanType": None},
    ),
}
"""One method of each kind: its refusal interrupts the turn, or does not, or the request belongs to no turn."""

threads = st.sampled_from([*THREADS, "of nobody"])
numbers = st.integers(0, 100)
ends = st.sampled_from(["obeys", "decides", "fails"])
ways = st.sampled_from(["accept", "decline", "cancel", "abstain", "nonsense", "raise"])
asks = st.tuples(st.just("ask"), st.sampled_from(list(METHODS)), threads, ends)
decides = st.tuples(st.just("decide"), numbers, ways)
others = st.one_of(
    st.tuples(st.just("withdraw"), numbers),
    st.tuples(st.just("start_turn"), st.sampled_from(THREADS)),
    st.tuples(st.sampled_from(["interrupt", "leave", "end_turn"]), st.sampled_from(THREADS)),
)
scripts = st.lists(
    st.tuples(st.one_of(asks, decides, others), st.sampled_from(["", "flush", "settle", "settle"])),
    min_size=10,
    max_size=40,
)
"""The possible actions. Numbers select one of the open requests."""


@attrs.define(eq=False)
class Ask:
    """A request from the server.

    Attributes:
        when_cancelled: What its callback does when cancelled: end, decide anyway, or fail.
        let_happen: Whether a callback allowed it.
        gone: Whether the server withdrew it and notified the client.
        replies: The client's answers.
    """

    id: int | str
    key: str
    method: str
    when_cancelled: str
    let_happen: bool = False
    withdrawn: bool = False
    gone: bool = False
    replies: list = attrs.Factory(list)


class Gate:
    """Where a callback waits for instructions."""

    def __init__(self):
        self.way = None
        self.opened = trio.Event()


class Machine:
    """Performs the actions, and records the outcome."""

    def __init__(self, codex, server, nursery):
        self.codex, self.server, self.nursery = codex, server, nursery
        self.serving = trio.CancelScope()
        self.asks = []
        self.at_it = {}
        self.threads = {}
        self.scopes = {}
        self.turns = {}
        self.turns_started = 0
        self.held_back = []
        take, send_line, one_at_a_time = server._take, server.send_line, trio.Lock()

        async def sending(line):
            async with one_at_a_time:
                await send_line(line)

        async def recording(message):
            if "method" not in message:
                self.on_reply(message)
            await take(message)

        server._take, server.send_line = recording, sending

    async def open_threads(self):
        for thread_id in THREADS:
            opened = DEFAULTS["thread/start"]
            self.server.give("thread/start", {**opened, "thread": {**opened["thread"], "id": thread_id}})
            self.threads[thread_id] = await self.codex.thread_start(policy=self.policy())
            self.start_turn(thread_id)
        self.nursery.start_soon(self.serve)

    def policy(self):
        return Policy(**dict.fromkeys(CALLBACKS, self.callback))

    # -- the server ------------------------------------------------------------------------------------------------

    async def serve(self):
        """Handle the client's requests: start turns, and end interrupted ones."""
        with self.serving, suppress(trio.BrokenResourceError):
            while True:
                asked = await self.server.expect_any()
                thread_id = asked.params["threadId"]
                if asked.method == "turn/start":
                    self.turns_started += 1
                    turn_id = f"turn-{self.turns_started}"
                    await asked.answer({"turn": {"id": turn_id, "items": [], "status": "inProgress"}})
                    await self.server.start_turn(turn_id, thread_id)
                else:
                    assert asked.method == "turn/interrupt"
                    await asked.answer({})
                    await self.server.end_turn(asked.params["turnId"], thread_id, "interrupted")

    def on_reply(self, message):
        ask = next(ask for ask in reversed(self.asks) if ask.id == message["id"])
        assert not ask.gone, "it was withdrawn"
        ask.replies.append(message)
        assert len(ask.replies) == 1
        if message.get("result") == METHODS[ask.method].answer:
            assert ask.let_happen, "nobody said so"

    @property
    def open_asks(self):
        return [ask for ask in self.asks if not (ask.replies or ask.withdrawn)]

    def free_id(self):
        """Return an id that is not in use on either side."""
        taken = {ask.id for ask in self.asks if not (ask.replies or ask.gone)}
        return next(free for free in (0, "0", 1, "", *range(2, 100)) if free not in taken)

    def ask(self, method, thread_id, when_cancelled):
        ask = Ask(self.free_id(), f"ask-{len(self.asks)}", method, when_cancelled)
        self.asks.append(ask)
        turn = self.turns.get(thread_id)
        ids = {"threadId": thread_id, "turnId": "gone" if turn is None else turn.id}
        params = {key: ids.get(key, value) for key, value in ASKED[method].items()}
        self.held_back.append(
            {"id": ask.id, "method": method, "params": {**params, METHODS[method].key: ask.key}}
        )

    def withdraw(self, number):
        if open_asks := self.open_asks:
            ask = open_asks[number % len(open_asks)]
            ask.withdrawn = True
            params = {"threadId": "thread-1", "requestId": ask.id}
            self.held_back.append({"method": "serverRequest/resolved", "params": params})

    def end_turn(self, thread_id):
        if (turn := self.turns.get(thread_id)) is not None:
            ended = {"id": turn.id, "items": [], "status": "completed"}
            params = {"threadId": thread_id, "turn": ended}
            self.held_back.append({"method": "turn/completed", "params": params})

    async def flush(self):
        lines, self.held_back = self.held_back, []
        if lines:
            await self.server.send_line(b"\n".join(map(msgspec.json.encode, lines)))

    async def settle(self):
        await self.flush()
        await wait_all_tasks_blocked()
        for ask in self.asks:
            ask.gone |= ask.withdrawn
        session = self.codex._session
        assert session.connection._rpc.server_requests == session.router._dispatcher._open.keys()

    # -- the client ------------------------------------------------------------------------------------------------

    async def callback(self, request):
        key = key_of(request)
        [ask] = [ask for ask in self.asks if ask.key == key]
        gate = self.at_it[key] = Gate()
        way = "accept" if ask.when_cancelled == "decides" else "raise"
        try:
            await gate.opened.wait()
            way = gate.way
        except trio.Cancelled:
            if ask.when_cancelled == "obeys":
                raise
        finally:
            del self.at_it[key]
        match way:
            case "raise":
                raise RuntimeError("boom")
            case "accept":
                ask.let_happen = True
                return METHODS[ask.method].decision
            case "nonsense":
                return 7
            case _:
                return getattr(policies, way)()

    def decide(self, number, way):
        gates = [gate for gate in self.at_it.values() if not gate.opened.is_set()]
        if gates:
            gate = gates[number % len(gates)]
            gate.way = way
            gate.opened.set()

    def start_turn(self, thread_id):
        if thread_id not in self.scopes:
            self.scopes[thread_id] = trio.CancelScope()
            self.nursery.start_soon(self.run_turn, thread_id)

    async def run_turn(self, thread_id):
        try:
            with self.scopes[thread_id]:
                async with self.threads[thread_id].turn("hi", policy=self.policy()) as turn:
                    self.turns[thread_id] = turn
                    await turn.wait()
        except (errors.PolicyError, errors.TurnLost, errors.ConnectionBroken, errors.ConnectionClosed):
            await trio.lowlevel.checkpoint()
        finally:
            self.turns.pop(thread_id, None)
            del self.scopes[thread_id]

    def leave(self, thread_id):
        if thread_id in self.scopes:
            self.scopes[thread_id].cancel()

    def interrupt(self, thread_id):
        if (turn := self.turns.get(thread_id)) is not None:
            self.nursery.start_soon(self.try_to_interrupt, turn)

    async def try_to_interrupt(self, turn):
        try:
            await turn.interrupt()
        except (errors.ConnectionBroken, errors.ConnectionClosed):
            await trio.lowlevel.checkpoint()

    # -- running an example
    # -------------------------------------------------------------------------------------------------

    async def finish(self, ending):
        """End the client in one of the possible ways."""
        if ending in ("close", "leave"):
            await self.settle()
        else:
            await self.flush()
        if ending == "leave":
            for scope in list(self.scopes.values()):
                scope.cancel()
            await wait_all_tasks_blocked()
        elif ending == "disconnect":
            self.serving.cancel()
            await self.server.hang_up()
            await wait_all_tasks_blocked()


async def interpret(script, ending):
    machines = []

    async def callback(request):
        return await machines[0].callback(request)

    by_client = Policy(**dict.fromkeys(CALLBACKS, callback))
    with trio.fail_after(5):
        # A server that hangs up ignores messages still in flight to it.
        strict = ending != "disconnect"
        async with (
            fake_codex(policy=by_client, strict=strict) as (codex, server),
            trio.open_nursery() as nursery,
        ):
            machines.append(machine := Machine(codex, server, nursery))
            await machine.open_threads()
            await machine.settle()
            for (action, *arguments), rest in script:
                getattr(machine, action)(*arguments)
                if rest:
                    await getattr(machine, rest)()
            await machine.finish(ending)
            await codex.aclose()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    check(machine, ending)


def check(machine, ending):
    session = machine.codex._session
    assert machine.at_it == {}
    assert machine.scopes == {}
    assert session.router._dispatcher._open == {}
    assert {
        thread_id: session.threads.thread(thread_id).held_requests for thread_id in THREADS
    } == dict.fromkeys(THREADS, 0)
    records = {}
    for record in machine.codex.decisions:
        assert records.setdefault(key_of(record.request), record) is record, "the request has two records"
    if ending != "close at once":
        assert records.keys() == {ask.key for ask in machine.asks}
    for ask in machine.asks:
        if (record := records.get(ask.key)) is None:
            assert not ask.replies
        elif ending in ("close", "leave"):
            assert (record.outcome == "withdrawn") == (not ask.replies)
        elif ask.replies:
            assert record.outcome != "withdrawn"
        if ask.replies:
            let_happen = ask.replies[0].get("result") == METHODS[ask.method].answer
            assert (record.decision == METHODS[ask.method].decision) == let_happen


def key_of(request):
    """Return the key of a request from the member that its method uses."""
    members = ("item_id", "call_id", "previous_account_id")
    return next(key for member in members if (key := getattr(request, member, None)) is not None)


@given(scripts, st.sampled_from(["close", "close at once", "leave", "disconnect"]))
def test_in_any_interleaving_a_request_gets_at_most_one_answer_and_one_record(script, ending):
    trio.run(interpret, script, ending)
