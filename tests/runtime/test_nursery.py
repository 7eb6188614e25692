"""The nursery that nobody sees: what leaves it, in what order it closes, and what survives Ctrl-C and cancellation."""

# what leaves a whole nursery is the point here

import contextlib
import contextvars
import pickle
import signal

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_codex._link.services import Services, open_services, wait_through_interrupts
from trio_codex.errors import InternalError


class Closing:
    """A close sequence that records that it ran."""

    def __init__(self, work=None):
        self.runs = 0
        self.work = work

    async def __call__(self, services):
        self.runs += 1
        try:
            if self.work is not None:
                await self.work()
        finally:
            services.stop()


def contexts(error):
    while error is not None:
        yield error
        error = error.__context__


def assert_transparent(error):
    """No group got into the chain of contexts, and it can be pickled."""
    assert not any(isinstance(link, BaseExceptionGroup) for link in contexts(error.__context__))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert repr(again) == repr(error)


async def crash(error):
    await trio.lowlevel.checkpoint()
    raise error


class FineError(Exception):
    """The body's own."""


BODY_ERRORS = {
    "ValueError": lambda: ValueError("x"),
    "a custom one": lambda: FineError(1, 2),
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "StopIteration": lambda: StopIteration(5),
    "StopAsyncIteration": StopAsyncIteration,
    "RuntimeError": lambda: RuntimeError("y"),
    "GeneratorExit": GeneratorExit,
    "ExceptionGroup": lambda: ExceptionGroup("mine", [ValueError("a"), ExceptionGroup("in", [TypeError()])]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("mine", [KeyboardInterrupt(), ValueError("a")]),
}


@pytest.fixture(params=BODY_ERRORS)
def error(request):
    return BODY_ERRORS[request.param]()


# -- what the body does --------------------------------------------------------------------------------------------


async def test_a_body_that_returns_is_followed_by_the_close_sequence_and_nothing_is_raised():
    close = Closing()
    with trio.fail_after(5):
        async with open_services(close) as services:
            services.start_service(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            assert close.runs == 0
    assert close.runs == 1


async def test_what_the_body_raises_leaves_as_itself(error):
    close = Closing()
    caught = None
    with trio.fail_after(5):
        try:
            async with open_services(close) as services:
                services.start_service(trio.sleep_forever)
                await trio.lowlevel.checkpoint()
                raise error
        except BaseException as exc:
            caught = exc
    assert caught is error
    assert close.runs == 1
    assert not hasattr(error, "__notes__")
    assert error.__cause__ is None
    assert_transparent(error)


async def test_the_cause_and_the_context_that_the_body_gave_its_exception_stay():
    with trio.fail_after(5), pytest.raises(ValueError, match="x") as caught:
        async with open_services(Closing()):
            try:
                raise KeyError(1)
            except KeyError as exc:
                raise ValueError("x") from exc
    assert type(caught.value.__cause__) is KeyError
    assert caught.value.__context__ is caught.value.__cause__
    assert_transparent(caught.value)


async def test_an_outer_cancellation_reaches_the_body_and_passes_through():
    close = Closing(trio.lowlevel.checkpoint)
    with trio.fail_after(5):
        with trio.CancelScope() as scope:
            async with open_services(close) as services:
                services.start_service(trio.sleep_forever)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
    assert close.runs == 1


async def test_an_outer_deadline_reaches_the_body_and_passes_through(autojump_clock):
    close = Closing()
    with trio.move_on_after(1) as scope:
        async with open_services(close) as services:
            services.start_service(trio.sleep_forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(1)
    assert close.runs == 1


async def test_a_cancellation_that_comes_while_it_closes_passes_through_after_the_close_sequence():
    async def work():
        scope.cancel()
        await trio.lowlevel.checkpoint()

    close = Closing(work)
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_services(close):
            pass
        assert close.runs == 1
        await trio.lowlevel.checkpoint()
        pytest.fail("the cancellation got lost")
    assert scope.cancelled_caught


async def test_a_body_that_swallows_the_cancellation_and_returns_does_not_hide_it():
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_services(Closing()):
            scope.cancel()
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        pytest.fail("the cancellation got lost")
    assert scope.cancelled_caught


async def test_a_body_with_a_nursery_of_its_own_is_cancelled_without_a_trace():
    with trio.fail_after(5):
        with trio.CancelScope() as scope:
            async with open_services(Closing()), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_a_body_that_fails_while_it_is_cancelled_leaves_with_its_own_error():
    error = FineError()
    with trio.fail_after(5), pytest.raises(FineError) as caught, trio.CancelScope() as scope:
        async with open_services(Closing()):
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                raise error
    assert caught.value is error
    assert_transparent(error)


# -- services ------------------------------------------------------------------------------------------------------


async def test_services_outlive_the_bodys_deadline_and_can_still_do_io(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    said = []
    wake = trio.Event()

    async def service():
        await wake.wait()
        await trio.sleep(3)
        await ours.send_all(b"interrupt")

    async def work():
        wake.set()
        said.append(await theirs.receive_some())

    with trio.move_on_after(1) as scope:
        async with open_services(Closing(work)) as services:
            services.start_service(service)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert said == [b"interrupt"]
    assert trio.current_time() == pytest.approx(4)


async def test_a_service_that_returns_ends_nothing():
    with trio.fail_after(5):
        async with open_services(Closing()) as services:
            services.start_service(trio.lowlevel.checkpoint)
            await wait_all_tasks_blocked()


async def test_a_service_can_be_cancelled_by_its_own_scope():
    with trio.fail_after(5):
        async with open_services(Closing()) as services:
            scope = services.start_service(trio.sleep_forever)
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert scope.cancelled_caught


async def test_a_service_that_fails_cancels_the_body_and_leaves_as_an_internal_error(autojump_clock):
    cause = ValueError("bug")
    close = Closing()
    with trio.fail_after(5), pytest.raises(InternalError) as caught:
        async with open_services(close) as services:
            services.start_service(trio.sleep_forever)
            services.start_service(crash, cause)
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                assert close.runs == 0
                raise
    assert trio.current_time() == 0
    assert caught.value.__cause__ is cause
    assert close.runs == 1
    assert_transparent(caught.value)


async def test_a_body_that_fails_in_part_while_it_is_cancelled_for_a_service_leaves_without_the_cancellation():
    async def fail_in_cleanup():
        try:
            await trio.sleep_forever()
        finally:
            raise FineError

    with trio.fail_after(5), pytest.RaisesGroup(FineError) as caught:
        async with open_services(Closing()) as services, trio.open_nursery() as nursery:
            nursery.start_soon(fail_in_cleanup)
            nursery.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
            services.start_service(crash, ValueError("the bug"))
            await trio.sleep_forever()
    assert any("the bug" in note for note in caught.value.__notes__)


async def test_a_service_that_fails_is_told_even_if_the_body_returns():
    cause = ValueError("bug")
    with trio.fail_after(5), pytest.raises(InternalError) as caught:
        async with open_services(Closing()) as services:
            services.start_service(crash, cause)
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep_forever()
    assert caught.value.__cause__ is cause


async def test_the_bodys_error_wins_over_a_failed_service_and_notes_it(error):
    close = Closing()
    caught = None
    with trio.fail_after(5):
        try:
            async with open_services(close) as services:
                services.start_service(crash, ValueError("the bug"))
                with trio.CancelScope(shield=True):
                    await wait_all_tasks_blocked()
                raise error
        except BaseException as exc:
            caught = exc
    assert caught is error
    assert close.runs == 1
    assert any("the bug" in note for note in error.__notes__)
    assert_transparent(error)


async def test_two_failed_services_are_one_internal_error_that_names_both():
    with trio.fail_after(5), pytest.raises(InternalError) as caught:
        async with open_services(Closing()) as services:
            services.start_service(crash, ValueError("one"))
            services.start_service(crash, TypeError("two"))
            await trio.sleep_forever()
    cause = caught.value.__cause__
    other = {"ValueError": "two", "TypeError": "one"}[type(cause).__name__]
    assert any(other in note for note in caught.value.__notes__)


async def test_a_service_that_fails_while_it_is_stopped_is_told():
    async def service():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("late bug")

    with trio.fail_after(5), pytest.raises(InternalError) as caught:
        async with open_services(Closing()) as services:
            services.start_service(service)
            await wait_all_tasks_blocked()
    assert type(caught.value.__cause__) is ValueError


@pytest.mark.parametrize("exit_request", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("body_fails", [True, False])
async def test_an_exit_request_of_a_task_wins_over_everything(exit_request, body_fails):
    close, error = Closing(), exit_request()
    caught = None
    with trio.fail_after(5):
        try:
            async with open_services(close) as services:
                services.start_callback(None, crash, error)
                try:
                    await trio.sleep_forever()
                finally:
                    if body_fails:
                        raise FineError("mine")
        except BaseException as exc:
            caught = exc
    assert caught is error
    assert close.runs == 1
    assert any("mine" in note for note in getattr(error, "__notes__", ())) == body_fails


async def test_a_close_sequence_that_fails_is_an_internal_error():
    cause = ValueError("close")

    async def fail():
        raise cause

    close = Closing(fail)
    with trio.fail_after(5), pytest.raises(InternalError) as caught:
        async with open_services(close) as services:
            services.start_service(trio.sleep_forever)
    assert caught.value.__cause__ is cause
    assert close.runs == 1


async def test_a_close_sequence_that_fails_before_its_last_step_does_not_hang_the_client(autojump_clock):
    async def close(services):
        raise ValueError("too early")

    with pytest.raises(InternalError) as caught:
        async with open_services(close) as services:
            services.start_service(trio.sleep, 1000)
    assert type(caught.value.__cause__) is ValueError
    assert trio.current_time() < 1


async def test_in_a_nursery_of_the_caller_a_failed_service_crashes_it_as_an_internal_error():
    cause = ValueError("bug")
    with trio.fail_after(5), pytest.RaisesGroup(InternalError) as caught:
        async with trio.open_nursery() as nursery:
            Services(nursery).start_service(crash, cause)
            await trio.sleep_forever()
    assert caught.value.exceptions[0].__cause__ is cause


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


async def test_a_callback_is_cancelled_with_what_surrounds_the_client():
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
        pytest.fail("the cancellation got lost")
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


async def test_finish_gives_the_result_of_the_cleanup():
    with trio.fail_after(5):
        async with open_services(Closing()) as services:
            assert await services.finish(add, 1, 2) == 3
            assert await services.finish(trio.lowlevel.checkpoint) is None


async def test_finish_raises_what_the_cleanup_raises_and_the_client_lives():
    error = FineError()
    with trio.fail_after(5):
        async with open_services(Closing()) as services:
            with pytest.raises(FineError) as caught:
                await services.finish(crash, error)
            assert caught.value is error
            assert services.failures == []
            assert await services.finish(add, 1, 2) == 3


async def test_finish_runs_to_its_end_though_everything_around_it_is_cancelled(autojump_clock):
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


async def test_finish_that_is_stopped_half_way_is_told_as_what_it_is(autojump_clock):
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
    """Run it; give the KeyboardInterrupt that comes out, or None."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        trio.run(async_fn)
    except KeyboardInterrupt as exc:
        return exc
    return None


def test_ctrl_c_while_the_body_waits_leaves_as_itself_after_the_close_sequence():
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


def test_ctrl_c_while_it_closes_is_raised_after_the_whole_close_sequence():
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


def test_ctrl_c_during_a_failing_cleanup_wins():
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


def test_ctrl_c_in_the_middle_of_the_wait_is_given_instead_of_raised():
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


async def test_waiting_for_what_is_done_already_gives_no_interrupt():
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
