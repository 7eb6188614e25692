"""The check for leftovers: what it finds, what it waits for, and what it ignores."""

import os
import subprocess
import sys
import threading

import pytest
import trio

from trio_codex.testing import assert_nothing_left

NAMED = "open('/proc/self/comm', 'wb').write(b'caf\\xe9'); print(flush=True); input()"
"""A process whose name is not UTF-8."""


@pytest.fixture
def release():
    """Ends everything that a test left behind."""
    done = threading.Event()
    yield done
    done.set()


def test_leftover_descriptors_threads_and_processes_are_found(release):
    with pytest.raises(AssertionError, match=r"left behind: descriptor .*, process .*, thread .*") as caught:  # noqa: SIM117
        with assert_nothing_left(grace=0.05):
            reader, writer = os.pipe()
            thread = threading.Thread(target=release.wait, name="stays")
            thread.start()
            process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    release.set()
    thread.join()
    process.communicate()
    os.close(reader)
    os.close(writer)
    assert "(stays)" in str(caught.value)
    assert f"process {process.pid}" in str(caught.value)


def test_ending_things_get_a_grace_period_and_ignored_ones_may_stay(release):
    with assert_nothing_left():
        thread = threading.Timer(0.1, lambda: None)
        thread.start()
    assert not thread.is_alive()
    with assert_nothing_left(ignore=["thread * (stays)"]):
        thread = threading.Thread(target=release.wait, name="stays")
        thread.start()
    release.set()
    thread.join()


def test_a_process_with_any_bytes_in_its_name_is_found():
    with pytest.raises(AssertionError, match=r"process \d+ \(caf\\xe9\)"):  # noqa: SIM117
        with assert_nothing_left(ignore=["descriptor *"], grace=0.05):
            process = subprocess.Popen(
                [sys.executable, "-c", NAMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            process.stdout.readline()
    process.communicate(b"\n")


def test_processes_that_end_during_the_inventory_are_ignored():
    several = subprocess.Popen(["sh", "-c", "while :; do (/bin/true); done"])
    try:
        for _ in range(1500):
            with assert_nothing_left(ignore=["process *"]):
                pass
    finally:
        several.kill()
        several.wait()


async def test_a_leftover_task_is_found_in_every_nursery_of_the_run():
    async def inner(task_status):  # noqa: ASYNC114
        async with trio.open_nursery() as deeper:
            deeper.start_soon(trio.sleep_forever, name="the one that stays")
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError, match=r"task .*, task the one that stays"):
            async with assert_nothing_left(grace=0):
                await nursery.start(lambda task_status: inner(task_status))
        async with assert_nothing_left(grace=0):
            pass
        nursery.cancel_scope.cancel()


async def test_an_ending_task_gets_a_grace_period_in_trio_time(autojump_clock):
    async with trio.open_nursery() as nursery, assert_nothing_left(grace=60):
        nursery.start_soon(trio.sleep, 0.5)
    assert 0.5 <= trio.current_time() < 1


async def test_an_exception_from_the_body_propagates_unchanged(release):
    async with trio.open_nursery() as nursery:
        with pytest.raises(ZeroDivisionError):
            async with assert_nothing_left(grace=0):
                nursery.start_soon(trio.sleep_forever)
                raise ZeroDivisionError
        nursery.cancel_scope.cancel()
    with trio.CancelScope() as scope:
        async with assert_nothing_left(grace=0):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_synchronous_form_is_rejected_inside_a_run():
    with pytest.raises(RuntimeError, match="async with"), assert_nothing_left():
        pass
