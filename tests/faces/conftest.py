"""Fixtures that press Ctrl-C at random moments, for both faces."""

import os
import random
import signal
import threading
import time

import pytest


@pytest.fixture
def attack():
    """Press Ctrl-C at random moments after each call, once or several times."""

    chance = random.Random(0)
    go, fired, stop = threading.Event(), threading.Event(), threading.Event()

    def press():
        while True:
            go.wait()
            go.clear()
            if stop.is_set():
                return
            for _ in range(chance.choice((1, 1, 2))):
                time.sleep(chance.uniform(1e-5, 4e-3))
                os.kill(os.getpid(), signal.SIGINT)
            fired.set()

    thread = threading.Thread(target=press, daemon=True)
    thread.start()

    def attacked(function):
        """Call a function while Ctrl-C is pressed. Return how many interrupts the function or this one caught."""
        fired.clear()
        seen = 0
        try:
            go.set()
            function()
        except KeyboardInterrupt:
            seen += 1
        while True:
            try:
                fired.wait()
                time.sleep(0.002)
                return seen
            except KeyboardInterrupt:
                seen += 1

    yield attacked
    stop.set()
    go.set()
    thread.join()
