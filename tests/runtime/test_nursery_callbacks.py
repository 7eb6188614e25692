"""Callbacks and cleanup in the hidden nursery, under Ctrl-C and cancellation."""

import contextvars
import signal

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from runtime.close_sequences import Closing, FineError, assert_transparent, crash
from trio_codex._link.services import Services, open_services, wait_through_interrupts
from trio_codex.errors import InternalError

# -- callbacks -----------------------------------------------------------------------------------------------------

variable = contextvars.ContextVar("variable", default="outside")


async def test_a_callback_runs_in_a_copy_of_the_context_it_is_given():
    seen = []

    async def callback(value):
        seen.append(variable.get())
        variable.set(value)
        await trio.lowlevel.checkpoint()
        seen.append(variable.get())

    context = contextvars.copy_context()
    context.run(variable.set, "turn")
    with trio.fail_after(5):
        async with open_services(Closing()) as services:
            services.start_callback(context, callback, "changed")
            await wait_all_tasks_blocked()
            assert seen == ["turn", "changed"]
            assert context[variable] == "turn"
            seen.clear()
            services.start_callback(None, callback, "changed")
            await wait_all_tasks_blocked()
    assert seen == ["outside", "changed"]
    assert variable.get() == "outside"


async def test_a_callback_is_cancelled_with_the_scopes_around_the_client():
    ended = []

    async def callback():
        try:
            await trio.sleep_forever()
        finally:
            ended.append(close.runs)

    async def work():
        while not ended:
            await trio.lowlevel.checkpoint()

    close = Closing(work)
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_services(close) as services:
            services.start_callback(None, callback)
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert len(ended) == 1


async def test_a_callback_can_be_started_from_within_its_context():
    seen = []

    async def callback():
        seen.append(variable.get())

    context = contextvars.copy_context()
    context.run(variable.set, "turn")
    with trio.fail_after(5):
        async with open_services(Closing()) as services:
            context.run(services.start_callback, context, callback)
            await wait_all_tasks_blocked()
    assert seen == ["turn"]


async def test_a_callback_that_is_cancelled_while_the_client_closes_lets_the_cancellation_through():
    async def work():
        scope.cancel()
        await trio.lowlevel.checkpoint()

    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_services(Closing(work)) as services:
            services.start_callback(None, trio.sleep_forever)
            await wait_all_tasks_blocked()
        pytest.fail("the cancellation was swallowed")
    assert scope.cancelled_caught


async def test_a_task_that_crashes_in_the_nursery_cancels_the_body_and_is_an_internal_error():
    cause = ValueError("bug")
    with trio.fail_after(5), pytest.raises(InternalError) as caught:
        async with open_services(Closing()) as services:
            services.start_callback(None, crash, cause)
            await trio.sleep_forever()
    assert caught.value.__cause__ is cause
    assert_transparent(caught.value)


# -- cleanup -------------------------------------------------------------------------------------------------------


async def add(one, other):
    await trio.lowlevel.checkpoint()
    return one + other


async def test_finish_returns_the_result_of_the_cleanup():
    with trio.fail_after(5):
        async with open_services(Closing()) as services:
            assert await services.finish(add, 1, 2) == 3
            assert await services.finish(trio.lowlevel.checkpoint) is None


async def test_finish_raises_the_error_of_the_cleanup_and_the_client_survives():
    error = FineError()
    with trio.fail_after(5):
        async with open_services(Closing()) as services:
            with pytest.raises(FineError) as caught:
                await services.finish(crash, error)
            assert caught.value is error
            assert services.failures == []
            assert await services.finish(add, 1, 2) == 3


async def test_finish_completes_although_everything_around_it_is_cancelled(autojump_clock):
    steps = []

    async def cleanup():
        steps.append("begin")
        await trio.sleep(5)
        steps.append("end")
        return "result"

    with trio.move_on_after(1) as scope:
        async with open_services(Closing()) as services:
            try:
                await trio.sleep_forever()
            finally:
                assert await services.finish(cleanup) == "result"
                steps.append("after")
    assert scope.cancelled_caught
    assert steps == ["begin", "end", "after"]
    assert trio.current_time() == pytest.approx(6)


async def test_an_interrupted_finish_is_reported_as_such(autojump_clock):
    outcomes = []

    async def user(services):
        try:
            outcomes.append(await services.finish(add_slowly, 1, 2))
        except BaseException as exc:
            outcomes.append(type(exc))
            raise

    async def add_slowly(one, other):
        await trio.sleep(2)
        return one + other

    async with trio.open_nursery() as nursery:
        services = Services(nursery)
        nursery.start_soon(user, services)
        await wait_all_tasks_blocked()
        services.stop()
    assert outcomes in ([3], [trio.Cancelled])


