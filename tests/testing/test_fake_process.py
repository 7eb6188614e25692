"""The scripted server as a process, with a real pid and the faults that only a process can have."""

import os
import signal
import sys

import attrs
import pytest
import trio
import trio.testing

from faults.observed_session import left_of
from trio_codex import CodexConfig, TurnStatus, errors, open_codex
from trio_codex.instruments import Instrument
from trio_codex.testing import assert_nothing_left, fake_codex, fake_process, sweep_cancellation
from trio_codex.testing._fake_process import PROCESS_FAULTS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")

IMPATIENT = CodexConfig(start_timeout=5, request_timeout=0.3, stop_grace=0.2, interrupt_grace=0.2)


class Exits(Instrument):
    def __init__(self):
        self.returncodes = []

    def process_exited(self, process):
        self.returncodes.append(process.returncode)


@pytest.fixture(autouse=True)
async def bounded():
    with trio.fail_after(15):
        yield


async def test_a_turn_is_played_by_a_process_that_ends_with_its_stdin():
    async with fake_codex(process=True, version="0.162.1") as (codex, server):
        assert codex.metadata.server_version == "0.162.1"
        os.kill(codex.pid, 0)
        thread = await codex.thread_start()
        async with trio.open_nursery() as nursery:

            async def serve():
                await server.accept_turn()
                await server.delta("x" * 1_000_000)
                await server.end_turn()

            nursery.start_soon(serve)
            async with thread.turn("y" * 1_000_000) as turn:
                assert len("".join([piece async for piece in turn.text()])) == 1_000_000
    assert turn.result.status is TurnStatus.completed
    with pytest.raises(ProcessLookupError):
        os.kill(codex.pid, 0)


async def test_both_sides_can_send_much_at_once():
    async with fake_codex(process=True) as (codex, server), trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(server.notify, "configWarning", {"summary": "x" * 2_000_000})
            nursery.start_soon(codex.request, "thread/list", {"searchTerm": "y" * 2_000_000})
        for _ in range(4):
            asked = await server.expect("thread/list")
            assert len(asked.params["searchTerm"]) == 2_000_000
            await asked.answer({})


async def test_orders_from_several_tasks_before_the_process_starts_are_all_carried_out():
    async with fake_process(strict=False) as (config, server), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(server.notify, "configWarning", {"summary": "x" * 1_000_000})
            nursery.start_soon(server.strike, "flood_stderr")
        await trio.testing.wait_all_tasks_blocked()
        async with open_codex(config) as codex:
            for _ in range(3):
                nursery.start_soon(server.notify, "configWarning", {"summary": "x" * 1_000_000})
                nursery.start_soon(server.strike, "flood_stderr", "lines")
            await trio.testing.wait_all_tasks_blocked()
            await codex.thread_start()


async def test_an_unexpected_or_invalid_request_fails_the_test():
    with pytest.raises(AssertionError, match="unexpected requests: model/list"):
        async with fake_process(IMPATIENT) as (config, _), open_codex(config) as codex:
            with pytest.raises(errors.RequestTimeout):
                await codex.models()
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: ASYNC401  # at any depth of groups
        async with fake_codex(process=True) as (codex, _):
            await codex.request("turn/start", {"color": 1})
    assert caught.group_contains(AssertionError, match="turn/start")


async def test_the_script_continues_with_the_next_process():
    async with fake_process(IMPATIENT) as (config, server):
        server.fault("kill", moment="during")
        with pytest.raises(errors.StartError) as failed:
            async with open_codex(config):
                pytest.fail("it never came up")
        assert failed.value.returncode == -signal.SIGKILL
        async with open_codex(config) as codex:
            await server.strike("exit", 3)
            assert (await codex.wait_closed()).returncode == 3
            with pytest.raises(trio.BrokenResourceError):
                await server.notify("configWarning", {"summary": "nobody hears"})
        async with open_codex(config) as codex:
            assert (await codex.thread_start()).id == "thread-1"


@pytest.mark.parametrize("moment", ["before", "during", "after"])
async def test_a_process_fault_happens_before_during_or_after_a_line(moment):
    async with fake_codex(process=True) as (codex, server):
        async with codex.events() as events, trio.open_nursery() as nursery:
            server.fault("pause", moment=moment)
            nursery.start_soon(server.notify, "configWarning", {"summary": "soon"})
            assert (await events.__anext__()).method == "configWarning"
            server.fault("exit", 7, moment=moment)
            nursery.start_soon(server.notify, "configWarning", {"summary": "late"})
            late = 0
            with pytest.raises(errors.ServerExited) as exited:
                async for event in events:
                    late += event.method == "configWarning"
        assert exited.value.returncode == 7
        assert late == (moment == "after")


async def test_a_fault_can_happen_before_any_input_or_at_eof():
    # On a busy machine the process takes longer to exit on its own.
    async with fake_process(attrs.evolve(IMPATIENT, stop_grace=5)) as (config, server):
        await server.strike("exit", 4)
        with pytest.raises(errors.StartError) as failed:
            async with open_codex(config):
                pytest.fail("it never came up")
        assert failed.value.returncode == 4
        await server.strike("exit", 5, at_eof=True)
        exits = Exits()
        async with open_codex(config, instruments=[exits]) as codex:
            await codex.thread_start()
        async with open_codex(config, instruments=[exits]):
            await server.strike("flood_stderr", "lines")
            await server.strike(
                "exit", 6
            )  # ordered before stdin ends, and so carried out before the process exits
        assert exits.returncodes == [5, 6]


