"""The hidden nursery: its exceptions, the order in which it closes, and its behavior on cancellation."""

# these tests are about exceptions that leave a whole nursery

import contextlib

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from runtime.close_sequences import Closing, FineError, assert_transparent, crash
from trio_codex._link.services import Services, open_services
from trio_codex.errors import InternalError

# -- the body --------------------------------------------------------------------------------------------


async def test_a_body_that_returns_is_followed_by_the_close_sequence_and_nothing_is_raised():
    close = Closing()
    with trio.fail_after(5):
        async with open_services(close) as services:
            services.start_service(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            assert close.runs == 0
    assert close.runs == 1


async def test_exceptions_from_the_body_propagate_unchanged(error):
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


async def test_the_cause_and_context_of_the_bodys_exception_are_kept():
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


async def test_a_cancellation_during_the_close_sequence_passes_through_after_it():
    async def work():
        scope.cancel()
        await trio.lowlevel.checkpoint()

    close = Closing(work)
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_services(close):
            pass
        assert close.runs == 1
        await trio.lowlevel.checkpoint()
        pytest.fail("the cancellation was swallowed")
    assert scope.cancelled_caught


async def test_a_body_that_swallows_the_cancellation_and_returns_does_not_hide_it():
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_services(Closing()):
            scope.cancel()
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        pytest.fail("the cancellation was swallowed")
    assert scope.cancelled_caught


async def test_cancelling_a_body_with_its_own_nursery_leaves_no_exception_group():
    with trio.fail_after(5):
        with trio.CancelScope() as scope:
            async with open_services(Closing()), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_a_body_that_fails_while_cancelled_raises_its_own_error():
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


async def test_a_service_that_returns_does_not_end_the_others():
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


async def test_a_failing_service_cancels_the_body_and_raises_an_internal_error(autojump_clock):
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


async def test_a_body_that_fails_when_a_service_cancels_it_raises_no_cancelled():
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


async def test_a_service_that_fails_is_reported_even_if_the_body_returns():
    cause = ValueError("bug")
    with trio.fail_after(5), pytest.raises(InternalError) as caught:
        async with open_services(Closing()) as services:
            services.start_service(crash, cause)
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep_forever()
    assert caught.value.__cause__ is cause


async def test_the_bodys_error_takes_precedence_over_a_failed_service_and_notes_it(error):
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


async def test_a_service_that_fails_while_it_is_stopped_is_reported():
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
async def test_system_exit_in_a_task_takes_precedence_over_everything(exit_request, body_fails):
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


async def test_a_failed_service_crashes_the_callers_nursery_with_an_internal_error():
    cause = ValueError("bug")
    with trio.fail_after(5), pytest.RaisesGroup(InternalError) as caught:
        async with trio.open_nursery() as nursery:
            Services(nursery).start_service(crash, cause)
            await trio.sleep_forever()
    assert caught.value.exceptions[0].__cause__ is cause