def interrupted(async_fn):
    """Run a function, and return the KeyboardInterrupt that it raises, or None."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        trio.run(async_fn)
    except KeyboardInterrupt as exc:
        return exc
    return None


def test_ctrl_c_while_the_body_waits_raises_keyboard_interrupt_after_the_close_sequence():
    close = Closing(trio.lowlevel.checkpoint)
    seen = []

    async def main():
        with trio.fail_after(5):
            async with open_services(close) as services:
                services.start_service(trio.sleep_forever)
                signal.raise_signal(signal.SIGINT)
                try:
                    await trio.sleep_forever()
                except KeyboardInterrupt as exc:
                    seen.append(exc)
                    raise

    caught = interrupted(main)
    assert caught is not None
    assert not seen or caught is seen[0]
    assert close.runs == 1
    assert_transparent(caught)


def test_ctrl_c_during_the_close_sequence_is_raised_after_it():
    steps = []

    async def work():
        signal.raise_signal(signal.SIGINT)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        steps.append("closed")

    close = Closing(work)

    async def main():
        with trio.fail_after(5):
            async with open_services(close) as services:
                services.start_service(trio.sleep_forever)

    assert interrupted(main) is not None
    assert steps == ["closed"]
    assert close.runs == 1


def test_ctrl_c_during_finish_is_raised_after_it():
    steps = []

    async def cleanup():
        signal.raise_signal(signal.SIGINT)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        steps.append("cleaned up")

    async def main():
        with trio.fail_after(5):
            async with open_services(Closing()) as services:
                try:
                    await services.finish(cleanup)
                except KeyboardInterrupt:
                    steps.append("interrupted")
                    raise

    assert interrupted(main) is not None
    assert steps == ["cleaned up", "interrupted"]


def test_ctrl_c_and_cancellation_together_do_not_cut_finish_short():
    steps = []

    async def cleanup():
        scope.cancel()
        signal.raise_signal(signal.SIGINT)
        await wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        steps.append("cleaned up")

    scope = trio.CancelScope()

    async def main():
        with trio.fail_after(5), scope:
            async with open_services(Closing()) as services:
                await services.finish(cleanup)

    assert interrupted(main) is not None
    assert steps == ["cleaned up"]


def test_ctrl_c_takes_precedence_over_a_failing_cleanup():
    async def cleanup():
        signal.raise_signal(signal.SIGINT)
        await wait_all_tasks_blocked()
        raise FineError

    async def main():
        with trio.fail_after(5):
            async with open_services(Closing()) as services:
                await services.finish(cleanup)

    assert interrupted(main) is not None


def test_ctrl_c_between_the_body_and_the_close_sequence_does_not_skip_it(monkeypatch):
    start_service = Services.start_service

    def tripwire(services, *args):
        if left:
            signal.raise_signal(signal.SIGINT)
        return start_service(services, *args)

    left = False
    monkeypatch.setattr(Services, "start_service", tripwire)
    close = Closing()

    async def main():
        nonlocal left
        async with open_services(close) as services:
            services.start_service(trio.sleep, 1)
            left = True

    assert interrupted(main) is not None
    assert close.runs == 1


def test_ctrl_c_during_the_wait_is_returned_instead_of_raised():
    class Tripwire:
        calls = 0

        def is_set(self):
            self.calls += 1
            if self.calls == 1:
                signal.raise_signal(signal.SIGINT)
            return self.calls > 2

        async def wait(self):
            await trio.lowlevel.checkpoint()

    async def main():
        with trio.fail_after(5):
            assert isinstance(await wait_through_interrupts(Tripwire()), KeyboardInterrupt)
            raise SystemExit

    with pytest.raises(SystemExit):
        trio.run(main)


async def test_waiting_for_a_set_event_returns_no_interrupt():
    done = trio.Event()
    done.set()
    assert await wait_through_interrupts(done) is None


async def test_a_shielded_wait_is_not_cancelled():
    done = trio.Event()
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            scope.cancel()

            @nursery.start_soon
            async def later():
                with trio.CancelScope(shield=True):
                    await wait_all_tasks_blocked()
                done.set()

            assert await wait_through_interrupts(done) is None
            assert done.is_set()
