"""Transient failures, and retrying work that failed with one."""

import itertools
from functools import partial

import pytest
import trio
import trio.testing

from trio_codex import (
    TurnResult,
    errors,
    is_transient_error,
    open_codex,
    retry_on_overload,
    retry_transient,
    wire,
)
from trio_codex._core.rpc import rpc_error
from trio_codex.testing import MockModel, offline_home


def failed(info, message="no"):
    error = wire.decode(wire.TurnError, {"message": message, "codexErrorInfo": info})
    return errors.TurnFailed(TurnResult(id="u", thread_id="t", status="failed", error=error))


def status(name, code=None):
    return failed({name: {"httpStatusCode": code}})


@pytest.mark.parametrize(
    "error",
    [
        rpc_error(-32001, "overloaded", None, "thread/list"),
        failed("rateLimitExceeded"),
        failed("serverOverloaded"),
        failed("flexUnavailable"),
        failed("internalServerError"),
        status("responseTooManyFailedAttempts", 429),
        status("responseTooManyFailedAttempts"),
        status("httpConnectionFailed", 503),
        status("httpConnectionFailed"),
        status("responseStreamConnectionFailed", 408),
        status("responseStreamDisconnected"),
        failed("other", "stream disconnected before completion: stream closed before response.completed"),
    ],
    ids=str,
)
def test_transient_failures_are_recognized(error):
    assert is_transient_error(error)


@pytest.mark.parametrize(
    "error",
    [
        failed("usageLimitExceeded"),
        failed("contextWindowExceeded"),
        failed("badRequest"),
        failed("unauthorized"),
        failed("cyberPolicy"),
        failed("other"),
        failed("somethingNew"),
        failed({"somethingNew": {"httpStatusCode": 503}}),
        failed(None),
        status("httpConnectionFailed", 401),
        status("responseTooManyFailedAttempts", 400),
        errors.TurnFailed(TurnResult(id="u", thread_id="t", status="failed")),
        errors.TurnLost("gone"),
        errors.ConnectionBroken("gone"),
        errors.BudgetExceeded("turn", "tokens", 1, 2),
        ExceptionGroup("several", [failed("serverOverloaded")]),
        KeyboardInterrupt(),
    ],
    ids=lambda error: f"{type(error).__name__}-{getattr(getattr(error, 'result', None), 'error', None)}"[:80],
)
def test_other_failures_are_not_transient(error):
    assert not is_transient_error(error)


async def test_work_is_retried_with_growing_delays_until_it_succeeds(autojump_clock):
    called_at = []

    async def work():
        await trio.lowlevel.checkpoint()
        called_at.append(trio.current_time())
        if len(called_at) < 4:
            raise failed("serverOverloaded")
        return "done"

    assert await retry_transient(work, initial_delay=1, max_delay=3, jitter=0) == "done"
    assert [later - earlier for earlier, later in itertools.pairwise(called_at)] == [1, 2, 3]


@pytest.mark.parametrize(("error", "calls"), [(failed("serverOverloaded"), 3), (failed("badRequest"), 1)])
async def test_the_last_failure_and_permanent_failures_are_raised(error, calls, autojump_clock):
    called = []

    async def work():
        await trio.lowlevel.checkpoint()
        called.append(1)
        raise error

    with pytest.raises(errors.TurnFailed) as caught:
        await retry_transient(work, attempts=3)
    assert caught.value is error
    assert len(called) == calls


@pytest.mark.real
async def test_work_refused_by_the_model_is_retried_on_a_new_thread():
    async with MockModel() as model:
        model.fail(429)
        model.fail(503)
        model.fail_event("server_is_overloaded")
        model.cut("Half an ")
        model.say("Here I am.")
        with offline_home(model) as home:
            async with open_codex(home.config()) as codex:

                async def ask():
                    async with await codex.thread_start(ephemeral=True) as thread:
                        return (await thread.run("Are you there?")).final_response

                with trio.fail_after(20):
                    assert await retry_transient(ask, initial_delay=0.01) == "Here I am."
        assert all(
            len(request.input_texts) == len(model.requests[0].input_texts) for request in model.requests
        )


@pytest.mark.real
async def test_retry_on_overload_adds_a_note_about_retry_transient_to_a_failed_turn():
    async with MockModel() as model:
        model.fail(429)
        model.fail(400)
        with offline_home(model) as home:
            async with open_codex(home.config()) as codex:
                notes = []
                for _ in range(2):
                    thread = await codex.thread_start(ephemeral=True)
                    with pytest.raises(errors.TurnFailed) as caught:
                        await retry_on_overload(partial(thread.run, "Are you there?"))
                    notes.append(getattr(caught.value, "__notes__", []))
        assert len(model.requests) == 2
    assert notes == [["retry_on_overload() does not repeat a turn that failed; retry_transient() does."], []]


@pytest.mark.parametrize("retry", [retry_transient, retry_on_overload])
async def test_a_call_in_place_of_a_function_is_refused_with_a_hint(retry):
    async def work():
        await trio.lowlevel.checkpoint()

    with pytest.raises(TypeError, match=r"fn expects a function, got a coroutine: write lambda: thread\.run"):
        await retry(work())