OUTCOMES = {
    "exit": errors.ServerExited,
    "kill": errors.ServerExited,
    "stop": errors.RequestTimeout,
    "hang": errors.RequestTimeout,
    "deaf": errors.RequestTimeout,
    "close_stdin": errors.RequestTimeout,
    "close_stdout": errors.ConnectionBroken,
    "pause": list,
    "slow": list,
    "stubborn": list,
    "grandchild": list,
    "flood_stderr": list,
}
"""The outcome of a request that is sent after the process fault."""


async def test_every_process_fault_is_tested():
    assert OUTCOMES.keys() == PROCESS_FAULTS


@pytest.mark.parametrize("fault", OUTCOMES)
async def test_each_process_fault_has_the_expected_effect_on_a_request(fault):
    times_out = OUTCOMES[fault] is errors.RequestTimeout
    patience = IMPATIENT if times_out else attrs.evolve(IMPATIENT, request_timeout=5)
    async with fake_process(patience, strict=False) as (config, server), open_codex(config) as codex:
        server.give("model/list", {"data": []})
        await server.strike("pause")  # so that the fault has happened when the request arrives
        await server.strike(fault)
        await server.notify("configWarning", {"summary": "said before the request is read"})
        try:
            outcome = (await codex.models()).data
        except errors.CodexError as exc:
            outcome = exc
    assert type(outcome) is OUTCOMES[fault]


async def test_a_process_that_reads_nothing_can_still_write_slowly():
    async with fake_codex(IMPATIENT, process=True) as (codex, server), codex.events() as events:
        for fault, seconds in (("deaf", 0), ("pause", 0.1), ("slow", 0.1)):
            start = trio.current_time()
            await server.strike(fault)
            await server.notify("configWarning", {"summary": "x" * 3200})  # a hundred writes, if it is slow
            assert (await events.__anext__()).method == "configWarning"
            assert trio.current_time() - start >= seconds


@pytest.mark.parametrize(
    ("how", "returncode"),
    [(["exit", 0], 0), (["stubborn"], -signal.SIGKILL), (["hang"], -signal.SIGTERM)],
    ids=["it obeys", "it ignores everything", "it does not read"],
)
async def test_a_process_with_any_fault_ends_with_its_client(how, returncode):
    exits = Exits()
    async with fake_process(IMPATIENT) as (config, server):
        await server.strike(*how, at_eof=True)
        async with open_codex(config, instruments=[exits]) as codex:
            await codex.thread_start()
    assert exits.returncodes == [returncode]


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "SEGV"])
async def test_a_process_dies_by_the_given_signal(name):
    async with fake_codex(process=True) as (codex, server):
        await server.strike("stubborn")
        await server.strike("kill", name)
        assert (await codex.wait_closed()).returncode == -getattr(signal, f"SIG{name}")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("kind", ["child", "session", "daemon"])
async def test_a_grandchild_holds_the_processs_streams_and_is_killed_with_it(kind):
    cookie = f"grandchild-{os.getpid()}-{kind}"
    config = CodexConfig(env={"COOKIE": cookie}, stop_grace=0.2)
    async with fake_codex(config, process=True) as (codex, server):
        server.give("model/list", {"data": []})
        before = {pid for pid, _ in left_of(cookie)}
        await server.strike("grandchild", kind)
        await codex.models()
        (grandchild,) = {pid for pid, _ in left_of(cookie)} - before
        for fd in range(3):
            assert os.readlink(f"/proc/{grandchild}/fd/{fd}") == os.readlink(f"/proc/{codex.pid}/fd/{fd}")
        assert (os.getsid(grandchild) == os.getsid(codex.pid)) is (kind == "child")
        await server.strike("exit", 3)
        assert (await codex.wait_closed()).returncode == 3
    assert left_of(cookie) == []


@pytest.mark.parametrize(("kind", "shown"), [("line", "xxx"), ("lines", "x\nx"), ("bytes", "\ufffd")])
async def test_a_flood_on_stderr_has_the_given_content(kind, shown):
    async with fake_codex(process=True) as (codex, server):
        await server.strike("flood_stderr", kind)
        await server.strike("exit", 3)
        assert shown in (await codex.wait_closed()).stderr_tail


@pytest.mark.long
async def test_cancelling_fake_process_at_any_checkpoint_leaves_nothing_behind():
    async def scenario(cancellation):
        async with assert_nothing_left():
            with cancellation:
                async with (
                    fake_process(IMPATIENT, strict=False) as (config, server),
                    open_codex(config) as codex,
                ):
                    await codex.thread_start()
                    await server.strike("exit", 3, at_eof=True)

    sweep = await sweep_cancellation(scenario)
    assert sweep.tried > 20


async def test_unknown_faults_and_faults_that_need_a_process_are_rejected():
    async with fake_codex() as (_, server):
        with pytest.raises(ValueError, match="no fault 'explode'"):
            server.fault("explode")
        with pytest.raises(ValueError, match="needs a process"):
            server.fault("exit", 3)
        with pytest.raises(ValueError, match="needs a process"):
            await server.strike("exit", 3)
        with pytest.raises(ValueError, match="no process fault 'junk'"):
            await server.strike("junk")
        with pytest.raises(ValueError, match="does not take 'twice'"):
            server.fault("junk", "twice")
        with pytest.raises(ValueError, match="applies to a whole line"):
            server.fault("junk", moment="during")
    async with fake_process() as (_, server):
        for fault, argument in (("exit", "3"), ("kill", "SIGKILL"), ("grandchild", "cousin"), ("hang", 5)):
            with pytest.raises(ValueError, match=f"'{fault}' does not take"):
                await server.strike(fault, argument)
