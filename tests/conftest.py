"""What every test gets: the hypothesis profile, and the proof that it left nothing behind.

Profiles, chosen by ``HYPOTHESIS_PROFILE``: ``dev`` (the default), ``ci`` (the default where ``CI=true``), ``long``.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

from trio_codex.testing import assert_nothing_left

settings.register_profile("dev", deadline=None)
# The same inputs at each run: what fails there is what the change broke. New inputs are for the other two.
settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True)
settings.register_profile(
    "long", deadline=None, max_examples=5000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev")
)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Fail the test that leaves a child process, a thread or a descriptor."""
    with assert_nothing_left():
        yield
