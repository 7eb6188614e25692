"""Each of the 55 scenarios in the official SDK's test suite has a test here, or a reason not to.

The tests are in ``tests/integration/test_scenarios_*.py``; their names contain the numbers.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAST = 55

ELSEWHERE = {
    3: (
        "The same with a real account. All parts run offline: start and models (1, 2), a turn with usage (4, 5), streaming (11), continuing after an interrupt (17), every example script.",
        "tests/test_examples.py::test_example_prints_the_expected_output",
    ),
    50: (
        "Unknown and invalid notifications: the pinned server sends none.",
        "tests/wire/test_wire_reading.py::test_a_notification_never_raises",
    ),
    51: (
        "Events that arrive before their turn is known: the pinned server cannot be made to send them.",
        "tests/turns/test_turn.py::test_events_before_the_response_are_kept_but_not_those_of_other_turns",
    ),
    52: (
        "Concurrent first use: impossible, because opening is a scope. A failed handshake closes the client.",
        "tests/client/test_open.py::test_a_server_that_refuses_the_handshake",
    ),
    54: (
        "The goal router is how the official SDK implements 36 to 44, whose tests cover its visible behavior.",
        "tests/integration/test_scenarios_goals.py::test_s40_a_steer_reaches_the_goals_second_turn",
    ),
}
"""Scenarios without a test of that number: the reason, and a test that covers them."""


def scenario_tests() -> dict[int, list[str]]:
    """Return the tests of each number."""
    found: dict[int, list[str]] = {}
    for path in (ROOT / "tests" / "integration").glob("test_scenarios_*.py"):
        for name, numbers in re.findall(
            r"^(?:async )?def (test_((?:s\d+_)+)\w+)\(", path.read_text(), re.MULTILINE
        ):
            for number in re.findall(r"\d+", numbers):
                found.setdefault(int(number), []).append(name)
    return found


def test_every_scenario_has_either_a_test_or_a_reason() -> None:
    assert sorted([*scenario_tests(), *ELSEWHERE]) == list(range(1, LAST + 1))


@pytest.mark.parametrize("number", ELSEWHERE)
def test_the_tests_named_elsewhere_exist(number: int) -> None:
    path, _, name = ELSEWHERE[number][1].partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()
